"""The engine for what transformers can load: PyTorch, with PEFT's adapters, and batches that sequences join and leave."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import peft
import torch
import transformers

from kaito.inference.engines.decoding import Batch
from kaito.inference.engines.loading import detached
from kaito.inference.engines.stepper import Stepper
from kaito.inference.engines.weights import gguf_in, locate, on_hub, template
from kaito.inference.errors import BadRequest, ConfigError, EngineFault, ModelError
from kaito.inference.protocol import Facts, Generation, Message, Mix, Step

if TYPE_CHECKING:
    from kaito.inference.settings import Settings

_SWALLOWED = frozenset({"force_download", "from_tf", "output_loading_info", "proxies", "resume_download", "state_dict"})
"""Flags of the published server that transformers no longer has."""
_SAMPLED = ("temperature", "top_k", "top_p", "min_p", "typical_p")
_ALTERNATIVES = 20


@final
class Transformers:
    """The model, and PEFT's adapters around it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._options = _options(settings)
        self._facts: Facts | None = None
        self._stepper: Stepper[Generation] | None = None
        self._tokenizer: Any = None

    @property
    def facts(self) -> Facts:
        if self._facts is None:
            raise EngineFault("The model is not loaded.")
        return self._facts

    async def load(self, mixes: Sequence[Mix]) -> None:
        model = await detached(self._load)
        adapters = dict.fromkeys(adapter for mix in mixes for adapter in mix)
        switch = await detached(Switch, model, tuple(adapters), self._settings.combination_type)
        ends = _ends(model.generation_config.eos_token_id, self._tokenizer.eos_token_id)
        batch = Batch(switch.model, switch, ends, self._settings.max_batch, self._tokenizer)
        self._stepper = Stepper(batch, "transformers")
        chat_template = str(self._tokenizer.chat_template or "")
        made_for = int(getattr(model.config, "max_position_embeddings", 0) or self._tokenizer.model_max_length)
        self._facts = Facts(
            engine="transformers",
            model=self._settings.stand_in or self._settings.model,
            context=min(self._settings.max_model_len or made_for, made_for),
            batch=self._settings.max_batch,
            chat=bool(chat_template),
            tools="tools" in chat_template,
            alternatives=_ALTERNATIVES,
            defaults=_defaults(model.generation_config),
        )

    async def aclose(self) -> None:
        if self._stepper is not None:
            await self._stepper.aclose()

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        if not self.facts.chat:
            raise BadRequest("The model has no chat template: give a prompt instead of messages.", param="messages")
        try:
            text: str = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=[dict(tool) for tool in tools] if tools else None,
                add_generation_prompt=True,
                tokenize=False,
            )
        except Exception as error:  # a template raises what it likes
            raise BadRequest(f"The chat template does not take these messages: {error}", param="messages") from error
        return text

    def encode(self, text: str, *, special: bool) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    async def generate(self, generation: Generation) -> AsyncGenerator[Step]:
        if self._stepper is None:
            raise EngineFault("The model is not loaded.")
        async with aclosing(self._stepper.generate(generation)) as steps:
            async for step in steps:
                yield step

    def _load(self) -> Any:
        settings, options = self._settings, dict(self._options)
        name = settings.stand_in or settings.model
        if on_hub(name):
            source = name
            common: dict[str, Any] = {"revision": settings.revision or "main"}
        else:
            path = locate(name)
            found = gguf_in(path)
            source = str(found.parent if found else path)
            common = {"gguf_file": found.name} if found else {}
        common["trust_remote_code"] = settings.trust_remote_code
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(source, **common)
            model = transformers.AutoModelForCausalLM.from_pretrained(source, **common, **options)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise ModelError(f"--model: {name}: cannot be loaded: {error}") from error
        if settings.chat_template:
            self._tokenizer.chat_template = template(settings.chat_template)
        return model.eval()


@final
class Switch:
    """Makes the model the one of a mix. Each mix is combined once, under a name that PEFT can take."""

    def __init__(self, model: Any, adapters: Mix, combination: str) -> None:
        self.model = model
        self._combination = combination
        self._names: dict[Mix, str] = {}
        self._single = {adapter: f"adapter{index}" for index, adapter in enumerate(adapters)}
        try:
            for adapter, name in self._single.items():
                if isinstance(self.model, peft.PeftModel):
                    self.model.load_adapter(adapter.path, adapter_name=name)
                else:
                    self.model = peft.PeftModel.from_pretrained(self.model, adapter.path, adapter_name=name)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
            raise ModelError(f"adapter {Path(adapter.path).name}: cannot be loaded: {error}") from error
        self.model.eval()

    def __call__(self, mix: Mix) -> None:
        if not self._single:
            return
        if not mix:
            self.model.base_model.disable_adapter_layers()
            return
        name = self._names.get(mix) or self._combined(mix)
        self.model.base_model.enable_adapter_layers()
        self.model.set_adapter(name)

    def _combined(self, mix: Mix) -> str:
        name = self._names[mix] = f"mix{len(self._names)}"
        self.model.add_weighted_adapter(
            [self._single[adapter] for adapter in mix],
            [adapter.strength for adapter in mix],
            name,
            combination_type=self._combination,
        )
        return name


def _options(settings: Settings) -> dict[str, Any]:
    """Arguments of ``from_pretrained``; raises ConfigError."""
    options = {name: value for name, value in settings.extra.items() if name not in _SWALLOWED}
    dtype = settings.dtype if settings.dtype == "auto" else getattr(torch, settings.dtype, None)
    if dtype is None:
        raise ConfigError(f"--dtype: must be auto or a type of torch such as bfloat16, not {settings.dtype!r}")
    options["dtype"] = dtype
    if torch.cuda.is_available():
        options.setdefault("device_map", "auto")
    if "allow_remote_files" in options:
        options["local_files_only"] = not options.pop("allow_remote_files")
    bits = {name: options.pop(name) for name in ("load_in_4bit", "load_in_8bit") if name in options}
    if any(bits.values()):
        options["quantization_config"] = transformers.BitsAndBytesConfig(**bits)
    return options


def _ends(*given: int | list[int] | None) -> frozenset[int]:
    """The tokens that end a text."""
    return frozenset(
        token for each in given if each is not None for token in ([each] if isinstance(each, int) else each)
    )


def _defaults(config: Any) -> dict[str, Any]:
    names = ("repetition_penalty", *(_SAMPLED if config.do_sample else ()))
    return {name: value for name in names if (value := getattr(config, name, None)) is not None}
