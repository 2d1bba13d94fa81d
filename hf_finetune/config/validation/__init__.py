"""Names and types of all keys; those of `train:` and `lora:` are the installed stack's.

run_file.py      the whole run file as one pydantic model
hf_settings.py   the settings classes of `train:` and `lora:`
known_keys.py    unknown names: what was meant
foreign_keys.py  the names that other tools have for our settings
messages.py      pydantic's errors in our words
as_written.py    the JSON Schema made to accept what the reader does
generate.py      writes the schema: `python -m hf_finetune.config.validation.generate`
"""
