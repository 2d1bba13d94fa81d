"""Push checkpoints during training, in a background thread whose failures never stop the run."""

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
from hf_finetune.folders import CARD
from hf_finetune.release.hub.files import find_allowed_files, plan_files
from hf_finetune.release.hub.redaction import redact_files
from hf_finetune.release.hub.retries import describe_error
from hf_finetune.release.hub.search.places import check_secrets
from hf_finetune.release.hub.transfer import PushOptions, transfer

logger = logging.getLogger(__name__)

BRANCH = "checkpoints"
# Files of an earlier run in the same folder; README.md may also be the template of a card that peft writes.
_NOT_OF_A_CHECKPOINT = (CARD, "report.html", "report.json", "run.yaml", "manifest.json")


def get_checkpoint_branch(hub: HubSection) -> str:
    """Name the branch of the checkpoints; the branch of the finished model holds nothing else."""
    return BRANCH if hub.revision is None else f"{hub.revision}-{BRANCH}"


class CheckpointPusher(TrainerCallback):
    """Save every `hub.push_every` steps, and push what was saved to the branch of the checkpoints, one at a time.

    While one is pushed, only the newest of the others waits. A failure is logged when it happens, and the next
    checkpoint is the next attempt. The end of training waits for the last push. Every rank needs the callback, since
    all ranks save; rank 0 pushes.
    """

    reads_checkpoints = True

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
            held = _copy_checkpoint(output / f"checkpoint-{step}", output / f".push-{step}.aside")
        except (OSError, FinetuneError) as problem:
            self._note_failure(step, str(problem))
            return
        with self._lock:
            overtaken, self._waiting = self._waiting, (step, held)
            if self._worker is None:
                self._worker = threading.Thread(target=self._run_worker, name="checkpoint pushes")
                self._worker.start()
        if overtaken is not None:
            logger.info("checkpoint-%d is not pushed: checkpoint-%d is newer", overtaken[0], step)
            shutil.rmtree(overtaken[1], ignore_errors=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        worker = self._worker
        # With several processes the others would wait at their next collective operation, and time out before a slow
        # upload is done. Python itself joins the thread when the process exits.
        if worker is not None and args.world_size == 1:
            worker.join()
        if self.failed:
            steps = ", ".join(str(step) for step in self.failed)
            logger.warning(
                "checkpoints that were not pushed, %d of %d: %s",
                len(self.failed),
                self._tried,
                steps,
                extra={"code": "HF815"},
            )

    @property
    def _tried(self) -> int:
        return len(self.failed) + len(self.pushed)

    def _run_worker(self) -> None:
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
            # Whatever goes wrong here must not stop the training.
            except Exception as problem:
                self._note_failure(step, str(describe_error(problem)))
            finally:
                shutil.rmtree(held, ignore_errors=True)

    def _push(self, step: int, held: Path) -> None:
        files = plan_files(held)
        found = check_secrets(files)
        options = PushOptions(
            public=not self.hub.private,
            revision=get_checkpoint_branch(self.hub),
            message=f"Checkpoint of step {step:,}",
            patience=self.patience,
        )
        facts = transfer(redact_files(held, files, found), self.hub.repo_id, options)
        self.pushed.append(step)
        logger.info("checkpoint-%d pushed to %s, branch %s", step, facts.url, options.revision)

    def _note_failure(self, step: int, why: str) -> None:
        self.failed.append(step)
        logger.warning("checkpoint-%d was not pushed: %s; the next one is tried", step, why, extra={"code": "HF815"})


def _copy_checkpoint(checkpoint: Path, held: Path) -> Path:
    """Copy the files of a checkpoint that are pushed; weights are hard links, which take no space."""
    # save_total_limit may delete the checkpoint while it waits or is pushed.
    shutil.rmtree(held, ignore_errors=True)
    held.mkdir(mode=0o700)
    for name, path in find_allowed_files(checkpoint).items():
        if name in _NOT_OF_A_CHECKPOINT:
            continue
        (held / name).parent.mkdir(exist_ok=True)
        if path.suffix == ".safetensors":
            _link(path, held / name)
        else:
            shutil.copyfile(path, held / name)
    return held


def _link(path: Path, link: Path) -> None:
    try:
        os.link(path, link)
    # A file system without hard links, such as exFAT.
    except OSError:
        shutil.copyfile(path, link)
