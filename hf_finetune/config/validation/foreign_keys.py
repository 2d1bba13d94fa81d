"""What others call our settings: TRL, axolotl, LLaMA-Factory, unsloth, torchtune, llama-recipes and nanoGPT.

A row is a bare name, or `section.name` where the same word means another thing in another section of ours. Names that
TrainingArguments, SFTConfig or LoraConfig have today need no row: a known name in a wrong section is found by itself.
"""

from __future__ import annotations

import functools

from hf_finetune.config.sections import RecipeName

# Our key -> what it is called elsewhere.
SAME: dict[str, str] = {
    "output_dir": "output out_dir output_directory save_dir train.save_dir dist_checkpoint_root_folder",
    "model.path": "model_name_or_path model_name model_id base_model pretrained_model_name_or_path llm model.name "
    "checkpointer.checkpoint_dir model.id model.base model.model pretrained checkpoint_dir checkpointer model_path "
    "init_from train.model train.model_name data.model train.path lora.path lora.base_model",
    "model.adapter": "lora_model_dir adapter_name_or_path from_peft_checkpoint",
    "model.tokenizer": "tokenizer_name tokenizer_name_or_path tokenizer_path tokenizer_config processor",
    "model.dtype": "torch_dtype pure_bf16 bnb_4bit_compute_dtype precision compute_dtype",
    "model.attn_implementation": "flash_attention flash_attn use_flash_attention_2 use_flash_attn use_flash_attention "
    "attn_impl attention attn sdp_attention xformers_attention eager_attention flex_attention use_fast_kernels",
    "model.load_in_4bit": "quantization_bit quantize_base quantization use_4bit use_qlora bits load_4bit "
    "quantization_config",
    "model.load_in_8bit": "use_8bit load_8bit int8 gptq",
    "model.revision": "model_revision base_model_revision",
    "model.train_only": "freeze_layers num_freeze_layers freeze_trainable_layers unfrozen_parameters "
    "num_layer_trainable freeze_trainable_modules freeze_backbone freeze_encoder",
    "model.scratch.num_hidden_layers": "n_layer n_layers num_layers",
    "model.scratch.num_attention_heads": "n_head n_heads num_heads",
    "model.scratch.num_key_value_heads": "n_kv_head num_kv_heads",
    "model.scratch.hidden_size": "n_embd d_model embed_dim",
    "model.scratch.hidden_dropout": "dropout resid_pdrop",
    "model.tokenizer.train.vocab_size": "vocab_size model.vocab_size",
    "data.train": "dataset datasets train_file train_files data_path dataset_name dataset_path dataset_name_or_path "
    "data_files training_file training_data train_data train_dataset pretraining_dataset dataset_id file_name "
    "data.path data.file data.files data.name data.source data.training data.dir data.data train.dataset train.data "
    "train.file",
    "data.validation": "validation_file eval_file eval_dataset val_dataset dataset_val test_datasets val_file "
    "dev_file validation_data eval_data valid_file data.val data.valid data.eval data.dev data.eval_file "
    "data.val_file eval.dataset eval.data eval.file",
    "data.validation_fraction": "val_size val_set_size validation_split validation_split_percentage eval_split_ratio "
    "val_split val_ratio eval_size valid_size dev_size data.split_ratio",
    "data.test_fraction": "test_size test_split_percentage test_ratio",
    "data.test": "test_file test_data test_dataset",
    "data.format": "data.type dataset_type data.train.type data.train.ds_type data_format dataset_format "
    "data.train.format prompt_style data.style",
    "data.chat_template": "template default_template prompt_template conversation_template chat_format "
    "chat_template_jinja model.chat_template data.template model.template data.train.chat_template",
    "data.columns": "dataset_text_field text_column columns column_map data.train.field data.train.field_messages "
    "data.train.columns data.train.message_property_mappings",
    "data.system": "default_system system_prompt data.train.system_prompt",
    "data.loss_on": "train_on_inputs train_on_input train_on_prompt mask_history train_on_completions_only "
    "train_on_responses_only roles_to_train mask_inputs response_template instruction_template mask_prompt "
    "train_on_source",
    "data.too_long": "excess_length_strategy truncate drop_long truncation",
    "data.labels": "label_map label_mapping id2label",
    "data.balance": "class_weight class_weights pos_weight label_weights",
    "data.task": "problem_type",
    "data.train.weight": "interleave_probs dataset_weights data.probabilities sampling_weights mixture_weights",
    "data.num_proc": "preprocessing_num_workers dataset_processes dataset_num_proc num_proc",
    "data.stream": "streaming dataset_streaming",
    "data.isolate_documents": "eod_mask_loss reset_attention_mask document_masking",
    "train.learning_rate": "lr max_lr peak_lr optimizer.lr optimizer.learning_rate",
    "train.num_train_epochs": "epochs num_epochs epoch n_epochs max_epochs max_epoch num_training_epochs train_epochs",
    "train.max_steps": "steps max_steps_per_epoch num_steps max_iters num_training_steps total_steps max_train_steps "
    "train.iterations iters",
    "train.per_device_train_batch_size": "batch_size train_batch_size micro_batch_size batch_size_training "
    "per_gpu_batch_size per_device_batch_size per_gpu_train_batch_size microbatch_size device_train_microbatch_size "
    "bsz bs",
    "train.per_device_eval_batch_size": "eval_batch_size val_batch_size eval.per_device_batch_size",
    "train.gradient_accumulation_steps": "grad_accum grad_acc grad_accum_steps grad_accumulation_steps "
    "accumulation_steps accumulate_grad_batches gradient_accumulation gradient_accumulation_iters "
    "gradient_accumulation_step",
    "train.gradient_checkpointing": "use_gradient_checkpointing activation_checkpointing_enabled grad_checkpointing "
    "enable_activation_checkpointing fsdp_activation_checkpointing",
    "train.gradient_checkpointing_kwargs": "gradient_checkpointing_use_reentrant use_reentrant_gc",
    "train.max_grad_norm": "grad_clip gradient_clipping gradient_clipping_threshold clip_grad_norm grad_clip_norm "
    "gradient_clip_val clip_grad max_norm",
    "train.optim": "optimizer optim_type optimizer_type optimizer_name",
    "train.lr_scheduler_type": "scheduler lr_scheduler lr_schedule decay_lr lr_decay_style",
    "train.lr_scheduler_kwargs": "cosine_min_lr_ratio min_lr lr_scheduler_args cosine_constant_lr_ratio",
    "train.warmup_steps": "warmup lr_scheduler.num_warmup_steps num_warmup_steps warmup_ratio warmup_iters "
    "lr_warmup_steps warmup_epochs",
    "train.eval_steps": "run_val_every_n_steps eval_interval evals_per_epoch eval_every val_interval eval_frequency "
    "val_check_interval eval.steps eval.interval eval.every",
    "train.eval_strategy": "run_validation evaluation_strategy do_eval evaluate_during_training eval.strategy",
    "train.save_steps": "saves_per_epoch save_interval checkpoint_interval save_every save_every_n_steps",
    "train.save_total_limit": "max_checkpoints keep_checkpoints num_checkpoints",
    "train.logging_steps": "log_every_n_steps log_interval logging_interval log_every log_freq log_steps",
    "train.report_to": "use_wandb metric_logger logger with_tracking use_tensorboard tracker trackers report_to_wandb",
    "train.run_name": "wandb_name wandb_run_name experiment_name exp_name",
    "train.seed": "random_state random_seed training_seed manual_seed rng_seed",
    "train.dataloader_num_workers": "num_workers num_workers_dataloader data.num_workers",
    "train.torch_compile": "compile compile_model use_compile",
    "train.use_liger_kernel": "enable_liger_kernel use_liger liger_kernel",
    "train.neftune_noise_alpha": "neftune noisy_embedding_alpha use_neftune",
    "train.bf16": "mixed_precision use_bf16 use_amp amp mixed_bf16 enable_bf16",
    "train.fp16": "use_fp16 half_precision",
    "train.use_cpu": "no_cuda use_cuda force_cpu",
    "train.early_stopping_patience": "patience early_stop_patience early_stopping early_stopping_steps",
    "train.label_smoothing_factor": "label_smoothing",
    "train.resume_from_checkpoint": "auto_resume_from_checkpoints resume resume_training resume_checkpoint",
    "train.train_sampling_strategy": "group_by_length sample_by_length",
    "train.fsdp": "enable_fsdp use_fsdp",
    "train.adam_beta1": "beta1",
    "train.weight_decay": "wd optimizer.weight_decay",
    "train.adam_beta2": "beta2",
    "train.adam_epsilon": "adam_eps",
    "lora.r": "lora_r lora_rank rank lora.lora_r lora.lora_rank lora.dim lora_dim",
    "lora.lora_alpha": "alpha lora.alpha lora.scale lora.scaling",
    "lora.lora_dropout": "lora.dropout",
    "lora.target_modules": "lora_target lora_targets lora_target_modules lora_attn_modules lora_query lora_key "
    "lora_value lora_projection lora.target lora.targets lora.modules lora.layers lora_modules",
    "lora.modules_to_save": "lora_modules_to_save additional_target lora_modules_to_train apply_lora_to_output",
    "lora.use_dora": "peft_use_dora dora",
    "lora.use_rslora": "peft_use_rslora rslora",
    "lora.init_lora_weights": "pissa_init peft_init_lora_weights lora_init lora.init",
    "lora.layers_to_transform": "peft_layers_to_transform",
    "hub.repo_id": "hub_model_id push_to_hub_model_id hub_repo hub_repo_id hub.model_id hub.name hub.repo hub.id",
    "hub.private": "hub_private_repo hub_private private_repo",
    "hub.push_every": "hub_strategy",
    "eval.prompts": "sample_prompts generation_prompts test_prompts eval_prompts",
    "eval.max_new_tokens": "max_tokens generate_max_len eval_max_new_tokens num_new_tokens max_gen_len",
}

# Ours depends on the recipe: the longest row, and several rows in one sequence.
_LENGTH = (
    "max_seq_len max_seq_length max_length max_len seq_len seq_length sequence_len sequence_length cutoff_len "
    "context_length context_len block_size model_max_length model_max_len max_sequence_length max_token_length"
)
_PACKING = "sample_packing neat_packing packed packing batching_strategy eval_sample_packing multipack concat_samples"
BY_RECIPE: dict[str, dict[RecipeName, str]] = {
    _LENGTH: {
        "continued_pretraining": "data.block_size",
        "classification": "data.max_length",
        "sft": "train.max_length",
        "lora": "train.max_length",
        "score": "score cuts rows at what the model takes; leave it out",
    },
    _PACKING: {
        "continued_pretraining": "documents are always packed, into blocks of data.block_size; leave it out",
        "classification": "each text is a row of its own; leave it out",
        "sft": "train.packing",
        "lora": "train.packing",
        "score": "nothing is trained; leave it out",
    },
}

# What to do instead -> names that have no key of ours.
INSTEAD: dict[str, str] = {
    "the recipe says it: write recipe: sft, lora, classification or continued_pretraining": "stage finetuning_type "
    "peft_method use_peft full_finetuning train_type peft_type",
    "write recipe: lora and a section lora; for qlora also model.load_in_4bit: true": "adapter",
    "the recipe says what is run; leave it out": "do_train do_predict task_type lora_task_type",
    "preferences and rewards are not trained here; docs/recipes.md has what is": "rl dpo dpo_beta pref_beta pref_loss "
    "reward_model kto_tau rl_beta",
    "where it runs is said by --on: hf-finetune train run.yaml --on single_gpu": "device device_map one_gpu num_gpus "
    "n_gpu gpus num_nodes num_processes local_rank",
    "it belongs to the launch: name an accelerate configuration with --on": "low_cpu_fsdp zero_stage fsdp_cpu_offload "
    "sharding_strategy",
    "write lora.target_modules: all-linear": "lora_target_linear apply_lora_to_mlp lora_mlp",
    "LoRA+ is not built in; raise train.learning_rate, or set lora.use_rslora: true": "loraplus_lr_ratio "
    "loraplus_lr_embedding",
    "leave it out; hf-finetune merge needs no GPU": "lora_on_cpu",
    "model.load_in_4bit is nf4 with double quantization; leave it out": "use_bnb_nested_quant bnb_4bit_quant_type "
    "bnb_4bit_use_double_quant double_quantization quantization_type quantization_method quant_type",
    "write train.optim: galore_adamw, and train.optim_target_modules": "use_galore galore_target",
    "it is not built in; train less with model.train_only or the recipe lora": "use_badam use_llama_pro lisa_n_layers",
    "it is not built in; train.optim: adafactor keeps the optimizer small": "optimizer_in_bwd",
    "write train.optim: muon": "use_muon",
    "there is no dataset_info.json here: data.train names the file itself": "dataset_dir dataset_info",
    "name a file of the rows in data.train": "dataset_config dataset_config_name",
    "name the files: data.train, and data.validation or data.validation_fraction": "dataset_train_split "
    "dataset_test_split train_split test_split data.split data.train.split",
    "shorten the file, or give it a weight below 1 in data.train; train.max_steps stops early": "max_samples "
    "num_samples max_train_samples max_eval_samples data.train.num_samples",
    "the parts of a stream are shuffled as a whole; leave it out, or set data.stream_part": "buffer_size",
    "what is kept of earlier runs is found by what it was made of; leave it out": "overwrite_cache tokenized_path "
    "dataset_prepared_path push_dataset_to_hub",
    "a used folder is never written over: name a new output_dir": "overwrite_output_dir overwrite",
    "rows are shuffled anew in each epoch by train.seed; leave it out": "shuffle shuffle_merged_datasets data.shuffle",
    "a batch is padded to its longest row; leave it out": "pad_to_sequence_len padding data.padding pad_to_max_length",
    "the tokenizer's own special tokens are used; leave it out, or name another model.tokenizer": "special_tokens "
    "tokens new_special_tokens add_tokens resize_vocab split_special_tokens eos_token pad_token",
    "it is read from the model's own config.json; leave it out": "model_type tokenizer_type base_model_config "
    "tokenizer_use_fast use_fast_tokenizer",
    "write train.report_to: wandb, and set WANDB_PROJECT, WANDB_ENTITY ... in the environment": "wandb_project "
    "wandb_entity wandb_watch wandb_log_model wandb wandb_mode",
    "code from a model repository is never run; use a model that needs none": "trust_remote_code",
    "a token is never written into a run file: log in with `hf auth login`": "hf_hub_token hub_token hf_token "
    "use_auth_token hf_use_auth_token token",
    "merge it afterwards: hf-finetune merge ADAPTER FOLDER": "export_dir merge_lora merge_adapter save_merged "
    "merge_weights",
    "report.html in output_dir has the curves, report.json every figure; leave it out": "plot_loss save_metrics "
    "log_peak_memory_stats include_tokens_per_second flop_counter",
    "there is no profiler here; leave it out": "use_profiler profiler profiler_steps",
    "add a section hub with hub.repo_id": "push_to_hub",
    "weights are always safetensors; leave it out": "save_safetensors",
    "checkpoints have the optimizer's state unless train.save_only_model is true; leave it out": "save_optimizer "
    "save_adapter_weights_only",
    "the model is always saved, in output_dir; leave it out": "save_model",
    "there is no unsloth here; train.use_liger_kernel: true saves memory on a GPU": "use_unsloth use_unsloth_gc",
    "a model is trained at the length that it was made for; leave it out": "rope_scaling shift_attn s2_attention",
    "answers are generated afterwards: hf-finetune score MODEL ROWS": "predict_with_generate do_bench_eval",
    "write eval.temperature: 0 for greedy answers, or another temperature": "do_sample",
    "write its factors train.per_device_train_batch_size and train.gradient_accumulation_steps": "total_batch_size "
    "global_batch_size effective_batch_size",
    "the recipe has its loss; leave it out": "loss loss_fn",
    "set the environment variable HF_HOME": "cache_dir",
    "unknown keys are always refused; leave it out": "strict",
    "write train.activation_offloading: true (sft and lora)": "enable_activation_offloading",
}

# Sections that others have, and the section of ours whose settings stand in them.
SECTIONS: dict[str, str] = {
    "training": "train",
    "trainer": "train",
    "training_args": "train",
    "training_arguments": "train",
    "train_config": "train",
    "sft": "train",
    "sft_config": "train",
    "optimization": "train",
    "hyperparameters": "train",
    "peft": "lora",
    "peft_config": "lora",
    "lora_config": "lora",
    "lora_args": "lora",
    "lora_parameters": "lora",
    "model_args": "model",
    "model_config": "model",
    "data_args": "data",
    "data_config": "data",
    "dataset_args": "data",
    "evaluation": "eval",
    "generation": "eval",
    "generation_config": "eval",
    "sampling": "eval",
}


@functools.cache
def foreign_rows(recipe: RecipeName) -> dict[str, str]:
    """Every name that others use -> our key for it, or a sentence that says what to do instead."""
    rows = {name: key for key, names in SAME.items() for name in names.split()}
    rows |= {name: ours[recipe] for names, ours in BY_RECIPE.items() for name in names.split()}
    return rows | {name: words for words, names in INSTEAD.items() for name in names.split()}
