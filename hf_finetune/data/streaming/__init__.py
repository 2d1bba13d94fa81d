"""Corpora that do not fit the disk twice: shards are read and tokenized on the way to the trainer, in parts.

plan.py        what a run asks of its stream, and what its checkpoint knows of it
shards.py      the sources that a run file names -> shards, local or behind a URL, in the order of a pass
position.py    where the next part begins
chunks.py      shards -> chunks of checked rows, from a position on
examples.py    what makes examples of a chunk: documents and conversations have one each
parts.py       a part: so many examples as an entry of the cache, and where the next one begins
feed.py        the data set that a trainer sees: one part after another, the next of which is made meanwhile
prints.py      prints of the rows of each part, appended to a file of the run
left_out.py    lines that are left out: counted, kept beside a part, named in the run folder
facts.py       what was read, for the report
stream.py      the training split of a run that streams
"""
