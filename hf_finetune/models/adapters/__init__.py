"""LoRA and its kin.

attach.py         attach an adapter to a base, and save it with proof
targets.py        what `lora:` names, checked against the model's modules, layers, parameters and tokens
patterns.py       which modules a pattern of others names, in bounded time
continuing.py     go on training an adapter that is there
token_rows.py     embeddings of new tokens, trained with the adapter
whole_weights.py  what ZeRO-3 cannot split of it
loading.py        a saved adapter over its base
effect.py         whether it does anything
switching_off.py  whether an adapter that is switched off leaves its base
"""
