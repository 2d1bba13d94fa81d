"""A `Run` -> plain values and YAML; loading the YAML gives an equal `Run`."""

from __future__ import annotations

from typing import Any

import yaml

from hf_finetune.config.reading.yaml_reader import parse_plain
from hf_finetune.config.sections import Run
from hf_finetune.privacy import hide_home


def dump_dict(run: Run) -> dict[str, Any]:
    """Convert every setting to JSON types. The home folder is written `~`, so that no user name is in it."""
    values: dict[str, Any] = hide_home(run.model_dump(mode="json"))
    return values


def dump_yaml(run: Run) -> str:
    """Write `run` as YAML, the content of `run.yaml` in the run folder."""
    return yaml.dump(dump_dict(run), Dumper=_RunDumper, sort_keys=False, allow_unicode=True, width=120)


class _RunDumper(yaml.SafeDumper):
    """Quotes every text that `parse_plain`, whose rules differ from PyYAML's, would read as another type."""

    # An object that occurs twice would be written as an anchor and an alias, which few people can read.
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # "1e-4" must be quoted here, though PyYAML itself reads it as text: our reader takes 1e-4 for a number.
    # Outside double quotes YAML folds line breaks, U+0085 and U+2028 among them.
    plain = isinstance(parse_plain(text), str) and text.isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_RunDumper.add_representer(str, _represent_text)
