"""Regular expressions that a library will match in this process, tried before in another one, on texts made for them.

known.py           those of published tokenizers, which are taken as they are
find.py            the others of a tokenizer.json, each with what is wrong with it
worker.py          the process that tries them, and how long each text takes
limits.py          the memory and the time that it has
oniguruma.py       what they match, in the syntax of `re`
worst_texts.py     texts that a pattern may be slow on
"""
