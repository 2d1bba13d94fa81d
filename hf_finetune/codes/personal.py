"""HF4xx: personal data and secrets."""

from __future__ import annotations

from hf_finetune.codes.code import Code

_WHY = "A model can repeat what it was trained on, word for word, to whoever asks it."
_REPLACE = "replace it by a made-up one, or take the rows out; what is public on purpose may stay"
_REVOKE = "take it out, and make it invalid where it was issued: whoever has the file has it"

PERSONAL: dict[str, Code] = {
    "HF401": Code("rows hold e-mail addresses", "warning", _WHY, _REPLACE),
    "HF402": Code("rows hold phone numbers", "warning", _WHY, _REPLACE),
    "HF403": Code("rows hold bank account numbers", "warning", _WHY, _REPLACE),
    "HF404": Code("rows hold card numbers", "warning", _WHY, _REPLACE),
    "HF405": Code("rows hold IP addresses of the public internet", "note", _WHY, _REPLACE),
    "HF406": Code("rows hold numbers of the shape of a social security number", "warning", _WHY, _REPLACE),
    "HF411": Code("rows hold keys, tokens or passwords", "error", _WHY, _REVOKE),
    "HF412": Code("rows hold addresses with a password in them", "error", _WHY, _REVOKE),
}
