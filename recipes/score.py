"""Score: evaluate a saved model or adapter on rows that it was not trained on, optionally beside its base.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/score.py recipes/configs/score.yaml

Nothing is trained: steps 3 to 5 of the other recipes are missing. `hf-finetune score` does the same. The report is
written to `output_dir`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_finetune.errors import user_errors
from hf_finetune.evaluation import load_scored_rows, score_model
from hf_finetune.run import finish_scoring, record_inputs, start_scoring


def main(argv: Sequence[str]) -> None:
    # 1. Settings
    run = start_scoring(argv)

    # 2. Data: files -> checked rows of the kind that the model reads
    splits = load_scored_rows(run)
    record_inputs(run, None, splits)

    # 6. Evaluate: the model as it was saved, then its base
    scored = score_model(run, splits)

    # 7. Report and push
    finish_scoring(run, scored)


if __name__ == "__main__":
    with user_errors():
        main(sys.argv[1:])
