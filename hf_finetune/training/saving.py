"""Saving a model so that what lies in the folder is what was trained."""

from __future__ import annotations

from pathlib import Path

from transformers import Trainer

from hf_finetune.models.loading import verify_saved


def save_verified(trainer: Trainer) -> None:
    """Save model and tokenizer to `output_dir`, load the model again and compare; every rank calls it.

    Raises `ModelError` where the saved model's logits differ.
    """
    folder = Path(str(trainer.args.output_dir))
    trainer.save_model()
    if trainer.is_world_process_zero():
        # A pickle of the arguments, Hub token and local paths included: nothing that a model folder should carry.
        (folder / "training_args.bin").unlink(missing_ok=True)
        verify_saved(trainer.accelerator.unwrap_model(trainer.model), folder)
    trainer.accelerator.wait_for_everyone()
