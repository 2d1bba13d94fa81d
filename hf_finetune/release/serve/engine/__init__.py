"""Many answers at once: a thread that generates a token of each at every step, new ones joining between steps.

jobs        what is asked of a model, and what it sends back
text        tokens -> text that is certain, up to a stop string
choice      logits -> the next token of each row, by its own settings
tools       calls of functions, as the model's template writes them
batch       the rows of one model, and their keys and values
lanes       the names that are served: a model, or one adapter of it
scheduler   the thread: who waits, who runs, who is stopped
"""
