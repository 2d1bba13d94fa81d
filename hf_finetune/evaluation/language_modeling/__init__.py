"""TODO face of hf_finetune/evaluation/language_modeling."""
