"""Trackers for `train.report_to`: they write into the run folder, work offline, and leave out facts of the machine."""

from __future__ import annotations

import copy
import io
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import Any

from huggingface_hub import is_offline_mode
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.integration_utils import (
    MLflowCallback,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
    rewrite_logs,
)

from hf_finetune.privacy import redact

# Of the arguments these are in no log: tokens, and places on the Hub.
NOT_LOGGED = ("_token", "_id")

# By default wandb records machine, user, code and repository.
WANDB_KEEPS_OUT = {
    "WANDB_DISABLE_CODE": "true",
    "WANDB_DISABLE_GIT": "true",
    "WANDB_X_DISABLE_META": "true",
    "WANDB_HOST": "not-said",
    "WANDB_USERNAME": "not-said",
    "WANDB_CONSOLE": "off",
    "WANDB_SILENT": "true",
}

# By default MLflow records user and script, and sends its makers what is called.
MLFLOW_KEEPS_OUT = {
    "MLFLOW_RUN_CONTEXT": json.dumps({"mlflow.user": "not-said", "mlflow.source.name": "hf-finetune"}),
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# Where an experiment keeps its files. A place without a path: MLflow 3 would write that of the working folder, and the
# Trainer gives it no files to keep.
MLFLOW_FILES = "mlflow-artifacts:/"


def redirect_trackers(output_dir: str, report_to: Sequence[str]) -> None:
    """Make trackio, wandb and MLflow write into the run folder; call it before the Trainer imports them.

    Environment variables that are set already keep their values. wandb is offline wherever the Hub is.
    """
    if "trackio" in report_to:
        os.environ.setdefault("TRACKIO_DIR", str(Path(output_dir, "trackio").resolve()))
    if "wandb" in report_to:
        for name, value in ({"WANDB_DIR": output_dir} | WANDB_KEEPS_OUT).items():
            os.environ.setdefault(name, value)
        if is_offline_mode():
            os.environ.setdefault("WANDB_MODE", "offline")
    if "mlflow" in report_to:
        database = f"sqlite:///{Path(output_dir, 'mlflow', 'mlflow.db').resolve().as_posix()}"
        for name, value in ({"MLFLOW_TRACKING_URI": database} | MLFLOW_KEEPS_OUT).items():
            os.environ.setdefault(name, value)


def replace_trackers(trainer: Trainer) -> None:
    """Replace the Trainer's trackers by ours, behind the other callbacks, so that metrics added by these are logged."""
    output_dir = Path(str(trainer.args.output_dir))
    if trainer.pop_callback(TensorBoardCallback) is not None:
        trainer.add_callback(TensorBoardFile(output_dir / "tensorboard"))
    if trainer.pop_callback(TrackioCallback) is not None:
        trainer.add_callback(LocalTrackio())  # type: ignore[no-untyped-call]
    if trainer.pop_callback(WandbCallback) is not None:
        trainer.add_callback(PlainWandb())  # type: ignore[no-untyped-call]
    if trainer.pop_callback(MLflowCallback) is not None:
        trainer.add_callback(LocalMLflow(output_dir / "mlflow"))


class TensorBoardFile(TrainerCallback):
    """Write all logged metrics into one TensorBoard event file."""

    # torch 2.13's SummaryWriter puts the host name into the file name. Can go when the name can be chosen.

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: io.BufferedWriter | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = (self.folder / f"events.out.tfevents.{time.time_ns()}").open("xb")
            self._write(file_version="brain.Event:2")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._file is None:
            return
        from tensorboard.compat.proto.summary_pb2 import Summary

        numbers = {name: value for name, value in rewrite_logs(logs).items() if isinstance(value, int | float)}
        values = [Summary.Value(tag=name, simple_value=_as_float32(value)) for name, value in numbers.items()]
        self._write(step=state.global_step, summary=Summary(value=values))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, **parts: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._file is not None:
            RecordWriter(self._file).write(Event(wall_time=time.time(), **parts).SerializeToString())
            self._file.flush()


class LocalTrackio(TrackioCallback):
    """transformers' trackio callback without output, paths and user name, closed when training ends."""

    # As it stands (trackio 0.43, transformers 5.23) it asks the Hub for the user's name, and metrics that are logged
    # after training open a second run. Can go when trackio takes no namespace for a local run.

    def setup(self, args: TrainingArguments, state: TrainerState, model: Any = None, **kwargs: Any) -> None:
        if args.trackio_space_id is None:
            sys.modules["trackio.run"].__dict__["_get_default_namespace"] = lambda: None
        with redirect_stdout(io.StringIO()):
            super().setup(redact_arguments(args), state, None)  # type: ignore[no-untyped-call]

    def on_log(self, args: Any, state: Any, control: Any, model: Any = None, logs: Any = None, **kwargs: Any) -> None:
        if self._initialized:
            super().on_log(args, state, control, model, logs, **kwargs)  # type: ignore[no-untyped-call]

    def on_predict(self, *args: Any, **kwargs: Any) -> None: ...

    def on_train_end(self, args: Any, state: Any, control: Any, *others: Any, **kwargs: Any) -> None:
        with redirect_stdout(io.StringIO()):
            super().on_train_end(args, state, control, *others, **kwargs)


class PlainWandb(WandbCallback):
    """transformers' wandb callback without paths; metrics logged after training are left out."""

    def setup(self, args: TrainingArguments, state: TrainerState, model: Any = None, **kwargs: Any) -> None:
        super().setup(redact_arguments(args), state, None)  # type: ignore[no-untyped-call]

    def on_log(self, args: Any, state: Any, control: Any, model: Any = None, logs: Any = None, **kwargs: Any) -> None:
        if self._initialized:
            super().on_log(args, state, control, model, logs, **kwargs)  # type: ignore[no-untyped-call]

    def on_predict(self, *args: Any, **kwargs: Any) -> None: ...


class LocalMLflow(MLflowCallback):
    """transformers' MLflow callback without paths and user name, closed when training ends."""

    def __init__(self, folder: Path) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.folder = folder

    def setup(self, args: TrainingArguments, state: TrainerState, model: Any = None, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._make_database()
        super().setup(redact_arguments(args), state, None)  # type: ignore[no-untyped-call]

    def _make_database(self) -> None:
        """Make the database of the run folder, where that is where the runs are kept and it is not there yet."""
        # MLflow 3.17 gives a new database an experiment whose files lie in the working folder, by its path. Can go when
        # the place is settable in the environment.
        database = self.folder / "mlflow.db"
        uri = os.environ["MLFLOW_TRACKING_URI"]
        if uri == f"sqlite:///{database.resolve().as_posix()}" and not database.exists():
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            self.folder.mkdir(parents=True, exist_ok=True)
            SqlAlchemyStore(uri, MLFLOW_FILES)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, model: Any = None, **kwargs: Any) -> None:
        if self._initialized:
            super().on_log(args, state, control, logs, model, **kwargs)  # type: ignore[no-untyped-call]

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_end(args, state, control, **kwargs)  # type: ignore[no-untyped-call]
        self._initialized = False  # what is logged now would open a second run


def redact_arguments(args: TrainingArguments) -> TrainingArguments:
    """Return a copy that is safe to log: redacted, and the run is named."""
    # output_dir "/mnt/out/sft" -> "sft", hub_token "hf_..." -> None, run_name None -> "sft"
    copied = copy.copy(args)
    for field in fields(args):
        value = None if field.name.endswith(NOT_LOGGED) else redact(getattr(args, field.name))
        setattr(copied, field.name, value)
    copied.run_name = copied.run_name or Path(str(args.output_dir)).resolve().name
    return copied


def _as_float32(value: float) -> float:
    """Return infinity for a value beyond float32, which protocol buffers refuse."""
    return math.copysign(math.inf, value) if abs(value) > 3.4028234e38 else value
