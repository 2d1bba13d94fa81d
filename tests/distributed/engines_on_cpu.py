"""Runs a script under FSDP2 on CPU processes: `torchrun --nproc-per-node 2 on_cpu_engines.py recipes/sft.py run.yaml`.

torch's `fully_shard` works on a CPU mesh over gloo, and accelerate's own code around it does; but accelerate (1.15,
state.py, `AcceleratorState.__init__`) looks for ACCELERATE_USE_FSDP only where the processes have GPUs. This lifts that
one condition, for tests. Nothing of the product reads it.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from hf_finetune.config.checks.launch import engine


def allow_fsdp_on_cpu() -> None:
    """Let `AcceleratorState` take CPU processes for what their environment asks for, and our own check of it pass."""
    engine.needs_gpu = lambda _: False
    init = AcceleratorState.__init__

    def lifted(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            # The lines of accelerate that follow its condition.
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = lifted


if __name__ == "__main__":
    allow_fsdp_on_cpu()
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
