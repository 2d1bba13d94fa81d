"""Small classifiers that are only evaluated, and as a program: the same in each of several processes.

accelerate launch ... tests/evaluation/classification/label_runs.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, List, Value
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from hf_finetune.data.tokenization.collators import TextCollator
from hf_finetune.evaluation.classification.metrics import (
    ClassifierOutputs,
    classification_metrics,
    predict_split,
    score_outputs,
)
from hf_finetune.label_set import Labels
from hf_finetune.training.trainers.classification import ClassificationLoss, ClassificationTrainer

TOPICS = Labels(("art", "law", "sport"), "single", ("art", "law", "sport"))
TAGS = Labels(("art", "law", "sport"), "multi", ("art", "law", "sport"))
NUMBER = Labels(("value",), "number")

ROWS = 11  # three to a batch, in two processes: the last ones are filled up with seven rows a second time


def tiny_bert(labels: Labels) -> BertForSequenceClassification:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    fields = {"id2label": labels.id2label, "label2id": labels.label2id, "problem_type": labels.problem_type}
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = BertForSequenceClassification(BertConfig(vocab_size=50, max_position_embeddings=32, **sizes, **fields))
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.eval()


def uneven_rows(labels: Labels, count: int = ROWS) -> Dataset:
    """Rows of 2 to 20 tokens in no order, with labels."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 21, (count,), generator=generator).tolist()
    given: list[Any] = torch.randint(3, (count,), generator=generator).tolist()
    kind: Any = Value("int64")
    if labels.kind == "multi":
        given, kind = torch.randint(2, (count, 3), generator=generator).float().tolist(), List(Value("float32"))
    elif labels.kind == "number":
        given, kind = torch.randn(count, generator=generator).tolist(), Value("float32")
    ids = [torch.randint(1, 50, (length,), generator=generator).tolist() for length in lengths]
    features = {"input_ids": List(Value("int32")), "labels": kind, "length": Value("int32")}
    return Dataset.from_dict({"input_ids": ids, "labels": given, "length": lengths}, features=Features(features))


def trainer_of(labels: Labels, folder: Path, kind: type = ClassificationTrainer, **settings: Any) -> Any:
    quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "seed": 0}
    args = TrainingArguments(output_dir=str(folder), per_device_eval_batch_size=3, **quiet, **settings)
    return kind(
        model=tiny_bert(labels),
        args=args,
        data_collator=TextCollator(pad_token_id=0),
        compute_loss_func=ClassificationLoss(labels.kind),
        compute_metrics=classification_metrics(labels),
    )


def evaluated(folder: Path, labels: Labels) -> dict[str, Any]:
    """What there is to say of the rows: logits in their order, the report's figures, and those while training."""
    trainer, rows = trainer_of(labels, folder), uneven_rows(labels)
    outputs: ClassifierOutputs = predict_split(trainer, rows)
    return {
        "processes": trainer.args.world_size,
        "logits": outputs.logits.tolist(),
        "references": outputs.references.tolist(),
        "report": score_outputs(outputs, labels, None),
        "while_training": trainer.evaluate(rows),
    }


if __name__ == "__main__":
    seen = {labels.kind: evaluated(Path(sys.argv[1]), labels) for labels in (TOPICS, TAGS, NUMBER)}
    if torch.distributed.get_rank() == 0:
        Path(sys.argv[1], "seen.json").write_text(json.dumps(seen))
    torch.distributed.destroy_process_group()
