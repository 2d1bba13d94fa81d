"""The published shelf: `evaluate.Metric` modules over the formulas of the `*_functions.py` beside them.

`evaluate.load("<path of a module>")` works offline and without this package: a module needs only the files beside it.
The library itself calls the functions: `Metric.compute` puts every value into Arrow, a minute for 100,000 rows.

Two traps of `evaluate` (0.4): `load` copies what a module imports relatively but not what those files import, which
therefore import nothing from here; and it takes the first metric class that it finds in a file: `from evaluate import
Metric` would be it.
"""
