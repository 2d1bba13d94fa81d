"""TODO face of hf_finetune/models/adapters."""
