import math
from pathlib import Path

import numpy as np
import pytest

from hf_finetune.evaluation import metrics
from hf_finetune.evaluation.metrics.bits_per_byte import BitsPerByte
from hf_finetune.evaluation.metrics.cross_entropy import CrossEntropy
from hf_finetune.evaluation.metrics.perplexity import Perplexity
from hf_finetune.evaluation.metrics.token_accuracy import TokenAccuracy

FOLDER = Path(metrics.__file__).parent
FILES = [FOLDER / f"{name}.py" for name in ("bits_per_byte", "cross_entropy", "perplexity", "token_accuracy")]


@pytest.fixture
def metric(tmp_path):
    return lambda kind: kind(keep_in_memory=True, cache_dir=str(tmp_path))


def test_a_uniform_guess_over_256_bytes_costs_eight_bits_and_has_perplexity_256(metric):
    nll_sums, tokens = [math.log(256) * 10, math.log(256) * 3], [10, 3]
    assert metric(Perplexity).compute(nll_sums=nll_sums, tokens=tokens)["perplexity"] == pytest.approx(256, rel=1e-12)
    assert metric(BitsPerByte).compute(nll_sums=nll_sums, total_bytes=13)["bits_per_byte"] == pytest.approx(8)
    mean = metric(CrossEntropy).compute(nll_sums=nll_sums, tokens=tokens)["cross_entropy"]
    assert mean == pytest.approx(math.log(256), rel=1e-12)


def test_rows_count_by_their_tokens_and_not_by_their_number(metric):
    assert metric(CrossEntropy).compute(nll_sums=[9.0, 3.0], tokens=[9, 1])["cross_entropy"] == pytest.approx(1.2)
    assert metric(TokenAccuracy).compute(correct=[0, 1], tokens=[9, 1])["token_accuracy"] == pytest.approx(0.1)


def test_batches_give_what_all_rows_give_at_once(metric):
    generator = np.random.default_rng(0)
    nll_sums, tokens = generator.exponential(100, 1000), generator.integers(0, 50, 1000)
    batched = metric(Perplexity)
    for start in range(0, 1000, 64):
        batched.add_batch(nll_sums=nll_sums[start : start + 64], tokens=tokens[start : start + 64])
    expected = math.exp(math.fsum(nll_sums.tolist()) / int(tokens.sum()))
    assert batched.compute()["perplexity"] == pytest.approx(expected, rel=1e-12)


def test_double_precision_survives(metric):
    nll_sums = [1.0, 1e-12]
    assert metric(CrossEntropy).compute(nll_sums=nll_sums, tokens=[1, 0])["cross_entropy"] == 1.0 + 1e-12


def test_nan_is_reported_as_nan_and_not_left_out(metric):
    sums = {"nll_sums": [1.0, math.nan, 2.0], "tokens": [1, 1, 1]}
    assert math.isnan(metric(CrossEntropy).compute(**sums)["cross_entropy"])
    assert math.isnan(metric(Perplexity).compute(**sums)["perplexity"])
    assert math.isnan(metric(BitsPerByte).compute(nll_sums=sums["nll_sums"], total_bytes=3)["bits_per_byte"])


def test_nothing_predicted_is_nan_and_not_a_crash_or_a_zero(metric):
    assert math.isnan(metric(CrossEntropy).compute(nll_sums=[0.0], tokens=[0])["cross_entropy"])
    assert math.isnan(metric(Perplexity).compute(nll_sums=[0.0], tokens=[0])["perplexity"])
    assert math.isnan(metric(TokenAccuracy).compute(correct=[0], tokens=[0])["token_accuracy"])
    assert math.isnan(metric(BitsPerByte).compute(nll_sums=[0.0], total_bytes=0)["bits_per_byte"])


def test_a_perplexity_beyond_the_largest_float_is_infinite(metric):
    assert metric(Perplexity).compute(nll_sums=[1e6, 1.0], tokens=[1, 1])["perplexity"] == math.inf
    assert metric(Perplexity).compute(nll_sums=[math.inf], tokens=[1])["perplexity"] == math.inf


def test_each_file_names_its_metric_and_says_what_goes_in(metric):
    kinds = {
        "bits_per_byte": BitsPerByte,
        "cross_entropy": CrossEntropy,
        "perplexity": Perplexity,
        "token_accuracy": TokenAccuracy,
    }
    assert [path.stem for path in FILES] == sorted(kinds)
    for name, kind in kinds.items():
        info = metric(kind)._info()
        assert all(feature in info.inputs_description for feature in info.features)
        assert name in info.inputs_description
