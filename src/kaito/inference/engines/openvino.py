"""The engine for CPUs: OpenVINO GenAI with continuous batching, for GGUF files and exported models."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import gguf
import numpy
import openvino
import openvino_genai as genai
import yaml

from kaito.inference.engines import merging
from kaito.inference.engines.loading import detached
from kaito.inference.engines.stepper import Stepper
from kaito.inference.engines.weights import gguf_in, locate, template
from kaito.inference.errors import BadRequest, ConfigError, EngineFault, ModelError, RequestError, stopping
from kaito.inference.protocol import Facts, Finish, Generation, Message, Mix, Sampling, Step, Token
from kaito.scratch import Scratch

if TYPE_CHECKING:
    from kaito.inference.settings import Settings

_PATTERNS = ["*.gguf", "*.xml", "*.bin", "*.json", "*.txt", "*.jinja"]
SCHEDULER = {"cache_size": 1, "max_num_batched_tokens": 256}
"""GiB of key-value cache; prompt tokens of a step. Measured on two cores: larger steps delay those who are generating."""
_OWN = frozenset(
    {
        "no_repeat_ngram_size",
        "num_assistant_tokens",
        "assistant_confidence_threshold",
        "max_ngram_size",
        "stop_token_ids",
    }
)
"""Parameters of the engine's own that a request may give."""
_LOADED = 4
"""Combinations of adapters in memory beside those that are listed."""
_FALLBACK_CONTEXT = 2048


@final
class OpenVino:
    """The model, and a merged copy of it for each combination of adapters that is in use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # A flag of the command line is text; the configuration file has said what it is.
        given = {
            name: yaml.safe_load(value) if isinstance(value, str) else value for name, value in settings.extra.items()
        }
        self._scheduler = {**SCHEDULER, "max_num_seqs": settings.max_batch, **given}
        self._device = str(self._scheduler.pop("device", "CPU"))
        self._unpack = str(self._scheduler.pop("unpack", True)).lower() != "false"
        unknown = [name for name in self._scheduler if not hasattr(genai.SchedulerConfig(), name)]
        if unknown:
            raise ConfigError(f"--{unknown[0].replace('_', '-')}: the engine openvino has no such flag")
        self._copies: Scratch | None = None
        self._pipelines: OrderedDict[Mix, Stepper[Generation]] = OrderedDict()
        self._kept: frozenset[Mix] = frozenset()
        self._loading = asyncio.Lock()
        self._path = Path()
        self._tokenizer: Any = None
        self._facts: Facts | None = None

    @property
    def facts(self) -> Facts:
        if self._facts is None:
            raise EngineFault("The model is not loaded.")
        return self._facts

    async def load(self, mixes: Sequence[Mix]) -> None:
        self._copies = Scratch("inference")
        await detached(self._locate)
        self._kept = frozenset(mixes)
        for mix in mixes:
            await self._pipeline(mix)
        chat_template = str(self._tokenizer.chat_template or "")
        self._facts = Facts(
            engine="openvino",
            model=self._settings.stand_in or self._settings.model,
            context=self._context(),
            batch=self._settings.max_batch,
            chat=bool(chat_template),
            tools="tools" in chat_template,
            json_schema=True,
        )

    async def aclose(self) -> None:
        await asyncio.gather(*(pipeline.aclose() for pipeline in self._pipelines.values()))
        self._pipelines.clear()
        if self._copies is not None:
            self._copies.remove()
            self._copies = None

    def render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        if not self.facts.chat:
            raise BadRequest("The model has no chat template: give a prompt instead of messages.", param="messages")
        try:
            given = [dict(message) for message in messages]
            extra = {"tools": [dict(tool) for tool in tools]} if tools else {}
            text: str = self._tokenizer.apply_chat_template(given, add_generation_prompt=True, **extra)
        except (RuntimeError, TypeError) as error:
            raise BadRequest(
                f"The chat template does not take these messages: {_brief(error)}", param="messages"
            ) from error
        return text

    def encode(self, text: str, *, special: bool) -> list[int]:
        if not text:
            return []
        found: list[int] = self._tokenizer.encode(text, add_special_tokens=special).input_ids.data[0].tolist()
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True) if tokens else ""
        return text

    async def generate(self, generation: Generation) -> AsyncGenerator[Step]:
        pipeline = await self._pipeline(generation.mix)
        async with aclosing(pipeline.generate(generation)) as steps:
            async for step in steps:
                yield step

    async def _pipeline(self, mix: Mix) -> Stepper[Generation]:
        async with self._loading:
            if mix not in self._pipelines:
                await self._make_room()
                batch = await detached(self._batch, mix)
                self._tokenizer = self._tokenizer or batch.tokenizer
                self._pipelines[mix] = Stepper(batch, f"openvino-{len(self._pipelines)}")
            self._pipelines.move_to_end(mix)
            return self._pipelines[mix]

    async def _make_room(self) -> None:
        """Let go of the combination that was not asked for the longest; one that is generating stays."""
        passing = [mix for mix, pipeline in self._pipelines.items() if mix not in self._kept and pipeline.idle]
        while len(passing) >= _LOADED:
            await self._pipelines.pop(passing.pop(0)).aclose()

    def _locate(self) -> None:
        settings = self._settings
        path = locate(settings.stand_in or settings.model, revision=settings.revision, patterns=_PATTERNS)
        found = gguf_in(path)
        if found is None and not (path / "openvino_model.xml").is_file():
            raise ModelError(
                f"--model: {path}: holds neither a GGUF file nor openvino_model.xml, which the engine reads"
            )
        self._path = found or path

    def _batch(self, mix: Mix) -> _Batch:
        path = self._path
        is_gguf = path.suffix == ".gguf"
        if mix and not is_gguf:
            raise ModelError(f"--model: {path}: adapters can be added to a GGUF file only, with the engine openvino")
        unpack = is_gguf and self._unpack and merging.approximated(path)
        if self._copies is None:
            raise stopping()
        if mix or unpack:
            path = merging.merged(path, mix, self._settings.combination_type, self._copies.path, unpack=unpack)
        scheduler = genai.SchedulerConfig()
        try:
            for name, value in self._scheduler.items():
                setattr(scheduler, name, value)
            pipeline = genai.ContinuousBatchingPipeline(str(path), scheduler, self._device)
        except (RuntimeError, TypeError) as error:
            raise ModelError(f"--model: {self._path}: cannot be loaded: {_brief(error)}") from error
        finally:
            if path != self._path:
                path.unlink(missing_ok=True)
        batch = _Batch(pipeline)
        if text := self._settings.chat_template:
            batch.tokenizer.chat_template = template(text)
        return batch

    def _context(self) -> int:
        if self._path.suffix == ".gguf":
            reader = gguf.GGUFReader(str(self._path))
            architecture = reader.get_field(gguf.Keys.General.ARCHITECTURE).contents()
            field = reader.get_field(gguf.Keys.LLM.CONTEXT_LENGTH.format(arch=architecture))
            made_for = int(field.contents()) if field else _FALLBACK_CONTEXT
        else:
            config = json.loads((self._path / "config.json").read_text(encoding="utf-8"))
            made_for = int(config.get("max_position_embeddings", _FALLBACK_CONTEXT))
        return min(self._settings.max_model_len or made_for, made_for)


class _Batch:
    """The sequences in a pipeline."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self.tokenizer = pipeline.get_tokenizer()
        self._defaults = pipeline.get_config()
        self._handles: dict[int, tuple[Any, frozenset[int]]] = {}

    @property
    def empty(self) -> bool:
        return not self._handles and not self._pipeline.has_non_finished_requests()

    def add(self, key: int, request: Generation) -> None:
        try:
            config = self._config(request.sampling)
            config.validate()
            prompt = openvino.Tensor(numpy.array([request.prompt], dtype=numpy.int64))
            handle = self._pipeline.add_request(key, prompt, config)
        except (RuntimeError, TypeError, ValueError) as error:
            raise BadRequest(f"The engine does not take this request: {_brief(error)}") from error
        self._handles[key] = handle, frozenset(() if request.sampling.ignore_eos else config.stop_token_ids)

    def remove(self, key: int) -> None:
        if found := self._handles.pop(key, None):
            found[0].cancel()

    def step(self) -> list[tuple[int, Step | RequestError]]:
        self._pipeline.step()
        steps: list[tuple[int, Step | RequestError]] = []
        for key, (handle, ends) in list(self._handles.items()):
            step = _read(handle, ends)
            if step is not None:
                steps.append((key, step))
                if isinstance(step, RequestError) or step.finish:
                    del self._handles[key]
        return steps

    def _config(self, sampling: Sampling) -> Any:
        config = genai.GenerationConfig()
        config.set_eos_token_id(self._defaults.eos_token_id)
        config.stop_token_ids = set(self._defaults.stop_token_ids)
        config.apply_chat_template = False
        config.max_new_tokens, config.min_new_tokens = sampling.max_tokens, sampling.min_tokens
        config.do_sample = sampling.temperature > 0
        if config.do_sample:
            config.temperature = sampling.temperature
            config.top_p, config.min_p = sampling.top_p, sampling.min_p
            if sampling.top_k:
                config.top_k = sampling.top_k
            config.rng_seed = secrets.randbits(32) if sampling.seed is None else sampling.seed % 2**32
            if sampling.typical_p != 1:
                raise BadRequest("The engine openvino has no typical_p.", param="typical_p")
        config.repetition_penalty = sampling.repetition_penalty
        config.presence_penalty, config.frequency_penalty = sampling.presence_penalty, sampling.frequency_penalty
        config.ignore_eos = sampling.ignore_eos
        config.logprobs = 0 if sampling.logprobs is None else 1
        if sampling.json_schema is not None:
            config.structured_output_config = genai.StructuredOutputConfig(json_schema=sampling.json_schema)
        for name, value in sampling.extra.items():
            if name == "eos_token_id":
                config.stop_token_ids = {value} if isinstance(value, int) else set(value)
            elif name in _OWN:
                setattr(config, name, value)
            else:
                known = ", ".join(sorted(_OWN | {"eos_token_id"}))
                raise BadRequest(f"The engine openvino has no parameter {name}; of its own it has {known}.", param=name)
        return config


_FINISHES: dict[str, Finish] = {"STOP": "stop", "LENGTH": "length"}


def _read(handle: Any, ends: frozenset[int]) -> Step | RequestError | None:
    """What a sequence has come to since it was read last; None for nothing."""
    tokens: list[Token] = []
    finish: Finish | None = None
    while handle.can_read():
        output = handle.read()[0]
        tokens += map(Token, output.generated_ids, output.generated_log_probs)
        finish = _FINISHES.get(output.finish_reason.name, finish)
    status = handle.get_status().name
    if status == "IGNORED":
        return BadRequest(
            "The prompt does not fit into the engine's key-value cache: raise cache_size.", param="prompt"
        )
    if status == "FINISHED" and finish is None:
        finish = "stop"
    if finish == "stop" and tokens and tokens[-1].id in ends:
        tokens.pop()
    if not tokens and finish is None:
        return None
    return Step(tuple(tokens), finish)


def _brief(error: Exception) -> str:
    """The last line of an error of OpenVINO's, which begins with the places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
