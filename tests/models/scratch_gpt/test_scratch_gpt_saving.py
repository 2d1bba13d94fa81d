"""Saving and loading: nothing is lost, whoever loads it, however."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models.scratch_models import VARIANTS, tiny_config, tiny_model, token_ids
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
)

import hf_finetune.models.scratch_gpt as scratch_gpt
from hf_finetune.models.scratch_gpt import (
    ScratchGPTConfig,
    ScratchGPTForCausalLM,
    ScratchGPTForSequenceClassification,
    ScratchGPTModel,
)

every_variant = pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)

CLASSES = {
    AutoModel: ScratchGPTModel,
    AutoModelForCausalLM: ScratchGPTForCausalLM,
    AutoModelForSequenceClassification: ScratchGPTForSequenceClassification,
}


@pytest.mark.parametrize(("auto_class", "model_class"), CLASSES.items(), ids=lambda c: c.__name__)
@every_variant
def test_every_class_comes_back_from_its_folder_with_equal_outputs(fields, auto_class, model_class, tmp_path):
    model = tiny_model(model_class, num_labels=3, **fields)
    model.save_pretrained(tmp_path)
    loaded = auto_class.from_pretrained(tmp_path, attn_implementation="eager").eval()
    assert type(loaded) is model_class
    for before, after in zip(model(token_ids(2, 8)).to_tuple(), loaded(token_ids(2, 8)).to_tuple(), strict=True):
        if isinstance(before, torch.Tensor):
            torch.testing.assert_close(before, after, atol=0, rtol=0)
    assert {n: p.shape for n, p in loaded.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}


def test_tied_weights_are_one_tensor_in_memory_in_the_file_and_after_loading(tmp_path):
    model = tiny_model(family="gpt2")
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert ("lm_head.weight" in file.keys()) + ("model.embed_tokens.weight" in file.keys()) == 1  # noqa: SIM118
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in model.parameters())


def test_untied_weights_stay_two_tensors(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not torch.equal(loaded.lm_head.weight, loaded.model.embed_tokens.weight)


@every_variant
def test_a_configuration_round_trips_with_every_field(fields, tmp_path):
    config = tiny_config(rope_theta=500.0, attention_dropout=0.1, hidden_dropout=0.2, **fields)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    ours, theirs = config.to_dict(), loaded.to_dict()
    assert type(loaded) is ScratchGPTConfig
    assert theirs.pop("_name_or_path") == str(tmp_path)
    assert theirs == {key: value for key, value in ours.items() if key != "_name_or_path"}


def test_a_saved_configuration_does_not_depend_on_a_later_versions_family_defaults(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {"norm_type", "norm_eps", "qk_norm", "hidden_act", "intermediate_size", "num_key_value_heads"} <= set(saved)


def test_weights_may_be_loaded_in_bfloat16(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="bfloat16").eval()
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    logits = loaded(token_ids(2, 8)).logits
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - model(token_ids(2, 8)).logits).abs().mean() < 0.1


def test_a_backbone_loads_into_a_classifier_and_only_the_score_is_new(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    classifier, report = ScratchGPTForSequenceClassification.from_pretrained(
        tmp_path, num_labels=5, output_loading_info=True
    )
    assert report["missing_keys"] == {"score.weight", "score.bias"}
    assert classifier.score.weight.std() > 0
    torch.testing.assert_close(
        classifier.model.layers[1].mlp.down_proj.weight, model.model.layers[1].mlp.down_proj.weight
    )


def test_loading_draws_no_weight_anew(tmp_path):
    """Zero is the first value of the output projections: a loader that drew them again would silence the model."""
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, atol=0, rtol=0)


def test_the_generation_config_is_saved_too(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 0)


REMOTE = """
import sys
sys.modules["hf_finetune"] = None  # any import of it fails
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

folder, again = sys.argv[1:]
ids = torch.arange(3, 11).unsqueeze(0)
classifier = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
causal = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
backbone = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).model_type == "scratch_gpt"
assert type(causal).__module__.startswith("transformers_modules")
assert backbone(ids).last_hidden_state.shape == (1, 8, 32) and classifier(ids).logits.shape == (1, 3)
causal.generate(ids, max_new_tokens=2)
causal.save_pretrained(again)
torch.save(causal(ids).logits, again + "/logits.pt")
"""


@pytest.mark.parametrize("model_class", [ScratchGPTForCausalLM, ScratchGPTForSequenceClassification])
def test_every_saved_folder_loads_without_this_package_by_every_auto_class(model_class, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    model = tiny_model(model_class, family="gpt2", num_labels=3)
    model.save_pretrained(tmp_path / "saved")
    command = [sys.executable, "-c", REMOTE, str(tmp_path / "saved"), str(tmp_path / "again")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()  # what it saved loads here
    remote_logits = torch.load(tmp_path / "again/logits.pt")
    torch.testing.assert_close(again(torch.arange(3, 11).unsqueeze(0)).logits, remote_logits)
    if model_class is ScratchGPTForCausalLM:
        torch.testing.assert_close(model(torch.arange(3, 11).unsqueeze(0)).logits, remote_logits)
    files = {path.name for path in (tmp_path / "again").glob("*.py")}
    assert files == {"configuration_scratch_gpt.py", "modeling_scratch_gpt.py", "convert_gpt2.py"}


FIRST_IMPORTS = {
    "ours first": "import hf_finetune, transformers",
    "transformers first": "import transformers, hf_finetune",
    "Auto classes first": "from transformers import AutoModelForCausalLM; import hf_finetune",
    "layers before the Auto classes": "import hf_finetune; import transformers.modeling_layers",
    "our model first": "from hf_finetune.models.scratch_gpt import ScratchGPTForCausalLM",
    "our modeling file first": "from hf_finetune.models.scratch_gpt.modeling_scratch_gpt import ScratchGPTModel",
}

# A child for each order, forked where what transformers imports is there, and transformers is not: most of the time.
IN_EVERY_ORDER = """
import json, os, sys, torch
import accelerate, huggingface_hub.hf_api, scipy.optimize, scipy.stats, tokenizers, torch._dynamo
import torch.distributed.checkpoint, torch.distributed.fsdp, torch.distributed.tensor.parallel

assert not {"transformers", "hf_finetune"} & {*sys.modules}
folder, orders = sys.argv[1], json.loads(sys.argv[2])
failed = []
for name, imports in orders.items():
    child = os.fork()
    if child == 0:
        exec(imports)
        from transformers import AutoModelForCausalLM
        model = AutoModelForCausalLM.from_pretrained(folder)
        os._exit(type(model).__module__ != "hf_finetune.models.scratch_gpt.modeling_scratch_gpt")
    if os.waitpid(child, 0)[1] != 0:
        failed.append(name)
sys.exit(f"not registered: {failed}" if failed else 0)
"""


def test_the_auto_classes_know_scratch_gpt_whatever_is_imported_first(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    command = [sys.executable, "-c", IN_EVERY_ORDER, str(tmp_path), json.dumps(FIRST_IMPORTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_neither_torch_nor_transformers():
    code = """
import sys
import hf_finetune, hf_finetune.models.scratch_gpt
heavy = {"torch", "transformers"} & set(sys.modules)
assert not heavy, heavy
from transformers import AutoConfig
assert AutoConfig.for_model("scratch_gpt").hidden_size == 768
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_shipped_files_import_only_torch_transformers_and_each_other():
    folder = Path(scratch_gpt.__file__).parent
    shipped = {path.stem: ast.parse(path.read_text()) for path in folder.glob("*.py") if path.stem != "__init__"}
    allowed = {"torch", "transformers", "huggingface_hub", *sys.stdlib_module_names}
    for name, tree in shipped.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, name
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module.split(".")[0] in allowed, name
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1, name
                assert node.module in shipped, name


def test_the_package_gives_every_public_name_and_refuses_others():
    assert all(getattr(scratch_gpt, name) is not None for name in scratch_gpt.__all__)
    with pytest.raises(AttributeError, match="ScratchGPTForImages"):
        _ = scratch_gpt.ScratchGPTForImages
