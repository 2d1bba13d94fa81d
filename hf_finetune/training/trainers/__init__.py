"""TODO face of hf_finetune/training/trainers."""
