"""Training a model that is split over processes: its state gathered to be saved, and given out again.

gather      weights and optimizer, whole, on the process that saves; and back to the parts
zero        the same of an optimizer that DeepSpeed has split
honored     what a launch asks for, and what was prepared
saved       what was saved, read back and compared
"""
