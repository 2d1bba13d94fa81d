import json
import math
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.utils.other import get_free_port
from transformers import EvalPrediction

from hf_finetune.evaluation.language_modeling import trainer_metrics as language_modeling
from hf_finetune.evaluation.language_modeling.trainer_metrics import language_model_metrics, reduce_logits


def random_batch(batch, length, vocab, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(batch, length, vocab, generator=generator, dtype=torch.float64) * 3).to(dtype)
    labels = torch.randint(vocab, (batch, length), generator=generator)
    labels[torch.rand(batch, length, generator=generator) < 0.3] = -100
    return logits, labels


def by_hand(logits, labels):
    """(nll, correct, tokens) of each row, one token at a time in double precision."""
    rows = []
    for row_logits, row_labels in zip(logits.double().tolist(), labels.tolist(), strict=True):
        nll, correct, tokens = [], 0, 0
        for scores, target in zip(row_logits[:-1], row_labels[1:], strict=True):
            if target == -100:
                continue
            largest = max(scores)
            log_sum = largest + math.log(math.fsum(math.exp(score - largest) for score in scores))
            nll.append(log_sum - scores[target])
            correct += scores[target] == largest
            tokens += 1
        rows.append((math.fsum(nll), correct, tokens))
    return np.array(rows)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6), (torch.bfloat16, 1e-6)])
@pytest.mark.parametrize("shape", [(1, 2, 3), (4, 17, 11), (3, 64, 257)])
def test_rows_reduce_to_what_a_hand_computes(shape, dtype, tolerance):
    logits, labels = random_batch(*shape, dtype=dtype)
    sums = reduce_logits(logits, labels)
    assert sums.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # A sure prediction costs less than the rounding of its logits (about 10, in single precision).
    np.testing.assert_allclose(sums.double().numpy(), by_hand(logits, labels), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("at_once", [1, 11, 5 * 11, 16 * 11, 2 * 16 * 11, 10**6])
def test_the_size_of_a_piece_changes_nothing(monkeypatch, at_once):
    logits, labels = random_batch(5, 17, 11)
    whole = reduce_logits(logits, labels)
    monkeypatch.setattr(language_modeling, "CHUNK_LOGITS", at_once)
    torch.testing.assert_close(reduce_logits(logits, labels), whole, rtol=1e-12, atol=0)


def test_logits_are_never_copied_whole(monkeypatch):
    seen = []
    reduce = language_modeling._reduce
    monkeypatch.setattr(language_modeling, "CHUNK_LOGITS", 1000)
    monkeypatch.setattr(language_modeling, "_reduce", lambda s, t: seen.append(s.numel()) or reduce(s, t))
    reduce_logits(*random_batch(8, 100, 100, dtype=torch.bfloat16))
    assert max(seen) <= 1000
    assert sum(seen) == 8 * 99 * 100


def test_the_logits_of_a_tuple_are_its_first():
    logits, labels = random_batch(2, 5, 7)
    torch.testing.assert_close(reduce_logits((logits, torch.zeros(1)), labels), reduce_logits(logits, labels))


def test_a_row_without_labels_or_of_one_token_counts_nothing():
    logits, labels = random_batch(2, 5, 7)
    labels[0] = -100
    assert reduce_logits(logits, labels)[0].tolist() == [0, 0, 0]
    assert reduce_logits(logits[:, :1], labels[:, :1]).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_nan_logits_make_nan_where_they_are_predicted_from_and_nowhere_else():
    logits, labels = random_batch(3, 6, 7)
    labels[:] = 1
    labels[1, 3] = -100
    logits[0, 2], logits[1, 2] = math.nan, math.nan
    assert reduce_logits(logits, labels)[:, 0].isnan().tolist() == [True, False, False]


def test_metrics_are_those_of_all_tokens_together():
    logits, labels = random_batch(6, 12, 9)
    labels[0, 2:] = -100
    nll, correct, tokens = by_hand(logits, labels).sum(axis=0)
    got = language_model_metrics(SimpleNamespace(scored_bytes=123))(
        EvalPrediction(reduce_logits(logits, labels).numpy(), labels.numpy())
    )
    expected = {
        "loss": nll / tokens,
        "perplexity": math.exp(nll / tokens),
        "token_accuracy": correct / tokens,
        "bits_per_byte": nll / math.log(2) / 123,
    }
    assert got == pytest.approx(expected, rel=1e-9)


def test_a_nan_row_is_not_hidden():
    rows = np.array([[1.0, 1, 2], [np.nan, 0, 2]], dtype=np.float32)
    got = language_model_metrics(SimpleNamespace(scored_bytes=10))(EvalPrediction(rows, None))
    assert math.isnan(got["loss"])
    assert math.isnan(got["perplexity"])
    assert got["token_accuracy"] == 0.25


# Seven rows of different lengths in batches of two: the last batch is filled up with rows that must not count twice.
EVALUATE = """
import json, sys
from types import SimpleNamespace
import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from hf_finetune.evaluation.language_modeling.trainer_metrics import language_model_metrics, reduce_logits

torch.set_num_threads(1)
torch.manual_seed(0)
config = GPT2Config(vocab_size=29, n_positions=32, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5,
                    bos_token_id=0, eos_token_id=0)
model = GPT2LMHeadModel(config).eval()
generator = torch.Generator().manual_seed(1)
rows = [torch.randint(29, (length,), generator=generator) for length in (5, 12, 3, 20, 7, 9, 31)]

def collate(batch):
    pad = lambda value: torch.nn.utils.rnn.pad_sequence(batch, batch_first=True, padding_value=value)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in batch], batch_first=True)
    return {"input_ids": pad(0), "attention_mask": mask, "labels": pad(-100)}

nll, correct, tokens = 0.0, 0, 0
with torch.no_grad():
    for row in rows:
        scores = model(row[None]).logits[0, :-1].double()
        log_probabilities = scores - scores.logsumexp(dim=1, keepdim=True)
        nll -= log_probabilities[range(len(row) - 1), row[1:]].sum().item()
        correct += (scores.argmax(dim=1) == row[1:]).sum().item()
        tokens += len(row) - 1

arguments = TrainingArguments(sys.argv[1], use_cpu=True, per_device_eval_batch_size=2, disable_tqdm=True,
                              report_to="none", remove_unused_columns=False)
trainer = Trainer(model, arguments, eval_dataset=rows, data_collator=collate,
                  compute_metrics=language_model_metrics(SimpleNamespace(scored_bytes=100)),
                  preprocess_logits_for_metrics=reduce_logits)
got = trainer.evaluate()
with open(f"{sys.argv[1]}/{arguments.process_index}.json", "w") as file:
    json.dump({"got": got, "hand": [nll, correct, tokens], "processes": arguments.world_size}, file)
"""


def evaluate_in(processes, folder, preloaded):
    port = get_free_port()
    program = folder / "evaluate.py"
    program.write_text(EVALUATE)
    launched = []
    for rank in range(processes):
        environment = {**preloaded, "ACCELERATE_USE_CPU": "1"}
        if processes > 1:
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), **address}
        command = ["python", str(program), str(folder)]
        launched.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=240)[1] for process in launched]
    assert [process.returncode for process in launched] == [0] * processes, "\n".join(errors)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.parametrize("processes", [1, 2])
def test_the_trainer_reports_the_metrics_of_every_row_once_in_any_number_of_processes(tmp_path, preloaded, processes):
    for outcome in evaluate_in(processes, tmp_path, preloaded):
        nll, correct, tokens = outcome["hand"]
        assert outcome["processes"] == processes
        got = outcome["got"]
        assert tokens == 80
        assert got["eval_loss"] == pytest.approx(nll / tokens, rel=1e-6)
        assert got["eval_perplexity"] == pytest.approx(math.exp(nll / tokens), rel=1e-5)
        assert got["eval_token_accuracy"] == correct / tokens
        assert got["eval_bits_per_byte"] == pytest.approx(nll / math.log(2) / 100, rel=1e-6)
