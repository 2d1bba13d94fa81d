"""Score: evaluate a saved model or adapter on rows that it was not trained on, optionally beside its base.

    accelerate launch --config_file accelerate_configs/cpu.yaml recipes/score.py recipes/configs/score.yaml

Nothing is trained: steps 3 to 5 of the other recipes are missing. `hf-finetune score` does the same. The report is
written to `output_dir`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_finetune.config import as_dict, dump_yaml, load_run
from hf_finetune.environment.facts import report_environment, versions
from hf_finetune.environment.logs import set_up_logging
from hf_finetune.errors import user_errors
from hf_finetune.evaluation.scoring import greedy, load_scored_rows, score
from hf_finetune.evaluation.scoring.distributed import join_processes, process_facts
from hf_finetune.models.files.provenance import model_source
from hf_finetune.reporting.run_folder import RunReport, claim_run_folder, open_manifest, write_run_folder
from hf_finetune.training.facts import launch_line, new_run_id


def main(argv: Sequence[str]) -> None:
    # 1. Settings
    run = greedy(load_run(argv, recipe="score"))
    claim_run_folder(run.output_dir, resume=None)
    processes = join_processes()
    set_up_logging(main_process=processes.is_main_process)

    # 2. Data: files -> checked rows of the kind that the model reads
    with processes.main_process_first():
        splits = load_scored_rows(run)
    if processes.is_main_process:
        manifest = {"data": splits.facts(), "model": model_source(run.model), "versions": versions()}
        manifest |= {"seed": run.eval.seed, "launch": launch_line()}
        open_manifest(run.output_dir, manifest, dump_yaml(run), resume=None)

    # 6. Evaluate: the model as it was saved, then its base
    scored = score(run, splits)

    # 7. Report and push
    if processes.is_main_process:
        report = RunReport(
            recipe=run.recipe,
            run_id=new_run_id(),
            status="done",
            settings=as_dict(run),
            data={"test": scored.facts},
            parameters=scored.parameters,
            train={},
            evaluation={"test": scored.evaluation},
            distributed=process_facts(),
            environment=report_environment(),
        )
        write_run_folder(run.output_dir, report)


if __name__ == "__main__":
    with user_errors():
        main(sys.argv[1:])
