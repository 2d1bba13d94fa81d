"""`evaluate.Metric` modules: a file needs only those beside it, so that `evaluate.load("<its path>")` works offline.

`evaluate.load` takes the first metric class that it finds in a file: `from evaluate import Metric` would be it.
"""
