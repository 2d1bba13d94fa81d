"""The Modelfile of a GGUF file: https://docs.ollama.com/modelfile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from hf_finetune.models.gguf_folders.reading import MODEL

MODELFILE = "Modelfile"
# What GGUF files have no common word for, Ollama calls as transformers does.
PARAMETERS = {"repetition_penalty": "repeat_penalty"}


def write_modelfile(
    template: str | None, stops: Sequence[str], sampling: Mapping[str, int | float], license_name: str | None
) -> str:
    """Write the Modelfile of the model beside it: its template, where answers end, and how they are sampled."""
    lines = [f"FROM ./{MODEL}"]
    if template is not None:
        assert '"""' not in template  # the texts in it are of letters, and none is empty
        lines.append(f'TEMPLATE """{template}"""')
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    lines += [f"PARAMETER {PARAMETERS.get(name, name)} {value:g}" for name, value in sampling.items()]
    if license_name:
        lines.append(f"LICENSE {json.dumps(license_name, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
