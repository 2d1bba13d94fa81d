"""What is wrong with rows that can be read: each looks at the splits of a run, and returns findings and counts.

texts             the texts of rows of any format, some thousand at a time
personal          what names a person, and what is a secret, by kind and line
personal_shapes   what each kind looks like, and what only looks like it
number_checks     card numbers, IBANs and addresses by their check digits and ranges
lookup            hashes in which many others are looked up
near_rows         pairs of rows that are nearly the same, by a sketch of each row that is looked for
duplicates        rows that are there twice, in one split or in two
drift             whether a classifier tells training rows from others
languages         in which languages texts are
benchmarks        training rows that share text with a file of rows
"""
