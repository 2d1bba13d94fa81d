"""Names and files -> tokenizer and model."""
