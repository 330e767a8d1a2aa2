"""The training itself: a model of transformers', an adapter of peft's, their ``Trainer``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from kaito.scratch import Scratch
from kaito.tuning.config import Quantization, TrainingConfig
from kaito.tuning.data import load_examples
from kaito.tuning.errors import ConfigError
from kaito.tuning.examples import Encoded, encode_all, pad
from kaito.tuning.outcome import Outcome
from kaito.tuning.progress import Progress

_IGNORED_MODEL_KEYS = frozenset({"resume_download", "load_in_4bit", "load_in_8bit", "chat_template"})
"""What older transformers took, or what is done here."""
_DEFAULTS = {"report_to": "none", "logging_steps": 1, "logging_nan_inf_filter": False, "save_total_limit": 2}


def train(config: TrainingConfig, model: str, data: Path, progress: Progress, say: Any) -> None:
    """Train until the adapter is in ``config.output``; goes on from a checkpoint that an earlier process has left there.

    ``model`` is a folder, a name on the hub, or a GGUF file, also as ``package:NAME``. Raises TuningError, and whatever torch
    raises.
    """
    with Scratch("tuning") as folder:
        _train(config, model, _weights(model, folder, say), data, progress, say)


def _weights(model: str, folder: Path, say: Any) -> str:
    """``model`` as transformers takes it together with a quantization: a GGUF file is unpacked into ``folder``."""
    if not model.startswith("package:") and not model.endswith(".gguf"):
        return model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kaito.inference.engines.weights import locate
    from kaito.inference.errors import ServerError

    try:
        file = locate(model)
    except ServerError as error:
        raise ConfigError(str(error)) from None
    say(f"unpacking {file.name}")
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    unpacked = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    # The weights are plain numbers now, although transformers remembers that they were not.
    unpacked.hf_quantizer = None
    del unpacked.config.quantization_config
    unpacked.save_pretrained(folder)
    return str(folder)


def _train(config: TrainingConfig, name: str, model_path: str, data: Path, progress: Progress, say: Any) -> None:
    """``name`` is what the adapter says that it was made for."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, Trainer, set_seed

    outcome = Outcome(config.output)
    arguments = _arguments(config)
    set_seed(arguments.seed)
    tokenizer = AutoTokenizer.from_pretrained(model_path, **_only_of(config.model, "trust_remote_code", "revision"))
    if template := config.model.get("chat_template"):
        tokenizer.chat_template = str(template)
    examples = load_examples(data, config.dataset)
    learn, cut = encode_all(examples.train, tokenizer, config.max_length)
    evaluate, _ = encode_all(examples.evaluate, tokenizer, config.max_length)
    say(f"{len(learn)} examples to learn, {len(evaluate)} to evaluate; {cut} were cut to {config.max_length} tokens")

    model = AutoModelForCausalLM.from_pretrained(model_path, **_model_arguments(config))
    model.name_or_path = name
    model.config.use_cache = False
    if config.quantization.bits < 16:
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=bool(config.training.get("gradient_checkpointing", False))
        )
    try:
        lora = LoraConfig(task_type="CAUSAL_LM", **_lora(config.lora, model, say))
    except TypeError as error:
        raise ConfigError(f"LoraConfig: {error}") from error
    adapted = get_peft_model(model, lora)
    trainable, every = adapted.get_nb_trainable_parameters()
    say(f"training {trainable:,} of {every:,} parameters on {model.device}")

    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0

    def collate(batch: list[dict[str, Any]]) -> dict[str, Any]:
        padded = pad([Encoded(each["input_ids"], each["labels"]) for each in batch], pad_id)
        return {name: torch.tensor(rows) for name, rows in padded.items()}

    trainer = Trainer(
        model=adapted,
        args=arguments,
        train_dataset=[{"input_ids": each.input_ids, "labels": each.labels} for each in learn],
        eval_dataset=[{"input_ids": each.input_ids, "labels": each.labels} for each in evaluate] or None,
        data_collator=collate,
        callbacks=[_callback(progress, say)],
    )
    trainer.remove_callback(PrinterCallback)  # our own lines say the same, and what is left
    checkpoint = outcome.checkpoint
    if checkpoint is not None:
        say(f"going on from {checkpoint.name}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    progress.enter("saving")
    if trainer.is_world_process_zero():
        adapted.save_pretrained(config.output)
        outcome.complete()


def _arguments(config: TrainingConfig) -> Any:
    from transformers import TrainingArguments

    known = {each.name: each.default for each in fields(TrainingArguments)}
    given = {**_DEFAULTS, "disable_tqdm": True, "remove_unused_columns": False}
    for key, value in config.training.items():
        if key not in known:
            raise ConfigError(f"TrainingArguments.{key} is unknown to this version of transformers")
        given[key] = _number(key, value) if type(known[key]) in (int, float) else value
    if config.dataset.split < 1 and "eval_strategy" not in given:
        given["eval_strategy"] = "epoch"
    if given.get("save_strategy") == "no":
        # Without a checkpoint a pod that is killed has learned nothing.
        given["save_strategy"] = "epoch"
    try:
        return TrainingArguments(output_dir=str(config.output), **given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"TrainingArguments: {error}") from error


def _number(key: str, value: Any) -> Any:
    """YAML reads ``5e-5`` as text."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"TrainingArguments.{key} is {value!r}: it must be a number") from None


def _model_arguments(config: TrainingConfig) -> dict[str, Any]:
    given = {key: value for key, value in config.model.items() if key not in _IGNORED_MODEL_KEYS and value is not None}
    given.pop("pretrained_model_name_or_path", None)
    dtype = str(given.pop("torch_dtype", given.pop("dtype", "auto"))).removeprefix("torch.")
    import torch

    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ConfigError(f"ModelConfig.torch_dtype is {dtype!r}: it must be float32, float16, bfloat16 or auto")
    given["dtype"] = "auto" if dtype == "auto" else getattr(torch, dtype)
    if not torch.cuda.is_available():
        given.pop("device_map", None)
    if (quantization := _quantization(config.quantization)) is not None:
        given["quantization_config"] = quantization
    return given


def _quantization(settings: Quantization) -> Any:
    if settings.bits == 16:
        return None
    import torch
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=settings.bits == 4,
        load_in_8bit=settings.bits == 8,
        bnb_4bit_quant_type=settings.quant_type,
        bnb_4bit_compute_dtype=getattr(torch, settings.compute_dtype),
        bnb_4bit_use_double_quant=settings.double,
        llm_int8_threshold=settings.int8_threshold,
    )


def _lora(section: Mapping[str, Any], model: Any, say: Any) -> dict[str, Any]:
    """The adapter's arguments. Modules that the operator suggests are taken only if the model has all of them: a model that
    joins its projections has others, and would be adapted by half."""
    given = {key: value for key, value in section.items() if value is not None}
    suggested = [name.strip() for name in os.environ.get("DEFAULT_TARGET_MODULES", "").split(",") if name.strip()]
    if not given.get("target_modules") and suggested:
        there = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        if missing := [name for name in suggested if name not in there]:
            say(f"this model has no {', '.join(missing)}: all its linear layers are adapted")
        else:
            given["target_modules"] = suggested
    given.setdefault("target_modules", "all-linear")
    return given


def _only_of(section: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: section[key] for key in keys if section.get(key) is not None}


def _callback(progress: Progress, say: Any) -> Any:
    from transformers import TrainerCallback

    class Telling(TrainerCallback):  # type: ignore[misc,unused-ignore]  # untyped where torch is not installed
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            progress.begin(state.max_steps, at=state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            values = {key: float(value) for key, value in (logs or {}).items() if isinstance(value, int | float)}
            progress.log(state.global_step, values | {"tokens": float(state.num_input_tokens_seen or 0)})
            say(progress.line())

    return Telling()
