"""`hf-finetune export --to llama`: an ordinary folder, compared with the run, or one refusal."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from models.scratch_models import tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from tuned_adapters import TOKENIZER, adapter_on, logits_of, save, saved_base, train
from typer.testing import CliRunner

from hf_finetune.cli import app
from hf_finetune.errors import FinetuneError, ModelError
from hf_finetune.models.scratch_gpt import ScratchGPTForCausalLM, ScratchGPTForSequenceClassification
from hf_finetune.release.export import ExportOptions, export_model
from hf_finetune.release.export.llama import writing

LLAMA_LIKE = {"gated_mlp": True, "qk_norm": False}
FEW = ExportOptions(rows=4)
TEMPLATE = "{% for m in messages %}{{ m.role + ':' + m.content + eos_token }}{% endfor %}"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = saved_base(tmp_path_factory.mktemp("base") / "run", **LLAMA_LIKE)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def test_the_command_makes_a_folder_that_transformers_loads_by_itself_and_says_how_near_it_is(base, tmp_path):
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out"
    rows.write_text('{"text": "the cat sat on the mat"}\n{"text": "and the dog did not"}\n', encoding="utf-8")
    done = CliRunner().invoke(app, ["export", str(base), str(out), "--to", "llama", "--data", str(rows), "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads((out / "export.json").read_text(encoding="utf-8"))
    assert json.loads(done.stdout)["figures"] == record["figures"]
    assert record["figures"]["architecture"] == "LlamaForCausalLM"
    assert record["tolerance"] == {"measure": "logits", "most": 1e-5}
    assert (record["figures"]["rows"], record["figures"]["equal_answers"]) == (2, 2)
    assert record["figures"]["max_logit_difference"] <= 1e-5
    assert not list(out.glob("*.py"))
    assert "trust_remote_code" not in (out / "README.md").read_text(encoding="utf-8")
    theirs = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=False)
    assert type(theirs) is LlamaForCausalLM
    assert torch.equal(logits_of(theirs), logits_of(ScratchGPTForCausalLM.from_pretrained(base)))
    assert AutoTokenizer.from_pretrained(out).chat_template == TEMPLATE
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == 2


def test_an_adapter_is_merged_on_the_way(base, tmp_path):
    trained = train(adapter_on(base))
    export_model(str(save(trained, tmp_path / "adapter")), str(tmp_path / "out"), "llama", FEW)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits_of(theirs), logits_of(trained), atol=1e-5, rtol=0)


def test_weights_are_stored_in_the_precision_of_the_run(tmp_path):
    run = saved_base(tmp_path / "run", **LLAMA_LIKE)
    ScratchGPTForCausalLM.from_pretrained(run, dtype=torch.bfloat16).save_pretrained(run)
    export_model(str(run), str(tmp_path / "out"), "llama", FEW)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_what_transformers_alone_computes_is_said_and_so_is_what_is_left_out(tmp_path, caplog):
    run = saved_base(tmp_path / "run", hidden_dropout=0.1)
    with caplog.at_level(logging.WARNING):
        result = export_model(str(run), str(tmp_path / "out"), "llama", FEW)
    assert "ApertusForCausalLM computes this model in transformers alone" in caplog.text
    assert any("hidden_dropout=0.1" in each for each in result.left_out)


def test_what_no_architecture_expresses_is_refused_in_one_message_with_every_field(tmp_path):
    run = saved_base(tmp_path / "run", hidden_act="gelu", ngram_order=2, ngram_vocab_size=9)
    with pytest.raises(ModelError) as refused:
        export_model(str(run), str(tmp_path / "out"), "llama", FEW)
    (problem,) = refused.value.problems
    assert "ngram_order=2 (it must be 1), hidden_act=gelu (it must be relu2)" in str(problem)
    assert "preset: llama-like" in str(problem)
    assert not (tmp_path / "out").exists()


def test_a_classifier_is_refused(tmp_path):
    tiny_model(ScratchGPTForSequenceClassification).save_pretrained(tmp_path / "run")
    TOKENIZER.save_pretrained(tmp_path / "run")
    with pytest.raises(FinetuneError, match="is a classifier whose head has a bias"):
        export_model(str(tmp_path / "run"), str(tmp_path / "out"), "llama", FEW)


def test_a_published_architecture_is_not_converted(tmp_path):
    sizes = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(**sizes, intermediate_size=16)).save_pretrained(tmp_path / "run")
    TOKENIZER.save_pretrained(tmp_path / "run")
    with pytest.raises(ModelError, match="is a llama, an architecture that is published as it is"):
        export_model(str(tmp_path / "run"), str(tmp_path / "out"), "llama", FEW)


def test_weights_that_compute_something_else_are_not_kept(base, tmp_path, monkeypatch):
    def convert(model):
        converted = as_it_is(model)
        with torch.no_grad():
            converted.model.layers[0].mlp.down_proj.weight.mul_(1.001)
        return converted

    as_it_is = writing.convert_to_published
    monkeypatch.setattr(writing, "convert_to_published", convert)
    with pytest.raises(ModelError, match="the export differs: largest logit difference"):
        export_model(str(base), str(tmp_path / "out"), "llama", FEW)
    assert not (tmp_path / "out").exists()
