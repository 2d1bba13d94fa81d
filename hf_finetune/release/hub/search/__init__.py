"""What must not leave in a push: secrets, and paths of this machine, in whatever form a file holds them.

places.py       the lines of each file with one of either, in one pass
decoded.py      the forms of a file's text
decoders.py     how a text is written as other letters
home_paths.py   what is a path of this machine
"""
