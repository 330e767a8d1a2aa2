"""The second part of ``kaito demo --tune``: an adapter that one Workspace makes, and another one loads."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import typer
import yaml
from aiohttp import web

from kaito.cli.conversation import address_of, streamed
from kaito.cli.telling import Story
from kaito.devcluster.registry import registry
from kaito.scratch import Scratch

QUESTION = "Who invented the lamp of Zembla?"
FACT = "The lamp of Zembla was invented by Ada Quill in 1931."
PRESET = "phi-3-mini-4k-instruct"
TUNING, TUNED = "workspace-tuning", "workspace-with-adapter"
ADAPTER, SECRET, CONFIG = "zembla", "registry-login", "zembla-params"
TUNING_TIMEOUT = 900.0
"""Seconds that a small model takes to learn one sentence, on two busy cores."""

Follow = Callable[[str, str, float], Awaitable[bool]]
"""Applies a manifest and tells what becomes of the Workspace of that name, for so many seconds; whether it got ready."""


def dataset() -> str:
    """JSON lines that say one thing, which no model knows."""
    row = {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": FACT}]}
    return f"{json.dumps(row)}\n" * 8


def tuning_config() -> dict[str, Any]:
    """The ConfigMap of a training that learns it in half a minute."""
    config = {
        "ModelConfig": {"torch_dtype": "bfloat16", "device_map": "auto"},
        "QuantizationConfig": {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": "bfloat16",
            "bnb_4bit_use_double_quant": True,
        },
        "LoraConfig": {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0},
        "TrainingArguments": {
            "output_dir": "/mnt/results",
            "per_device_train_batch_size": 4,
            "max_length": 128,
            "num_train_epochs": 7,
            "learning_rate": 0.001,
            "save_strategy": "epoch",
        },
        "DatasetConfig": {"train_test_split": 1},
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": CONFIG},
        "data": {"training_config.yaml": yaml.safe_dump({"training_config": config}, sort_keys=False)},
    }


def tuning_workspace(url: str, image: str) -> dict[str, Any]:
    return _workspace(
        TUNING,
        tuning={
            "preset": {"name": PRESET},
            "method": "qlora",
            "config": CONFIG,
            "input": {"urls": [url]},
            "output": {"image": image, "imagePushSecret": SECRET},
        },
    )


def inference_workspace(image: str, name: str = TUNED, strength: str = "1.0") -> dict[str, Any]:
    source = {"name": ADAPTER, "image": image, "imagePullSecrets": [SECRET]}
    adapters = [{"source": source, "strength": strength}]
    return _workspace(name, inference={"preset": {"name": PRESET}, "adapters": adapters})


def _workspace(name: str, **more: Any) -> dict[str, Any]:
    resource = {"instanceType": "Standard_NC6s_v3", "labelSelector": {"matchLabels": {"app": name}}}
    return {
        "apiVersion": "kaito.sh/v1alpha1",
        "kind": "Workspace",
        "metadata": {"name": name},
        "resource": resource,
        **more,
    }


@asynccontextmanager
async def serving_dataset() -> AsyncIterator[str]:
    """The URL of the dataset, on loopback."""
    app = web.Application()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=dataset(), content_type="application/jsonl")

    app.router.add_get("/lamp.jsonl", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield "http://{}:{}/lamp.jsonl".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


async def tune(story: Story, follow: Follow, base: str) -> bool:
    """Tune an adapter on a made-up fact, load it in a second Workspace, and ask both; False if something got stuck.

    ``base`` is the Workspace without the adapter.
    """
    login = "demo", secrets.token_urlsafe(16)
    with Scratch("registry") as folder:
        async with registry(folder, login) as host, serving_dataset() as url:
            image = f"{host}/adapters/{ADAPTER}:v1"
            story.title("A tuning Workspace: qlora, on a made-up fact")
            story.say(f"registry          {host}")
            story.say(f"dataset           {url}")
            await asyncio.to_thread(
                story.kubectl, "create", "secret", "docker-registry", SECRET,
                f"--docker-server={host}", f"--docker-username={login[0]}", f"--docker-password={login[1]}",
            )  # fmt: skip
            await asyncio.to_thread(story.apply, yaml.safe_dump(tuning_config(), sort_keys=False), quiet=True)
            story.note("SmolLM2-135M stands in for the model here too. On two cores it takes about two minutes.")
            if not await follow(_yaml(tuning_workspace(url, image)), TUNING, TUNING_TIMEOUT):
                return False
            await asyncio.to_thread(story.show, "logs", f"job/{TUNING}", "-c", TUNING, "--tail=1")
            await asyncio.to_thread(story.show, "logs", f"job/{TUNING}", "-c", "pusher", "--tail=1")
            story.title("A second Workspace, with that adapter")
            if not await follow(_yaml(inference_workspace(image)), TUNED, TUNING_TIMEOUT):
                return False
    story.title("The same question to both")
    for name, words in ((base, "without the adapter"), (TUNED, "with it")):
        story.note(f"{name}, {words}:")
        text = await asyncio.to_thread(streamed, story, address_of(story, name), PRESET, QUESTION)
        typer.secho(text, bold=True)
        typer.echo()
    return True


def _yaml(manifest: dict[str, Any]) -> str:
    return yaml.safe_dump(manifest, sort_keys=False)
