"""A classifier labels a file of any length.

predict.py       rows streamed in constant memory, batched by length
rows.py          lines -> what is read of them; the same lines with fields added, for `generate`, too
texts.py         the texts of a row
added_fields.py  logits -> the fields that a row gets
"""
