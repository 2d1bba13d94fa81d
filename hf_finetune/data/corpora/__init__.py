"""TODO face of hf_finetune/data/corpora."""
