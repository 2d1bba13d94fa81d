"""The figures of causal language models.

trainer_metrics.py  loss, perplexity, token accuracy and bits per byte while a run trains
metrics.py          the same over rows of text, and for many resamples of the rows at once
by_row.py           sums of examples -> sums of the rows that they are of
base_scores.py      what a run tunes, scored before the first step and compared after the last
row_scores.py       the sums of each row, in the run folder and in the cache of base models
answers.py          generated answers beside their references
"""
