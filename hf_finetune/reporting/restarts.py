"""The restarts of a run by `--max-restarts`, in words."""

from __future__ import annotations

from hf_finetune.reporting.run_record import RunRecord


def describe_restarts(run: RunRecord) -> list[str]:
    """Say of each restart from which step the run went on, and why; [] of a run that was never started again.

    "at step 8, since a machine was lost (1 of 2 machines left, 2 of 4 processes)".
    """
    said = []
    for restart in run.report.get("distributed", {}).get("restarts", []):
        step = restart.get("step")
        # Lost once more before it had begun to train.
        where = "before training" if step is None else f"at step {step:,}"
        counts = [restart.get(name) for name in ("machines", "processes")]
        left = [f"{after:.0f} of {before:.0f}" for before, after in filter(_is_pair, counts) if after < before]
        fewer = f" ({left[0]} machines left, {left[1]} processes)" if len(left) == 2 else ""
        said.append(f"{where}, since a {restart.get('lost')} was lost{fewer}")
    return said


def _is_pair(counts: object) -> bool:
    return isinstance(counts, list) and len(counts) == 2
