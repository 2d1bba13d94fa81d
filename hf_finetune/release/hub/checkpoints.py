"""Checkpoints pushed while the run goes on, in a thread of their own that never stops it."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_finetune.config.sections import HubSection
from hf_finetune.errors import FinetuneError
from hf_finetune.models.adapter_files import ADAPTER_CONFIG, base_of, edit_adapter_config, portable
from hf_finetune.release.hub.files import CARD, allowed_files, planned_files
from hf_finetune.release.hub.requests import in_words
from hf_finetune.release.hub.secrets import check_secrets
from hf_finetune.release.hub.transfer import PushOptions, transfer

logger = logging.getLogger(__name__)

BRANCH = "checkpoints"
# Of the run that was before, or an empty form of peft's.
_NOT_OF_A_CHECKPOINT = (CARD, "report.html", "report.json", "run.yaml", "manifest.json")


def checkpoint_branch(hub: HubSection) -> str:
    """Where checkpoints go: beside the finished model, which alone is what its branch holds."""
    return BRANCH if hub.revision is None else f"{hub.revision}-{BRANCH}"


class PushCheckpoints(TrainerCallback):
    """Save each `hub.push_every` steps, and push what was saved to the branch of checkpoints, one at a time.

    Where one is still under way, only the newest waits behind it. A failure is logged when it happens; the next push
    is the next try. The end of training waits for the last one. Every rank has it, since all save; rank 0 pushes.
    """

    def __init__(self, hub: HubSection, patience: float = 60.0) -> None:
        self.hub = hub
        self.patience = patience
        self.pushed: list[int] = []
        self.failed: list[int] = []
        self._lock = threading.Lock()
        self._waiting: tuple[int, Path] | None = None
        self._worker: threading.Thread | None = None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % int(self.hub.push_every or 1) == 0:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if not state.is_world_process_zero or state.global_step % int(self.hub.push_every or 1):
            return
        step, output = state.global_step, Path(str(args.output_dir))
        try:
            held = _hold(output / f"checkpoint-{step}", output / f".push-{step}")
        except (OSError, FinetuneError) as problem:
            self._note_failure(step, str(problem))
            return
        with self._lock:
            overtaken, self._waiting = self._waiting, (step, held)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="checkpoint pushes")
                self._worker.start()
        if overtaken is not None:
            logger.info("checkpoint-%d is not pushed: checkpoint-%d is newer", overtaken[0], step)
            shutil.rmtree(overtaken[1], ignore_errors=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        worker = self._worker
        # Others would wait for this process, and give up before a slow upload is done: it then ends by itself.
        if worker is not None and args.world_size == 1:
            worker.join()
        if self.failed:
            steps = ", ".join(str(step) for step in self.failed)
            logger.warning("checkpoints that were not pushed, %d of %d: %s", len(self.failed), self._tried, steps)

    @property
    def _tried(self) -> int:
        return len(self.failed) + len(self.pushed)

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._waiting is None:
                    self._worker = None
                    return
                (step, held), self._waiting = self._waiting, None
            try:
                self._push(step, held)
            except FinetuneError as problem:
                self._note_failure(step, str(problem))
            except Exception as problem:  # nothing that goes wrong here may stop the training
                self._note_failure(step, str(in_words(problem)))
            finally:
                shutil.rmtree(held, ignore_errors=True)

    def _push(self, step: int, held: Path) -> None:
        files = planned_files(held)
        check_secrets(files)
        options = PushOptions(
            public=not self.hub.private,
            revision=checkpoint_branch(self.hub),
            message=f"Checkpoint of step {step:,}",
            patience=self.patience,
        )
        facts = transfer(files, self.hub.repo_id, options)
        self.pushed.append(step)
        logger.info("checkpoint-%d pushed to %s, branch %s", step, facts.url, options.revision)

    def _note_failure(self, step: int, why: str) -> None:
        self.failed.append(step)
        logger.warning("checkpoint-%d was not pushed: %s; the next one is tried", step, why)


def _hold(checkpoint: Path, held: Path) -> Path:
    """Keep what is pushed of a checkpoint, which may be rotated away meanwhile; weights cost no room again."""
    shutil.rmtree(held, ignore_errors=True)
    held.mkdir()
    for name, path in allowed_files(checkpoint).items():
        if name in _NOT_OF_A_CHECKPOINT:
            continue
        (held / name).parent.mkdir(exist_ok=True)
        if path.suffix == ".safetensors":
            _link(path, held / name)
        else:
            shutil.copyfile(path, held / name)
    if (held / ADAPTER_CONFIG).exists():  # as peft writes it, with the path on this machine
        edit_adapter_config(held, {"base_model_name_or_path": portable(base_of(held))})
    return held


def _link(path: Path, link: Path) -> None:
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, link)
