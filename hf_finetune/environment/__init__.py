"""TODO face of hf_finetune/environment."""
