"""`python -m hf_finetune.cli`."""

from hf_finetune.cli import main

main()
