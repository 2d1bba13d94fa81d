"""The Trainers of the recipes.

resumable.py       transformers' Trainer with our checkpoints, signals and exact resume
meeting.py         where the processes of a run meet in a step, and how long they wait there
base.py            the mixin that they share, and the Trainer of documents
sft.py             TRL's SFTTrainer for tokenized conversations
token_loss.py      the loss of each token, of logits that are held once
classification.py  a Trainer for classifiers, and its loss
samplers.py        the order in which rows are trained and evaluated
parts.py           the parts of a stream, as epochs
repeated_rows.py   those that several processes have twice are trained once
"""
