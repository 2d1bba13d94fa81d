"""A run resumes from its own checkpoints only: the optimizer state is a pickle, which must be one that it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_finetune.config.document import RunDocument
from hf_finetune.config.paths import expand_user

KEY = ("train", "resume_from_checkpoint")


def check_resume(document: RunDocument, run: Any) -> None:
    """Refuse a checkpoint outside `output_dir`; a foreign one can be loaded as a model, from its safetensors."""
    # torch.load of optimizer.pt and rng_state.pth runs code in old versions (CVE-2025-32434 before torch 2.6,
    # CVE-2026-24747 before 2.10). Can go once Trainer keeps these states in safetensors.
    checkpoint = run.train.resume_from_checkpoint
    if not isinstance(checkpoint, str) or document.is_refused(".".join(KEY), "output_dir"):
        return
    place, folder = Path(expand_user(checkpoint)).resolve(), Path(expand_user(run.output_dir)).resolve()
    if place.parent == folder:
        return
    what = f"{checkpoint} is no checkpoint of {run.output_dir}, and others' optimizer states are not opened"
    document.refuse(KEY, what, "name the run's own output_dir, or start from the weights alone with model.path")
