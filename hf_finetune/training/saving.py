"""Saving a model so that what lies in the folder is what was trained."""

from __future__ import annotations

from pathlib import Path

from transformers import Trainer

from hf_finetune.models.adapter_files import is_adapter
from hf_finetune.models.loading import verify_saved


def save_verified(trainer: Trainer) -> None:
    """Save model or adapter, and tokenizer, to `output_dir`, load it again and compare; every rank calls it.

    Of an adapter the base is loaded a second time for that. Raises `ModelError` where the saved logits differ.
    """
    folder = Path(str(trainer.args.output_dir))
    trainer.save_model()
    if trainer.is_world_process_zero():
        # A pickle of the arguments, Hub token and local paths included: nothing that a model folder should carry.
        (folder / "training_args.bin").unlink(missing_ok=True)
        model = trainer.accelerator.unwrap_model(trainer.model)
        if is_adapter(folder):
            from hf_finetune.models.adapters import save_adapter, verify_adapter  # peft: only where there is one

            (folder / "README.md").unlink(missing_ok=True)  # peft's form with nothing filled in
            save_adapter(model, folder)
            verify_adapter(model, folder)
        else:
            verify_saved(model, folder)
    trainer.accelerator.wait_for_everyone()
