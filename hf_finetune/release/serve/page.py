"""The page at `/`: a chat with one model, or two side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from hf_finetune.pages import hash_style, make_environment, read_shared_style


@dataclass(frozen=True, slots=True)
class Page:
    html: str
    headers: dict[str, str]
    """Its policy: no script and no style but its own, and no address but this server's."""


def render_page(names: Sequence[str], *, needs_key: bool, keeps_votes: bool) -> Page:
    """Render the page of a server that serves `names`, the first of which is meant by default."""
    css, script = read_shared_style() + _read("serve.css"), _read("serve.js")
    html = (
        make_environment(_read)
        .get_template("serve.html.j2")
        .render(css=css, script=script, names=list(names), needs_key=needs_key, keeps_votes=keeps_votes)
    )
    # Hashes allow this script and this style, and none that a model's answer would bring.
    policy = (
        f"default-src 'none'; style-src '{hash_style(css)}'; script-src '{hash_style(script)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-store",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Page(html, headers)


def _read(name: str) -> str:
    return (files("hf_finetune.release.serve") / "templates" / name).read_text(encoding="utf-8")
