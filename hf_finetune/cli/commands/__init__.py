"""One file a command; each imports what it needs when it is called.

train.py     launch a run
score.py     evaluate a saved model on rows
predict.py   label a file of rows
generate.py  `generate` and `chat`
report.py    the page of a run, or of several
watch.py     a run while it goes on
diagnose.py  findings from the log of a run
model.py     a model folder without a model hub
init.py      recipes and run files to copy
doctor.py    this machine
cache.py     what earlier runs have read and tokenized
release/     what becomes of a model: `merge`, `export` and `push`
preflight/   about rows, before a run: `corpus`, `rows`, `new`, `check`, `tokens` and `explain`
"""
