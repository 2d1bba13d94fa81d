"""TODO face of hf_finetune/evaluation/classification."""
