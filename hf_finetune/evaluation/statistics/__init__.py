"""How sure a figure is.

bootstrap.py    BCa intervals of all metrics of a split at once, of rows or of groups of rows
intervals.py    which of them can be shown, and shares of rows
paired_test.py  two models on the same rows: which metrics differ, and whether significantly
power.py        the smallest difference that so many rows can show
slices.py       metrics for each value of a field, and the largest gaps
"""
