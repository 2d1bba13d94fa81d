"""Rows -> token ids and labels.

text.py                texts -> ids; what spells a special token stays text
sure_prefix.py         the beginning of a long text, whose tokens are those of the whole
documents.py           documents -> blocks to train on, without losing a token
windows.py             documents -> windows to evaluate, each document by itself
conversations.py       exactly the assistant's turns are trained
turns.py               which of its turns are
conversation_stats.py  what became of them: counted, logged, too many left out refused
batches.py             rows in batches of so many bytes
rendered_rows.py       what a template writes of each row, and what of it is trained
examples.py            their tokens and labels, counted
spans.py               spans of characters -> ranges of tokens
labelled.py            labelled texts
packing.py             best-fit decreasing packing of whole examples
collators.py           examples of different lengths -> one batch
"""
