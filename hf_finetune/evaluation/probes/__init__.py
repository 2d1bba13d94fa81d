"""What metrics over held-out rows do not see.

counterfactuals.py  the same rows with words swapped (he and she): how much the metrics change
swap_lists/         the words to swap
seen_rows.py        rows that were trained, by the records of the run and of those before it
memorization.py     canary exposure, and training rows that are continued verbatim
"""
