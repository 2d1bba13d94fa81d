"""Checkpoints of a run: what is in them, how they are written beside training, and how a run goes on from one.

saver           when a run saves and what; what a Trainer calls
model_files     what a saved model consists of, and its live tensors
record          whether a run that goes on is the one that was saved
state, codec    optimizer, schedule and callbacks as JSON and tensors
likeness        whether a state is of the kind that its object keeps
random_state    random generators
writer          the copy in memory and the thread
disk            files, manifest, verification, and what gives way where there is no space
room            how much of the disk a run needs
"""
