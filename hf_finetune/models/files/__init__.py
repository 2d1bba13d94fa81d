"""The files of a model, before anything of them is loaded.

locate.py           where they are, at which commit, and whether they are complete
untrusted.py        settings that would run code or read outside the folder are refused
foreign_errors.py   what libraries raise on such files, said in one line
panics.py           what libraries in Rust write of them on standard error is held back
config_faults.py    the key of a config.json of which no model can be built
language_models.py  what cannot write is refused: encoders, and encoder-decoders
held.py             what a configuration asks for is what the files hold
quantized.py        those that hold quantized weights are tried once they are loaded
provenance.py       which files were read: their hashes, or the pinned commit
stamps.py           whether a folder is still what the run was checked with, once it is loaded
ancestors.py        the folders that a model was trained in: its own, and those of what it was tuned from
adapter.py          an adapter's base, recorded when it is saved and checked when it is loaded
"""
