"""A run file and its overrides -> values, each with its place.

yaml_reader.py  YAML -> plain values with the line of each key; tags construct nothing
overrides.py    `section.key=value` on the command line
document.py     the values, their places, and the problems found in them
deprecated.py   names that the stack has dropped: translated, or refused with the remedy
"""
