"""Whatever its own description lets a client ask, and what that forbids: never a fault of the server."""

from __future__ import annotations

import hypothesis
import pytest
import schemathesis
from release.serve.small_servers import listening_server, served
from schemathesis.checks import not_a_server_error
from transformers import LlamaConfig, LlamaForCausalLM

from hf_finetune.chat.template import load_chat_template
from hf_finetune.config.sections import DataSection
from hf_finetune.models.tokenizer_training import train_tokenizer

EXAMPLES = 12  # benchmarks/serve_figures.py has a thousand


@pytest.fixture(scope="module")
def reads_any_text(tmp_path_factory):
    """A model of bytes, to which no text is foreign."""
    folder = tmp_path_factory.mktemp("schema") / "bytes"
    tokenizer = train_tokenizer("bpe", ["the cat sat on the mat. who are you?"] * 3, 270)
    load_chat_template(DataSection(train="x"), tokenizer)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **sizes, **special)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_no_request_makes_the_server_fail(reads_any_text, tmp_path):
    statuses = set()
    options = {"limits": {"max_tokens": 4, "choices": 2}, "votes": str(tmp_path / "votes.jsonl")}
    quiet = {"deadline": None, "database": None, "suppress_health_check": list(hypothesis.HealthCheck)}
    with served(reads_any_text, **options) as running, listening_server(running) as address:
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        asked = [each.ok() for each in schema.get_all_operations()]
        assert len(asked) == 10
        for operation in (each for each in asked if each.method == "post"):
            for mode in schemathesis.GenerationMode:

                @hypothesis.settings(max_examples=EXAMPLES, **quiet)
                @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
                def look(case):
                    response = case.call()
                    statuses.add(response.status_code)
                    case.validate_response(response, checks=[not_a_server_error])

                look()
    assert {200, 400} <= statuses
