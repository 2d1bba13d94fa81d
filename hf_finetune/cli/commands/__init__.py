"""TODO face of hf_finetune/cli/commands."""
