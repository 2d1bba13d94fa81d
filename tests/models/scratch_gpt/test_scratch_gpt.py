"""The forward pass: what it computes, and that no route to it computes anything else."""

from __future__ import annotations

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from models.scratch_models import VARIANTS, tiny_config, tiny_model, token_ids
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from hf_finetune.models.scratch_gpt import ScratchGPTForCausalLM, ScratchGPTForSequenceClassification, ScratchGPTModel

every_variant = pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
every_attention = pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
# Flex attention runs uncompiled here, and says so; transformers 5.23 and torch 2.13 use retired calls on the way to it.
ignore_flex_warning = pytest.mark.filterwarnings(
    "ignore:flex_attention called without torch.compile",
    "ignore:_compile flag on create_block_mask:DeprecationWarning",
    "ignore:.torch.jit.script_method. is deprecated:DeprecationWarning",
)

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(autouse=True)
def nothing_is_compiled():
    """Compiling flex attention and its masks takes a CPU ten seconds a shape; uncompiled they compute the same."""
    with torch.compiler.set_stance("force_eager"):
        yield


def naive_attention_logits(model: ScratchGPTForCausalLM, ids: list[int]) -> torch.Tensor:
    """The modern family with loops over positions and heads and complex rotations: nothing shared but the weights."""
    config, weights = model.config, {name: value.double() for name, value in model.state_dict().items()}
    head_dim = config.hidden_size // config.num_attention_heads

    def rms(x: torch.Tensor, weight: torch.Tensor | float = 1.0) -> torch.Tensor:
        return x / (x.pow(2).mean() + config.norm_eps).sqrt() * weight

    def turn(x: torch.Tensor, position: int) -> torch.Tensor:
        half = head_dim // 2
        angles = torch.tensor([position * config.rope_theta ** (-2 * i / head_dim) for i in range(half)])
        turned = torch.complex(x[:half], x[half:]) * torch.polar(torch.ones(half).double(), angles.double())
        return torch.cat((turned.real, turned.imag))

    states = [weights["model.embed_tokens.weight"][token] for token in ids]
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        normed = [rms(x, weights[f"{prefix}.input_layernorm.weight"]) for x in states]
        gathered = []
        for now in range(len(ids)):
            heads = []
            for head in range(config.num_attention_heads):
                rows = slice(head * head_dim, (head + 1) * head_dim)
                q, k, v = (weights[f"{prefix}.self_attn.{name}_proj.weight"][rows] for name in "qkv")
                query = turn(rms(q @ normed[now]), now)
                scores = [query @ turn(rms(k @ normed[then]), then) / math.sqrt(head_dim) for then in range(now + 1)]
                shares = torch.stack(scores).softmax(dim=0)
                heads.append(sum(share * (v @ normed[then]) for then, share in enumerate(shares)))
            gathered.append(weights[f"{prefix}.self_attn.o_proj.weight"] @ torch.cat(heads))
        states = [x + y for x, y in zip(states, gathered, strict=True)]
        up, down = weights[f"{prefix}.mlp.up_proj.weight"], weights[f"{prefix}.mlp.down_proj.weight"]
        scale = weights[f"{prefix}.post_attention_layernorm.weight"]
        states = [x + down @ (up @ rms(x, scale)).clamp(min=0).pow(2) for x in states]
    return torch.stack([weights["lm_head.weight"] @ rms(x, weights["model.norm.weight"]) for x in states])


def test_the_modern_family_computes_what_loops_over_positions_and_heads_compute():
    model = tiny_model().double()
    ids = token_ids(1, 7)
    torch.testing.assert_close(model(ids).logits[0], naive_attention_logits(model, ids[0].tolist()), **CLOSE)


def test_without_its_own_parts_the_modern_family_is_llama():
    fields = {"qk_norm": False, "gated_mlp": True, "num_key_value_heads": 2, "intermediate_size": 64}
    model = tiny_model(**fields)
    config = model.config
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.norm_eps,
        )
    ).eval()
    llama.load_state_dict(model.state_dict())
    ids = token_ids(2, 12)
    torch.testing.assert_close(model(ids).logits, llama(ids).logits, **CLOSE)


@ignore_flex_warning
@torch.no_grad()  # flex attention has no backward pass on a CPU
@every_variant
@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
def test_every_attention_implementation_computes_the_same(fields, attention):
    ids, mask = token_ids(3, 12), torch.ones(3, 12, dtype=torch.long)
    mask[1, 9:] = 0
    model = tiny_model(**fields)
    plain, padded = model(ids).logits, model(ids, attention_mask=mask).logits
    model.set_attn_implementation(attention)
    torch.testing.assert_close(model(ids).logits, plain, **CLOSE)
    torch.testing.assert_close(model(ids, attention_mask=mask).logits[mask.bool()], padded[mask.bool()], **CLOSE)


@every_variant
def test_a_later_token_changes_no_earlier_logits_and_an_earlier_one_does(fields):
    model, ids = tiny_model(**fields), token_ids(1, 10)
    changed = ids.clone()
    changed[0, 5] = (ids[0, 5] + 1) % 58 + 3
    before, after = model(ids).logits, model(changed).logits
    torch.testing.assert_close(before[:, :5], after[:, :5], atol=0, rtol=0)
    assert (before[0, 5:] - after[0, 5:]).abs().amax(dim=-1).min() > 1e-4


@every_variant
def test_the_order_of_earlier_tokens_matters(fields):
    model, ids = tiny_model(**fields), token_ids(1, 6)
    swapped = ids[:, [1, 0, 2, 3, 4, 5]]
    assert (model(ids).logits[:, -1] - model(swapped).logits[:, -1]).abs().max() > 1e-4


@every_variant
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_with_a_cache_each_token_alone_gets_the_logits_of_the_whole_text(fields, attention):
    model, ids = tiny_model(attention=attention, **fields), token_ids(2, 9)
    whole = model(ids).logits
    first = model(ids[:, :4], use_cache=True)
    pieces, cache = [first.logits], first.past_key_values
    for position in range(4, 9):
        step = model(ids[:, position : position + 1], past_key_values=cache)
        pieces.append(step.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, **CLOSE)
    chunked = model(ids[:, 4:], past_key_values=model(ids[:, :4], use_cache=True).past_key_values)
    torch.testing.assert_close(chunked.logits, whole[:, 4:], **CLOSE)


@ignore_flex_warning
@torch.no_grad()  # flex attention has no backward pass on a CPU
@every_variant
@every_attention
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(fields, attention, side):
    model, ids = tiny_model(attention=attention, **fields), token_ids(2, 7)
    plain = model(ids).logits
    padding, kept = torch.zeros(2, 4, dtype=torch.long), torch.ones_like(ids)
    order = (padding, ids) if side == "left" else (ids, padding)
    mask = (torch.zeros_like(padding), kept) if side == "left" else (kept, torch.zeros_like(padding))
    padded = model(torch.cat(order, dim=1), attention_mask=torch.cat(mask, dim=1)).logits
    torch.testing.assert_close(padded[:, 4:] if side == "left" else padded[:, :7], plain, **CLOSE)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_left_padding_under_autocast_gives_finite_logits_and_gradients(attention):
    model = tiny_model(attention=attention).train()
    ids, mask = token_ids(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, :4] = 0
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100))
    outputs.loss.backward()
    assert outputs.logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@ignore_flex_warning
@torch.no_grad()  # flex attention has no backward pass on a CPU
@every_variant
@every_attention
def test_packed_documents_get_the_logits_they_get_alone(fields, attention):
    model, lengths = tiny_model(attention=attention, **fields), (5, 3, 1, 7)
    ids = token_ids(1, sum(lengths))
    position_ids = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    alone = torch.cat([model(document).logits for document in ids.split(lengths, dim=1)], dim=1)
    for training in (False, True):  # with no use_cache given: a fresh cache must not merge the documents
        packed = model.train(training)(ids, position_ids=position_ids).logits
        torch.testing.assert_close(packed, alone, **CLOSE)
    together = model.eval()(ids).logits
    assert (together - alone)[:, 5:].abs().max() > 1e-3


def test_packed_rows_of_a_batch_are_split_at_their_own_places():
    model, ids = tiny_model(attention="sdpa"), token_ids(2, 8)
    position_ids = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2], [0, 1, 0, 1, 2, 3, 4, 5]])
    packed = model(ids, position_ids=position_ids).logits
    torch.testing.assert_close(packed[:1, 5:], model(ids[:1, 5:]).logits, **CLOSE)
    torch.testing.assert_close(packed[1:, 2:], model(ids[1:, 2:]).logits, **CLOSE)


def test_packed_and_separate_documents_give_the_same_gradients():
    model, ids = tiny_model(attention="sdpa"), token_ids(1, 9)
    labels = ids.clone()
    labels[0, 4] = -100  # the first token of the second document is not predicted from the first document
    model(ids, position_ids=torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]]), labels=labels).loss.backward()
    packed = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for document in ids.split((4, 5), dim=1):
        model(document, labels=document, num_items_in_batch=7).loss.backward()
    for parameter, gradient in zip(model.parameters(), packed, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **CLOSE)


def test_rotary_attention_depends_on_distances_only_and_learned_positions_on_places():
    ids = token_ids(1, 6)
    shifted = torch.arange(6).unsqueeze(0) + 9
    rotary, learned = tiny_model(), tiny_model(family="gpt2")
    torch.testing.assert_close(rotary(ids, position_ids=shifted).logits, rotary(ids).logits, atol=1e-4, rtol=1e-4)
    assert (learned(ids, position_ids=shifted).logits - learned(ids).logits).abs().max() > 1e-2


@pytest.mark.parametrize(
    "inputs",
    [
        {"input_ids": token_ids(1, 33)},
        {"input_ids": token_ids(1, 33), "attention_mask": torch.ones(1, 33, dtype=torch.long)},
        {"input_ids": token_ids(1, 2), "position_ids": torch.tensor([[31, 32]])},
    ],
    ids=["counted", "masked", "given"],
)
def test_a_position_without_a_learned_embedding_is_refused_with_both_numbers(inputs):
    with pytest.raises(ValueError, match=r"token 33 .* learned 32 positions"):
        tiny_model(family="gpt2")(**inputs)


def test_padding_does_not_use_up_learned_positions():
    model, ids = tiny_model(family="gpt2"), token_ids(1, 32)
    padded = F.pad(ids, (6, 0))
    logits = model(padded, attention_mask=(padded != 0).long()).logits[:, 6:]
    torch.testing.assert_close(logits, model(ids).logits, **CLOSE)


def test_generating_past_the_learned_positions_is_refused_before_an_index_error():
    with pytest.raises(ValueError, match="learned 32 positions"):
        tiny_model(family="gpt2").generate(token_ids(1, 30), max_new_tokens=9, min_new_tokens=9, do_sample=False)


def test_loss_is_the_mean_cross_entropy_of_the_next_token():
    model, ids = tiny_model(), token_ids(3, 8)
    labels = ids.clone()
    labels[0, :5] = -100
    outputs = model(ids, labels=labels)
    log_probabilities = outputs.logits.log_softmax(dim=-1)
    scored = [
        -log_probabilities[row, place - 1, labels[row, place]]
        for row in range(3)
        for place in range(1, 8)
        if labels[row, place] != -100
    ]
    torch.testing.assert_close(outputs.loss, torch.stack(scored).mean())
    assert len(scored) == 17
    halved = model(ids, labels=labels, num_items_in_batch=torch.tensor(34)).loss
    torch.testing.assert_close(halved * 2, outputs.loss)


def test_labels_that_come_shifted_are_not_shifted_again():
    model, ids = tiny_model(), token_ids(2, 8)
    shifted = F.pad(ids[:, 1:], (0, 1), value=-100)
    torch.testing.assert_close(model(ids, shift_labels=shifted).loss, model(ids, labels=ids).loss)
    torch.testing.assert_close(model(ids, labels=ids, shift_labels=shifted).loss, model(ids, labels=ids).loss)
    # As a trainer shifts them that splits sequences over devices, and hands both over: 7 targets where 6 labels are.
    labels, shifted = ids[:1].clone(), ids[:1].roll(-1, dims=1)
    labels[0, :2], shifted[0, -1] = -100, -100
    outputs = model(ids[:1], labels=labels, shift_labels=shifted)
    torch.testing.assert_close(outputs.loss, F.cross_entropy(outputs.logits[0], shifted[0]))


def test_a_batch_in_which_nothing_is_scored_has_loss_0_and_no_gradient():
    model, ids = tiny_model(), token_ids(2, 5)
    loss = model(ids, labels=torch.full_like(ids, -100)).loss
    loss.backward()
    assert loss.item() == 0.0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch():
    model, ids = tiny_model(), token_ids(4, 8)
    labels = ids.clone()
    labels[0, 2:], labels[3, :4] = -100, -100
    model(ids, labels=labels).loss.backward()
    whole = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    scored = (labels[:, 1:] != -100).sum()
    for row in range(4):
        model(ids[row : row + 1], labels=labels[row : row + 1], num_items_in_batch=scored).loss.backward()
    for parameter, gradient in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, **CLOSE)


def test_logits_to_keep_leaves_the_other_positions_out():
    model, ids = tiny_model(), token_ids(2, 6)
    torch.testing.assert_close(model(ids, logits_to_keep=2).logits, model(ids).logits[:, -2:], **CLOSE)


def test_a_fresh_modern_model_predicts_every_token_alike_and_learns_at_once():
    torch.manual_seed(0)
    model = ScratchGPTForCausalLM(tiny_config())
    ids = token_ids(4, 8)
    loss = model(ids, labels=ids).loss
    assert loss.item() == pytest.approx(math.log(61), abs=1e-6)
    layer = model.model.layers[0]
    assert not layer.self_attn.o_proj.weight.any()
    assert not layer.mlp.down_proj.weight.any()
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(32**-0.5, rel=0.1)
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(1.0, rel=0.1)
    loss.backward()
    assert model.lm_head.weight.grad.any()


def test_a_fresh_tied_modern_model_keeps_its_embedding():
    model = ScratchGPTForCausalLM(tiny_config(tie_word_embeddings=True))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.lm_head.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_a_fresh_gpt2_family_model_has_gpt2s_initial_scales():
    torch.manual_seed(0)
    model = ScratchGPTForCausalLM(tiny_config(family="gpt2", num_hidden_layers=8))
    layer = model.model.layers[3]
    for projection, std in ((layer.self_attn.q_proj, 0.02), (layer.mlp.up_proj, 0.02)):
        assert projection.weight.std().item() == pytest.approx(std, rel=0.1)
        assert not projection.bias.any()
    for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
        assert projection.weight.std().item() == pytest.approx(0.02 / 4, rel=0.1)


@pytest.mark.parametrize(
    ("model_class", "inputs"),
    [
        (ScratchGPTModel, {}),
        (ScratchGPTForCausalLM, {"input_ids": token_ids(1, 2), "inputs_embeds": torch.zeros(1, 2, 32)}),
    ],
)
def test_ids_and_embeddings_together_or_neither_are_refused(model_class, inputs):
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        tiny_model(model_class)(**inputs)


def test_embeddings_may_be_given_in_place_of_ids():
    model, ids = tiny_model(family="gpt2"), token_ids(2, 6)
    given = model(inputs_embeds=model.get_input_embeddings()(ids)).logits
    torch.testing.assert_close(given, model(ids).logits)


@pytest.mark.parametrize("side", ["left", "right"])
def test_classification_pools_the_last_token_that_is_not_padding(side):
    model, ids = tiny_model(ScratchGPTForSequenceClassification, num_labels=3), token_ids(2, 6)
    plain = model(ids).logits
    assert plain.shape == (2, 3)
    padded = F.pad(ids, (3, 0) if side == "left" else (0, 3))
    torch.testing.assert_close(model(padded, attention_mask=(padded != 0).long()).logits, plain, **CLOSE)


def test_classification_of_a_batch_without_a_pad_token_is_refused():
    model = tiny_model(ScratchGPTForSequenceClassification, pad_token_id=None)
    with pytest.raises(ValueError, match="no padding token is defined"):
        model(token_ids(2, 4))


@pytest.mark.parametrize(
    ("problem_type", "labels"),
    [
        ("single_label_classification", torch.tensor([2, 0])),
        ("multi_label_classification", torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])),
        ("regression", torch.randn(2, 3)),
    ],
)
def test_classification_computes_the_loss_of_its_problem_type(problem_type, labels):
    model = tiny_model(ScratchGPTForSequenceClassification, num_labels=3, problem_type=problem_type)
    outputs = model(token_ids(2, 6), labels=labels)
    expected = {
        "single_label_classification": F.cross_entropy,
        "multi_label_classification": F.binary_cross_entropy_with_logits,
        "regression": F.mse_loss,
    }[problem_type]
    torch.testing.assert_close(outputs.loss, expected(outputs.logits, labels))


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"hidden_size": 30}, ("30", "4")),
        ({"hidden_size": 36}, ("36", "9")),
        ({"num_key_value_heads": 3}, ("4", "3")),
        ({"num_hidden_layers": 0}, ("num_hidden_layers is 0", "1")),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_both_numbers(fields, numbers):
    with pytest.raises(StrictDataclassError) as refused:
        tiny_config(**fields)
    assert all(number in str(refused.value) for number in numbers)


def test_odd_heads_are_fine_where_positions_are_learned():
    assert tiny_config(hidden_size=36, family="gpt2").hidden_size == 36


@pytest.mark.parametrize(
    "fields",
    [{"hidden_act": "relu"}, {"family": "gpt3"}, {"hidden_size": "32"}, {"qk_norm": "yes"}, {"norm_type": "batch"}],
)
def test_values_of_the_wrong_kind_are_refused(fields):
    with pytest.raises(StrictDataclassError):
        tiny_config(**fields)


def test_a_family_decides_what_is_left_open_and_nothing_that_is_set():
    gpt2 = tiny_config(family="gpt2")
    assert (gpt2.position_embedding_type, gpt2.norm_type, gpt2.hidden_act) == ("learned", "layernorm", "gelu_new")
    assert (gpt2.use_bias, gpt2.tie_word_embeddings, gpt2.qk_norm) == (True, True, False)
    mixed = tiny_config(family="gpt2", position_embedding_type="rotary", use_bias=False, norm_type="rmsnorm")
    assert (mixed.position_embedding_type, mixed.use_bias, mixed.norm_type) == ("rotary", False, "rmsnorm")
    modern = tiny_config()
    assert (modern.position_embedding_type, modern.norm_type, modern.hidden_act) == ("rotary", "rmsnorm", "relu2")
    assert tiny_config(gated_mlp=True).hidden_act == "silu"
    assert tiny_config(hidden_size=384, gated_mlp=True).intermediate_size == 1024


@pytest.mark.parametrize("activation", ["relu2", "silu", "gelu", "gelu_new"])
def test_every_activation_is_the_one_that_transformers_knows_by_its_name(activation):
    from transformers.activations import ACT2FN

    from hf_finetune.models.scratch_gpt.modeling_scratch_gpt import ACTIVATIONS

    values = torch.linspace(-4, 4, 101)
    torch.testing.assert_close(ACTIVATIONS[activation](values), ACT2FN[activation](values), atol=1e-6, rtol=1e-5)
