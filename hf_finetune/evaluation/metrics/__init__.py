"""`evaluate.Metric` modules: each file stands alone, so that `evaluate.load("<path of the file>")` works offline.

`evaluate.load` takes the first metric class that it finds in a file: `from evaluate import Metric` would be it.
"""
