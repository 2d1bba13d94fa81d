"""What is trained, token by token: the rows of a run as the trainer is given them, or a text.

spans           what a view is made of
pieces          the text that each token stands for
settings        how a run makes tokens of its rows
rows            rows of a run, found by file and line
conversations   under their template, cut, split or left out, and packed
documents       in blocks and windows
labelled        texts to classify
typed           a text that is typed
terminal        views for a terminal or a pipe
page            views as a page
templates       of the page
"""
