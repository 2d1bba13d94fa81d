"""Prompts -> answers of a causal language model.

prompts.py          continuations and chat answers of a few prompts, reproducible
batch.py            answers of many prompts, in batches of similar length
answer_file.py      the rows of a file, in their order, with the answers of a model
answer_window.py    rows that are asked together -> their tokens, and their answers
asked_rows.py       what is asked of each row of a file
kept_rows.py        answered rows that a call which is typed again goes on behind
session.py          the model set up for `generate`, and restored afterwards
streaming.py        token ids -> pieces of text that can be shown at once
chat_session.py     an interactive chat: lines in, pieces of answers out
row_prompts.py      the questions that a run asks where its file names none: those of validation rows
sample_callback.py  the fixed prompts of a run, answered while it trains
display.py          samples formatted for a terminal
"""
