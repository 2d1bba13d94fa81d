"""Training a model that is split over processes: its state gathered to be saved, and given out again.

gather      weights and optimizer, whole, on the process that saves; and back to the parts
deepspeed   the same of what DeepSpeed keeps in its own way
"""
