"""LoRA and its kin.

attach.py      attach an adapter to a base, and save it with proof
targets.py     the module names in `lora:`, checked against the model's
continuing.py  go on training an adapter that is there
token_rows.py  embeddings of new tokens, trained with the adapter
loading.py     a saved adapter over its base
effect.py      whether it does anything
"""
