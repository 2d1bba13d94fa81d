"""The target `vllm`: files read by hand are the merged weights, rounded, and transformers computes what they say."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace

import pytest
import torch
from models.scratch_models import save_chat_base
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig
from tuned_adapters import TOKENIZER, adapter_on, save, train
from tuned_classifiers import classifier_on, saved_backbone

from hf_finetune.cli import main
from hf_finetune.errors import ModelError
from hf_finetune.models.saved import load_for_generation
from hf_finetune.release.export import vllm as target
from hf_finetune.release.export.exporting import export_model
from hf_finetune.release.export.options import ExportOptions
from hf_finetune.release.merge import merge_adapter

FEW = ExportOptions(rows=3)
IDS = torch.tensor([[3, 9, 4, 17, 8, 8, 21]])
FORMATS = {"fp8": "float-quantized", "int8": "int-quantized", "int4": "pack-quantized"}
# Of the largest weight of a channel or group: 3 bits of a mantissa; half a step of 255, and another where the largest
# is cut, since a scale has 8 bits; half a step of 15.
BOUNDS = {"fp8": 1 / 16, "int8": 1 / 127.5, "int4": 0.53 / 7.5}


@pytest.fixture(scope="module")
def merged(tmp_path_factory):
    """An adapter over a Llama, and the model that merging makes of both."""
    root = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config = LlamaConfig(**sizes, vocab_size=61, max_position_embeddings=64, tie_word_embeddings=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(root / "base")
    TOKENIZER.save_pretrained(root / "base")
    save(train(adapter_on(root / "base")), root / "adapter")
    merge_adapter(str(root / "adapter"), str(root / "merged"))
    return root


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, merged):
    out = merged / request.param
    options = replace(FEW, quant=request.param)
    return request.param, out, export_model(str(merged / "adapter"), str(out), "vllm", options)


def read_products(folder):
    """The quantized weights of a folder, each by its name in the merged model, as the format is described."""
    files = load_file(folder / "model.safetensors")
    found = {}
    for name, scale in files.items():
        if not name.endswith("_scale"):
            continue
        module = name.removesuffix("_scale")
        if f"{module}_packed" in files:
            words = files[f"{module}_packed"].unsqueeze(-1)  # eight numbers in each, the first in the lowest bits
            numbers = ((words >> (4 * torch.arange(8))) & 15).flatten(1) - 8
            assert list(numbers.shape) == files[f"{module}_shape"].tolist()
        else:
            numbers = files[module]
        groups = numbers.float().unflatten(-1, (scale.shape[-1], -1))
        found[module] = (groups * scale.float().unsqueeze(-1)).flatten(1)
    return found, files


def test_the_files_hold_the_merged_weights_rounded(exported, merged):
    quant, out, result = exported
    whole = load_file(merged / "merged" / "model.safetensors")
    products, files = read_products(out)
    assert len(products) == 14 == result.own_figures["quantized"]
    for name, product in products.items():
        groups = whole[name].unflatten(-1, (files[f"{name}_scale"].shape[-1], -1))
        bound = BOUNDS[quant] * groups.abs().amax(-1, keepdim=True).expand_as(groups).flatten(1)
        assert ((product - whole[name]).abs() <= bound).all()
        assert (product - whole[name]).abs().max() > 1e-5
    rest = {name for name in files if ".mlp." not in name and ".self_attn." not in name}
    assert "model.embed_tokens.weight" in rest
    assert all(torch.equal(files[name], whole[name].bfloat16()) for name in rest)
    assert result.own_figures["bytes"] == (out / "model.safetensors").stat().st_size
    assert "lm_head.weight" not in files


def test_config_json_says_what_vllm_asks(exported):
    quant, out, _ = exported
    config = json.loads((out / "config.json").read_text())
    said = config["quantization_config"]
    assert config["dtype"] == "bfloat16"
    assert (said["quant_method"], said["format"], said["quantization_status"]) == (
        "compressed-tensors",
        FORMATS[quant],
        "compressed",
    )
    assert said["ignore"] == ["lm_head"]
    (group,) = said["config_groups"].values()
    activations = {"fp8": ("float", 8), "int8": ("int", 8)}
    if quant == "int4":
        assert (group["weights"]["group_size"], group["input_activations"]) == (32, None)
    else:
        taken = group["input_activations"]
        assert (taken["type"], taken["num_bits"]) == activations[quant]
        assert (taken["strategy"], taken["dynamic"], group["weights"]["strategy"]) == ("token", True, "channel")


def test_transformers_computes_what_the_files_say(exported, merged):
    quant, out, result = exported
    by_hand = AutoModelForCausalLM.from_pretrained(merged / "merged").eval()
    products, files = read_products(out)
    rest = {name: weight.float() for name, weight in files.items() if weight.dtype == torch.bfloat16}
    weights = {name: weight for name, weight in rest.items() if not name.endswith("_scale")} | products
    by_hand.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    model, _ = load_for_generation(str(out), dtype=torch.float32)
    with torch.no_grad():
        expected, found = by_hand(IDS).logits, model.cpu()(IDS).logits
    # What is multiplied with the weights is rounded too, but in 4 bits.
    near = 1e-5 if quant == "int4" else 0.05 * expected.abs().max().item()
    assert (found - expected).abs().max() <= near
    assert quant == "int4" or (found - expected).abs().max() > 1e-5
    assert 0 < result.figures.max_logit_difference < 0.3 * result.figures.logit_scale
    assert result.tolerance.measure == "loss"


def test_generate_takes_the_folder_in_16_bits(exported, capsys, monkeypatch):
    _, out, _ = exported
    monkeypatch.setattr(sys, "argv", ["hf-finetune", "generate", str(out), "one", "--temperature", "0", "--json"])
    monkeypatch.setattr(logging.root, "handlers", [])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["continuation"]
    assert load_for_generation(str(out))[0].dtype == torch.bfloat16


def test_an_export_beyond_its_tolerance_is_refused(merged, tmp_path):
    options = replace(FEW, quant="int4", tolerance=0.0)
    with pytest.raises(ModelError, match=r"the export differs: .* 0\.00% of the mean loss was allowed"):
        export_model(str(merged / "adapter"), str(tmp_path / "out"), "vllm", options)
    assert [*tmp_path.iterdir()] == []


def test_a_gpt_from_scratch_becomes_the_architecture_that_vllm_knows_of_it(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "the cat sat on the mat and the dog did not"}\n', encoding="utf-8")
    base = save_chat_base(tmp_path / "base", rows, gated_mlp=True, qk_norm=False)
    export_model(str(base), str(tmp_path / "out"), "vllm", replace(FEW, quant="int8"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    ids = torch.tensor([[1, 7, 30, 12]])
    with torch.no_grad():
        ours, theirs = (load_for_generation(str(path))[0](ids).logits for path in (base, tmp_path / "out"))
    # In bfloat16, products of 8 bits; of another model it would be about as large as the logits themselves.
    assert (ours - theirs.float()).abs().max() < 0.2 * ours.abs().max()
    other = save_chat_base(tmp_path / "gpt2", rows, family="gpt2")
    with pytest.raises(ModelError, match="none of LlamaForCausalLM, Qwen3ForCausalLM computes this ScratchGPT"):
        export_model(str(other), str(tmp_path / "no"), "vllm", FEW)


def test_what_the_format_does_not_hold_is_refused_before_weights_are_read(merged, tmp_path):
    for quant in FORMATS:
        target.check(AutoConfig.from_pretrained(merged / "base"), TOKENIZER, replace(FEW, quant=quant), "runs/llama")
    config = AutoConfig.from_pretrained(saved_backbone(tmp_path / "gpt2", "gpt2"))
    with pytest.raises(ModelError, match="is a gpt2 without linear layers, which alone are quantized; export it with"):
        target.check(config, TOKENIZER, FEW, "runs/one")
    classifier_on(tmp_path / "gpt2").save_pretrained(tmp_path / "classifier")
    config = AutoConfig.from_pretrained(tmp_path / "classifier")
    with pytest.raises(ModelError, match="is a classifier, and vLLM is given language models here"):
        target.check(config, TOKENIZER, FEW, "runs/one")
    config = AutoConfig.from_pretrained(saved_backbone(tmp_path / "narrow", "llama"))
    with pytest.raises(ModelError, match="int4 takes weights in groups of 32, and rows of this model have 48"):
        target.check(config, TOKENIZER, replace(FEW, quant="int4"), "runs/one")
    target.check(config, TOKENIZER, FEW, "runs/one")
