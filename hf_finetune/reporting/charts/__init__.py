"""TODO face of hf_finetune/reporting/charts."""
