"""Long texts, of which a tokenizer needs two to three hundred bytes of memory for each character: 4 GB for 15 MB.

borders     where a text can be cut so that its pieces have the tokens of the whole, by which tokenizers
pieces      a text tokenized piece by piece
"""
