"""What was saved of a split model is compared tensor by tensor with what was gathered."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from hf_finetune.errors import ModelError
from hf_finetune.training.sharding.saved import verify_tensors

WHOLE = {"layer.lora_A.weight": torch.arange(6.0).reshape(2, 3), "head.weight": torch.ones(4)}


def save(folder, **changed):
    tensors = {"layer.lora_A.weight": WHOLE["layer.lora_A.weight"], "head.weight": WHOLE["head.weight"]}
    save_file({name: each for name, each in (tensors | changed).items() if each is not None}, folder / "m.safetensors")


def test_files_that_hold_each_tensor_pass_in_their_own_precision_too(tmp_path):
    save(tmp_path, **{"head.weight": WHOLE["head.weight"].bfloat16(), "more": torch.zeros(1)})
    verify_tensors(tmp_path, WHOLE, shown=tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"), [(torch.tensor([1.0, 1.0, 1.0, 1.001]), "is not what"), (None, "in no file")]
)
def test_another_or_a_missing_tensor_is_refused(tmp_path, changed, said):
    save(tmp_path, **{"head.weight": changed})
    with pytest.raises(ModelError, match=said):
        verify_tensors(tmp_path, WHOLE, shown=tmp_path)
