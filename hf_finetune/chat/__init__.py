"""TODO face of hf_finetune/chat."""
