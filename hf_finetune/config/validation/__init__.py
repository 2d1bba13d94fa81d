"""TODO face of hf_finetune/config/validation."""
