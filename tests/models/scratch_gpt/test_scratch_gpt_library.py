"""ScratchGPT in the hands of the library: the properties that transformers' common model tests ask of its own models,
and training through peft, bitsandbytes, torch.compile, Trainer and trl."""

from __future__ import annotations

import pytest
import torch
from models.scratch_models import VARIANTS, tiny_config, tiny_model, token_ids
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, DynamicCache, StaticCache, set_seed
from transformers.pytorch_utils import Conv1D

from hf_finetune.models.scratch_gpt import (
    ScratchGPTForCausalLM,
    ScratchGPTForSequenceClassification,
    ScratchGPTModel,
)

every_variant = pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS)
every_class = pytest.mark.parametrize(
    "model_class", [ScratchGPTModel, ScratchGPTForCausalLM, ScratchGPTForSequenceClassification]
)

# peft 0.21 reads a property that transformers 5.23 has renamed.
ignore_peft_warning = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


# --- outputs ---------------------------------------------------------------------------------------------------------


@every_variant
@every_class
def test_hidden_states_and_attentions_are_given_when_asked_for(fields, model_class):
    model = tiny_model(model_class, **fields)
    outputs = model(token_ids(2, 7), output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in outputs.hidden_states] == [(2, 7, 32)] * 3
    assert [weights.shape for weights in outputs.attentions] == [(2, 4, 7, 7)] * 2
    for weights in outputs.attentions:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 4, 7))
        assert not weights.triu(diagonal=1).any()


def test_the_last_hidden_state_is_normalised_and_is_all_that_the_head_reads():
    model = tiny_model()
    outputs = model(token_ids(2, 7), output_hidden_states=True)
    backbone = model.base_model(token_ids(2, 7)).last_hidden_state
    torch.testing.assert_close(outputs.hidden_states[-1], backbone)
    torch.testing.assert_close(F.linear(backbone, model.get_output_embeddings().weight), outputs.logits)


def test_outputs_come_as_a_tuple_when_asked_for():
    model, ids = tiny_model(), token_ids(2, 5)
    loss, logits, *_ = model(ids, labels=ids, return_dict=False)
    torch.testing.assert_close((loss, logits), model(ids, labels=ids).to_tuple()[:2])


def test_a_forward_pass_is_deterministic_in_eval_and_not_with_dropout_in_training():
    model, ids = tiny_model(hidden_dropout=0.2, attention_dropout=0.2), token_ids(2, 7)
    torch.testing.assert_close(model(ids).logits, model(ids).logits, atol=0, rtol=0)
    model.train()
    assert not torch.equal(model(ids).logits, model(ids).logits)


@pytest.mark.parametrize("dropout", ["hidden_dropout", "attention_dropout"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_each_dropout_acts_in_training_only(dropout, attention):
    model, ids = tiny_model(attention=attention, **{dropout: 0.5}), token_ids(2, 7)
    plain = tiny_model(attention=attention)(ids).logits
    torch.testing.assert_close(model(ids).logits, plain)
    assert (model.train()(ids).logits - plain).abs().max() > 1e-2


def test_training_makes_no_cache_and_evaluation_does():
    model, ids = tiny_model(), token_ids(1, 5)
    assert model(ids).past_key_values.get_seq_length() == 5
    assert model(ids, use_cache=False).past_key_values is None
    assert model.train()(ids).past_key_values is None


# --- embeddings ------------------------------------------------------------------------------------------------------


@every_variant
@pytest.mark.parametrize("rows", [70, 40])
def test_embeddings_and_head_resize_together(fields, rows, tmp_path):
    model, ids = tiny_model(**fields), token_ids(2, 6, vocab_size=40)
    before = model(ids).logits
    model.resize_token_embeddings(rows, mean_resizing=False)
    after = model(ids, labels=ids)
    assert (model.config.vocab_size, after.logits.shape[-1]) == (rows, rows)
    kept = min(rows, 61)
    torch.testing.assert_close(after.logits[..., :kept], before[..., :kept])
    assert after.loss.isfinite()
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == model.config.tie_word_embeddings
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    torch.testing.assert_close(loaded(ids).logits, after.logits)


def test_input_and_output_embeddings_can_be_read_and_replaced():
    model = tiny_model()
    assert model.get_input_embeddings() is model.model.embed_tokens
    assert model.get_output_embeddings() is model.lm_head
    embeddings, head = nn.Embedding(61, 32), nn.Linear(32, 61, bias=False)
    model.set_input_embeddings(embeddings)
    model.set_output_embeddings(head)
    assert model.model.embed_tokens is embeddings
    assert model.lm_head is head


# --- generation ------------------------------------------------------------------------------------------------------


def greedy_by_hand(model: ScratchGPTForCausalLM, ids: torch.Tensor, count: int) -> torch.Tensor:
    for _ in range(count):
        ids = torch.cat((ids, model(ids, use_cache=False).logits[:, -1:].argmax(dim=-1)), dim=1)
    return ids


@torch.no_grad()
@every_variant
@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"cache_implementation": "static"}], ids=str)
def test_greedy_generation_is_a_loop_of_argmaxes(fields, options):
    model, ids = tiny_model(**fields), token_ids(2, 5)
    expected = greedy_by_hand(model, ids, 8)
    with torch.compiler.set_stance("force_eager"):  # generate compiles for a static cache
        generated = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None, **options)
    assert generated.tolist() == expected.tolist()


@torch.no_grad()
@every_variant
def test_prompts_of_different_lengths_generate_in_one_batch_what_they_generate_alone(fields):
    model = tiny_model(**fields)
    prompts = [token_ids(1, length, seed=length) for length in (3, 7, 5)]
    alone = [greedy_by_hand(model, prompt, 6)[0, -6:].tolist() for prompt in prompts]
    batch = torch.cat([F.pad(prompt, (7 - prompt.shape[1], 0)) for prompt in prompts])
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    generated = model.generate(batch, attention_mask=(batch != 0).long(), **options)
    assert generated[:, 7:].tolist() == alone


@torch.no_grad()
def test_sampling_beams_and_prompts_as_embeddings_generate():
    model, ids = tiny_model(), token_ids(2, 5)
    set_seed(0)
    sampled = model.generate(ids, max_new_tokens=5, do_sample=True, top_k=10, eos_token_id=None)
    assert sampled.shape == (2, 10)
    beams = model.generate(
        ids, max_new_tokens=5, num_beams=3, num_return_sequences=2, do_sample=False, eos_token_id=None
    )
    assert beams.shape == (4, 10)
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    embedded = model.generate(inputs_embeds=model.get_input_embeddings()(ids), **options)
    assert embedded.tolist() == greedy_by_hand(model, ids, 5)[:, 5:].tolist()


@torch.no_grad()
def test_a_beam_search_finds_a_text_no_less_likely_than_the_greedy_one():
    model, ids = tiny_model(), token_ids(1, 4)

    def log_likelihood(text: torch.Tensor) -> float:
        log_probabilities = model(text).logits.log_softmax(dim=-1)[:, 3:-1]
        return log_probabilities.gather(2, text[:, 4:, None]).sum().item()

    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    greedy, beam = model.generate(ids, **options), model.generate(ids, num_beams=20, **options)
    assert log_likelihood(beam) >= log_likelihood(greedy) - 1e-5


@torch.no_grad()
def test_generation_goes_on_from_a_given_cache():
    model, ids = tiny_model(), token_ids(1, 6)
    cache = DynamicCache(config=model.config)
    model(ids[:, :4], past_key_values=cache)
    generated = model.generate(ids, past_key_values=cache, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert generated.tolist() == greedy_by_hand(model, ids, 4).tolist()


@torch.no_grad()
@every_variant
def test_a_static_cache_gives_the_logits_of_the_whole_text(fields):
    model, ids = tiny_model(attention="sdpa", **fields), token_ids(2, 8)
    cache = StaticCache(config=model.config, max_cache_len=16)
    pieces = [model(part, past_key_values=cache).logits for part in (ids[:, :5], ids[:, 5:6], ids[:, 6:])]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids).logits, **CLOSE)


# --- training --------------------------------------------------------------------------------------------------------


@every_variant
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(fields, use_reentrant):
    model, ids = tiny_model(**fields).train(), token_ids(2, 7)
    model(ids, labels=ids).loss.backward()
    plain = gradients(model)
    model.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    assert model.is_activation_checkpointing
    model(ids, labels=ids).loss.backward()
    torch.testing.assert_close(gradients(model), plain, **CLOSE)


@every_variant
def test_every_parameter_gets_a_gradient(fields):
    model, ids = tiny_model(**fields).train(), token_ids(2, 7)
    model(ids, labels=ids).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@every_variant
def test_eight_rows_are_learned_by_heart_from_first_weights(fields):
    torch.manual_seed(0)
    model, ids = ScratchGPTForCausalLM(tiny_config(**fields)), token_ids(8, 16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95))
    for _ in range(100):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    predicted = model.eval()(ids).logits[:, 1:-1].argmax(dim=-1)  # the first token of a row tells which row it is
    assert (predicted == ids[:, 2:]).float().mean() > 0.95
    assert loss.item() < 0.7


@pytest.mark.parametrize(
    ("attention", "fields"), [("sdpa", fields) for fields in VARIANTS.values()] + [("eager", {})], ids=str
)
def test_the_whole_model_compiles_into_one_graph(attention, fields):
    torch.compiler.reset()
    model, ids = tiny_model(attention=attention, **fields).train(), token_ids(2, 7)
    model(ids, labels=ids).loss.backward()
    plain = gradients(model)
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(ids, labels=ids).loss.backward()
    torch.testing.assert_close(gradients(model), plain, **CLOSE)


@every_variant
def test_bfloat16_autocast_stays_close_to_float32(fields):
    model, ids = tiny_model(**fields).train(), token_ids(4, 16)
    exact = model(ids, labels=ids).loss
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(ids, labels=ids).loss
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)


def test_the_library_is_told_what_the_model_can_do():
    model = tiny_model()
    assert set(model._no_split_modules) == {"ScratchGPTDecoderLayer"}
    assert any(type(module).__name__ == "ScratchGPTDecoderLayer" for module in model.modules())
    assert model._supports_flash_attn
    assert model._supports_flex_attn
    assert model.supports_gradient_checkpointing
    assert not list(model.buffers())  # nothing that loading on the meta device could lose
    assert not [module for module in model.modules() if isinstance(module, Conv1D)]
    plan = model.config.base_model_fsdp_plan
    assert {"embed_tokens", "norm"} <= set(dict(model.model.named_children()))
    assert "layers.*" in plan


# --- the other libraries ---------------------------------------------------------------------------------------------


@ignore_peft_warning
def test_lora_on_all_linear_layers_trains_and_reloads(tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    ids = token_ids(4, 8)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(tiny_model(), config).train()
    adapted = {name.split(".")[-4] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(10):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
    torch.testing.assert_close(reloaded(input_ids=ids).logits, model(input_ids=ids).logits)
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, reloaded(input_ids=ids).logits, atol=1e-4, rtol=1e-4)


@ignore_peft_warning
def test_four_bit_weights_load_run_and_take_an_adapter(tmp_path):
    pytest.importorskip("bitsandbytes")
    from peft import LoraConfig, get_peft_model
    from transformers import BitsAndBytesConfig

    model, ids = tiny_model(hidden_size=64), token_ids(2, 8)
    model.save_pretrained(tmp_path)
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=quantization, dtype=torch.float32)
    assert type(loaded.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    assert type(loaded.lm_head) is nn.Linear
    close = F.cosine_similarity(loaded.eval()(ids).logits.flatten(), model(ids).logits.flatten(), dim=0)
    assert close > 0.9
    adapted = get_peft_model(loaded, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")).train()
    adapted(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)


@pytest.mark.parametrize("fields", [{}, {"family": "gpt2"}], ids=["modern", "gpt2"])
def test_trls_fused_head_computes_the_same_loss_and_gradients(fields, tmp_path):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, ids = tiny_model(attention="sdpa", **fields).train(), token_ids(4, 9)
    labels = ids.clone()
    labels[1, :4] = -100
    expected = model(ids, labels=labels).loss
    expected.backward()
    plain = gradients(model)
    model.zero_grad()
    rows = Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        per_device_train_batch_size=4,
        max_steps=1,
        report_to="none",
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tiny_tokenizer())
    inputs = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    scored = (labels[:, 1:] != -100).sum()
    loss = trainer.compute_loss(trainer.model, inputs, num_items_in_batch=scored)
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected.detach(), **CLOSE)
    torch.testing.assert_close(gradients(model), plain, **CLOSE)


def tiny_tokenizer():
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<bos>": 1, "<eos>": 2, **{chr(97 + i): i + 3 for i in range(26)}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>")),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
    )


@pytest.mark.parametrize("model_class", [ScratchGPTForCausalLM, ScratchGPTForSequenceClassification])
def test_trainer_scales_accumulated_gradients_like_one_large_batch(model_class, tmp_path):
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    ids = token_ids(4, 8)
    labels = ids.tolist() if model_class is ScratchGPTForCausalLM else [0, 1, 1, 0]
    rows = Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels})

    def trained(batch: int, accumulate: int) -> dict[str, torch.Tensor]:
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            use_cpu=True,
            max_steps=1,
            learning_rate=0.1,
            max_grad_norm=0.0,
            optim="sgd",
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulate,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        model = tiny_model(model_class)
        Trainer(model=model, args=arguments, train_dataset=rows).train()
        return model.state_dict()

    torch.testing.assert_close(trained(1, 4), trained(4, 1), **CLOSE)
