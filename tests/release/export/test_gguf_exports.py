"""The targets `gguf` and `ollama`, from the command to a folder that was compared in llama.cpp."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models.scratch_models import save_chat_base
from release.export.gguf_models import chat_tokenizer, tiny
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, BertConfig
from typer.testing import CliRunner

from hf_finetune.chat.built_in import read_built_in
from hf_finetune.cli import app
from hf_finetune.config.sections import ModelSection
from hf_finetune.errors import ConfigError, MachineError, ModelError
from hf_finetune.folders import EXPORT, check_replaceable
from hf_finetune.models.adapters.attach import attach_adapter, save_adapter
from hf_finetune.models.loading import load_causal_lm
from hf_finetune.models.saved import load_for_generation
from hf_finetune.release.export import ExportOptions, check_export, export_model
from hf_finetune.release.export.conversations import CONVERSATIONS
from hf_finetune.release.export.gguf import exporting, vocabulary
from hf_finetune.release.export.gguf.exporting import check, find_template, render_by_llama_cpp
from hf_finetune.release.export.gguf.llama_cpp import LlamaCpp
from hf_finetune.release.export.gguf.writing import About, write_model
from hf_finetune.release.export.ollama import rendering
from hf_finetune.release.export.summary import describe_result
from hf_finetune.release.export.targets import OF_LLAMA_CPP
from hf_finetune.release.export.template_parity import check_templates

pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def few(**more: Any) -> ExportOptions:
    return ExportOptions(rows=4, **more)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama and an adapter over it."""
    root = tmp_path_factory.mktemp("models")
    tiny().save_pretrained(root / "base")
    chat_tokenizer().save_pretrained(root / "base")
    adapter_over(root / "base", root / "adapter")
    chat_tokenizer().save_pretrained(root / "adapter")
    return root


def adapter_over(base: Path, folder: Path) -> Path:
    """An adapter over the model in `base` that changes its answers."""
    model = load_causal_lm(ModelSection(path=str(base)), AutoConfig.from_pretrained(base), 16, bf16=False)
    tuned = attach_adapter(model, {"r": 4, "lora_alpha": 8})
    with torch.no_grad():
        for name, weight in tuned.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.05)
    tuned.save_pretrained(folder)
    save_adapter(tuned, folder)
    return folder


def scratch(folder: Path, **fields: Any) -> Path:
    """A ScratchGPT with a tokenizer of its own."""
    rows = folder.with_suffix(".jsonl")
    rows.write_text('{"text": "the cat sat on the mat and the dog did not"}\n', encoding="utf-8")
    return save_chat_base(folder, rows, **fields)


GATED = {"gated_mlp": True, "qk_norm": False}
GPTS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {**GATED, "num_key_value_heads": 2, "hidden_dropout": 0.1},
    "Qwen3ForCausalLM": {"gated_mlp": True, "tie_word_embeddings": True},
    "GPT2LMHeadModel": {"family": "gpt2"},
}


@pytest.mark.parametrize("architecture", OF_LLAMA_CPP)
def test_a_gpt_from_scratch_gets_into_llama_cpp_as_the_published_architecture_that_it_is(
    architecture: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = scratch(tmp_path / "base", **GPTS[architecture])
    with caplog.at_level("INFO"):
        result = export_model(str(base), str(tmp_path / "out"), "gguf", few(quant="f32"))
    # llama.cpp looks up GPT-2's activation in a table of 16 bits; the logits are those of the weights.
    assert result.figures.max_logit_difference < 1e-5 * result.figures.logit_scale
    assert result.figures.equal_answers + result.figures.ties == 4
    assert result.own_figures["texts_with_equal_tokens"] == 200
    assert f"the ScratchGPT is made a {architecture} first, as --to llama does it" in caplog.text
    assert json.loads((tmp_path / "out" / "export.json").read_text())["figures"]["architecture"] == architecture
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [architecture]
    assert any("hidden_dropout=0.1" in each for each in result.left_out) == ("hidden_dropout" in GPTS[architecture])
    ids = torch.tensor([[1, 7, 30, 12]])
    with torch.no_grad():
        ours, theirs = (load_for_generation(str(path))[0](ids).logits for path in (base, tmp_path / "out"))
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_an_adapter_of_a_gpt_from_scratch_goes_over_its_base_as_llama_cpp_knows_it(tmp_path: Path) -> None:
    adapter = adapter_over(scratch(tmp_path / "base", **GATED), tmp_path / "adapter")
    merged = export_model(str(adapter), str(tmp_path / "merged"), "gguf", few(quant="f32"))
    alone = export_model(str(adapter), str(tmp_path / "alone"), "gguf", few(quant="f32", adapter_only=True))
    for result in (merged, alone):
        assert result.figures.max_logit_difference < 1e-5 * result.figures.logit_scale
        assert result.figures.equal_answers + result.figures.ties == 4
    assert not (tmp_path / "alone" / "model.gguf").exists()
    of_gpt2 = adapter_over(scratch(tmp_path / "gpt2", family="gpt2"), tmp_path / "of_gpt2")
    with pytest.raises(ModelError, match=r"it changes model\.layers\..*, which llama\.cpp does not of a gpt2"):
        export_model(str(of_gpt2), str(tmp_path / "out"), "gguf", few(adapter_only=True))


@pytest.mark.parametrize("to", ["gguf", "ollama"])
def test_a_gpt_from_scratch_that_llama_cpp_does_not_compute_is_refused_with_the_fields(to: str, tmp_path: Path) -> None:
    base = scratch(tmp_path / "base", ngram_order=2, ngram_vocab_size=9)
    with pytest.raises(ModelError) as refused:
        export_model(str(base), str(tmp_path / "out"), to, few())
    (problem,) = refused.value.problems
    # An Apertus would be nearer, but llama.cpp computes another activation of it.
    assert "none of LlamaForCausalLM, Qwen3ForCausalLM, GPT2LMHeadModel computes this ScratchGPT" in str(problem)
    assert "Qwen3ForCausalLM, are ngram_order=2 (it must be 1), gated_mlp=false (it must be true)" in str(problem)
    assert "hidden_act=relu2 (it must be silu)" in str(problem)
    assert "preset: llama-like" in str(problem)


def test_a_merged_adapter_in_gguf_answers_as_the_run_does(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = export_model(str(folders / "adapter"), str(out), "gguf", few(quant="f32"))
    assert result.figures.max_logit_difference < 1e-5
    assert result.figures.equal_answers + result.figures.ties == 4
    assert result.own_figures["texts_with_equal_tokens"] == 200
    assert {each["equal"] for each in result.templates.values()} == {20}
    assert {path.name for path in out.iterdir()} >= {"model.gguf", "export.json", "tokenizer.json", "config.json"}
    assert json.loads((out / "export.json").read_text())["templates"]["llama.cpp"]["conversations"] == 20
    ours, _ = load_for_generation(str(folders / "adapter"))
    exported, _ = load_for_generation(str(out))
    ids = torch.tensor([[1, 7, 30, 12]])
    with torch.no_grad():
        assert torch.allclose(ours(ids).logits, exported(ids).logits, atol=1e-5)


def test_an_adapter_alone_is_compared_over_its_base_and_kept_without(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = export_model(str(folders / "adapter"), str(out), "gguf", few(quant="f32", adapter_only=True))
    assert result.figures.max_logit_difference < 1e-5
    assert result.figures.equal_answers + result.figures.ties == 4
    assert (out / "adapter.gguf").stat().st_size == result.own_figures["bytes"]
    assert not (out / "model.gguf").exists()
    assert "stored" not in result.own_figures  # of the base, which is not kept
    assert dict(describe_result(result))["size"].endswith("over a base in f32")
    check_replaceable(str(out), overwrite=True)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size")
@pytest.mark.parametrize("adapter_only", [False, True])
def test_a_file_that_is_cut_short_is_said_with_its_reason(folders: Path, tmp_path: Path, adapter_only: bool) -> None:
    most = 40_000 if adapter_only else 100_000
    program = f"""
import resource, signal, sys
sys.path[:] = {sys.path!r}
from hf_finetune.release.export.gguf.adapters import write_adapter
from hf_finetune.release.export.gguf.writing import About, write_model
from release.export.gguf_models import chat_tokenizer, tiny
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))
path = {str(tmp_path / "cut.gguf")!r}
from pathlib import Path
try:
    if {adapter_only}:
        write_adapter(Path(path), Path({str(folders / "adapter")!r}), tiny().config, "tuned")
    else:
        write_model(Path(path), tiny(), chat_tokenizer(), "f16", About("tiny"))
except OSError as problem:
    print(problem.strerror)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "File too large\n", done.stderr


def test_the_command_writes_a_modelfile_and_says_what_was_compared(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "find_go", lambda: None)  # its compiler takes ten seconds the first time
    out = tmp_path / "out"
    asked = ["export", str(folders / "base"), str(out), "--to", "ollama", "--quant", "q8_0", "--rows", "2"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "20 of 20 equal by llama.cpp" in done.output
    assert "(not offered there: tools, a tool that was called)" in done.output
    assert "since Go is not installed" in done.output
    text = (out / "Modelfile").read_text()
    assert text.startswith("FROM ./model.gguf\nTEMPLATE ")
    check_replaceable(str(out), overwrite=True)  # made of nothing but what an export has
    with pytest.raises(ConfigError, match="is there already"):
        check_replaceable(str(out), overwrite=False)
    assert 'PARAMETER stop "<|im_end|>"' in text


@pytest.mark.parametrize("begin", [None, "<|endoftext|>"])
@pytest.mark.parametrize("adds", [False, True])
def test_llama_cpp_begins_a_prompt_as_the_run_does(begin: str | None, adds: bool, tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(chat_tokenizer())
    tokenizer.bos_token, tokenizer.chat_template = begin, read_built_in("chatml")
    if adds and begin:
        template = TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 0)])
        tokenizer.backend_tokenizer.post_processor = template
    path = tmp_path / "model.gguf"
    written = write_model(path, tiny(), tokenizer, "f32", About("tiny", template=find_template(tokenizer)))
    assert written.add_bos == (adds and begin is not None)
    with LlamaCpp(path, context=64) as theirs:
        renderer = render_by_llama_cpp(theirs, begin if written.add_bos else "")
        [found] = check_templates(tokenizer, {"llama.cpp": renderer})
    assert (found.equal, found.refused) == (18, 2)


def test_llama_cpp_writes_tools_as_the_run_does_in_their_order_and_with_every_key(tmp_path: Path) -> None:
    tokenizer = copy.deepcopy(chat_tokenizer())
    tokenizer.chat_template = read_built_in("qwen")
    path = tmp_path / "model.gguf"
    write_model(path, tiny(), tokenizer, "f32", About("tiny", template=find_template(tokenizer)))
    with LlamaCpp(path, context=64) as theirs:
        [found] = check_templates(tokenizer, {"llama.cpp": render_by_llama_cpp(theirs, "")})
        told = theirs.render(CONVERSATIONS["tools"].messages, CONVERSATIONS["tools"].tools)
    assert found.equal == 20
    assert 0 < told.index('"place": {') < told.index('"days": {"type": "integer", "minimum": 1, "default": 3}')


def test_an_export_whose_weights_are_wrong_is_refused(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = sys.modules["hf_finetune.models.gguf_folders.weights"]
    monkeypatch.setattr(weights, "put_in_pairs", lambda name, weight, config: weight)
    with pytest.raises(ModelError, match="the export differs: largest logit difference"):
        export_model(str(folders / "base"), str(tmp_path / "out"), "gguf", few(quant="f32"))
    assert not (tmp_path / "out").exists()


def test_an_export_whose_tokens_are_others_is_refused(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_tokens = vocabulary._list_tokens

    def swap_two(tokenizer: Any, size: int) -> Any:
        tokens, types = list_tokens(tokenizer, size)
        one, other = tokens.index("H"), tokens.index("e")
        tokens[one], tokens[other] = tokens[other], tokens[one]
        return tokens, types

    monkeypatch.setattr(vocabulary, "_list_tokens", swap_two)
    with pytest.raises(ModelError, match=r"cannot hold: llama\.cpp takes"):
        export_model(str(folders / "base"), str(tmp_path / "out"), "gguf", few())
    assert not (tmp_path / "out").exists()


def test_an_export_whose_prompts_are_others_is_refused(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = chat_tokenizer().chat_template.replace("assistant", "bot")
    monkeypatch.setattr(exporting, "find_template", lambda tokenizer: changed)
    with pytest.raises(ModelError, match=r"'one question' is another prompt .* by llama\.cpp"):
        export_model(str(folders / "base"), str(tmp_path / "out"), "gguf", few())


def test_what_cannot_be_is_refused_before_weights_are_read(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, tokenizer = tiny().config, chat_tokenizer()
    with pytest.raises(ConfigError, match="--adapter-only is for an adapter"):
        check(config, tokenizer, few(adapter_only=True), str(folders / "base"))
    with pytest.raises(ConfigError, match="did you mean q4_0"):
        check(config, tokenizer, few(quant="q4-0"), str(folders / "base"))
    with pytest.raises(ModelError, match="a model of the kind 'bert' is not written as GGUF; those that are: gemma"):
        check(BertConfig(), tokenizer, few(), "x")
    classifier = BertConfig(architectures=["BertForSequenceClassification"])
    with pytest.raises(ModelError, match=r"is a classifier, and llama\.cpp continues texts"):
        check(classifier, tokenizer, few(), "x")
    with pytest.raises(ConfigError, match="--to onnx does not take it"):
        check_export(str(folders / "base"), "out", "onnx", few(quant="f16"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MachineError, match="the package xllamacpp is not installed, which --to gguf needs"):
        check_export(str(folders / "base"), "out", "gguf", few())


def test_a_folder_that_was_changed_is_not_loaded(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_model(str(folders / "base"), str(out), "gguf", few(quant="f16"))
    (out / EXPORT).unlink()  # by which the change is seen before
    settings = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 2, "intermediate_size": 64}))
    with pytest.raises(ModelError, match=r"holds other weights than the config\.json beside it describes"):
        load_for_generation(str(out))
    data = (out / "model.gguf").read_bytes()
    (out / "model.gguf").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="is cut off"):
        load_for_generation(str(out))
    with pytest.raises(ModelError, match=r"llama\.cpp does not load it"):
        LlamaCpp(out / "model.gguf")
