"""A classifier labels a file of any length.

predict.py  rows streamed in constant memory, batched by length
rows.py     lines -> texts; logits -> the same lines with fields added
"""
