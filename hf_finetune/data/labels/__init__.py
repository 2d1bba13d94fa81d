"""The labels of a classifier.

label_map.py  `data.labels`: the names that the model has, for those of the rows
freeze.py     their names and order, frozen from the training rows
checks.py     each known from training, distinct, in more than one row
balance.py    rare labels: rows resampled, or weights in the loss
"""
