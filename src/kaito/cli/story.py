"""What ``kaito demo`` does and tells: a local cluster, an operator, and a Workspace on its way to Ready."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import typer

from kaito.api.resources import MACHINES, WORKSPACES
from kaito.cli import tuned
from kaito.cli.conversation import converse
from kaito.cli.telling import Story
from kaito.devcluster.operator import (
    CLUSTER_NAME,
    RESOURCE_GROUP,
    SUBSCRIPTION,
    launch,
    mount_service_account,
    pod_environment,
)
from kaito.devcluster.process import end, start, stop
from kaito.devcluster.state import CLOUD_TOKEN, Running, StateFolder
from kaito.runtime import EVENTS, NODES, PODS, Cache, Event, Rest, RestConfig, RuntimeMetrics, TaskScope, load_config

NAMESPACE = "kaito-system"
SERVICE_ACCOUNT = "kaito-controller-manager"
NAME, PRESET = "workspace-phi-3-mini", "phi-3-mini-4k-instruct"
"""Of the sample."""
RUNTIME_IMAGE = "kaito-{engine}:demo"
"""Is never pulled: the local cluster knows by the name what is in it."""
READY_TIMEOUT = 120.0
"""Seconds from the Workspace's creation until it should be ready."""


def tell(folder: StateFolder, kubectl: Path, overlay: Path, sample: Path, *, keep: bool, tune: bool = False) -> bool:
    """Whether it came to its good end."""
    story = Story(kubectl, folder)
    story.title("kaito on this machine")
    story.note("Real: the Kubernetes API server, the operator, the Azure SDK that it uses, and kubectl.")
    story.note(
        "Simulated: Azure behind its REST interface, and the nodes. The model's pod is a process of this machine."
    )
    running, process = start(folder, attached=not keep)
    succeeded = False
    try:
        story.say(f"local cluster     {running.server}")
        story.say(f"emulated Azure    {running.cloud}")
        story.title("Installing kaito")
        story.show("apply", "-k", str(overlay))
        with _operator(story, folder, running, keep=keep):
            story.title("A Workspace: one GPU node, one model")

            def apply_sample() -> None:
                story.show("apply", "-f", str(sample))

            succeeded = asyncio.run(_follow(story, folder, running, apply_sample, NAME, READY_TIMEOUT))
            address = _outcome(story) if succeeded else ""
            if succeeded and tune:
                succeeded = asyncio.run(tuned.tune(story, partial(_follow_manifest, story, folder, running), NAME))
            if succeeded:
                _farewell(folder, sample, address, keep=keep)
            else:
                story.note("The operator's last words:")
                typer.echo("\n".join(folder.operator_log.read_text(errors="replace").splitlines()[-20:]))
    finally:
        if not (keep and succeeded):
            stop(folder)
            process.communicate()
    return succeeded


@contextmanager
def _operator(story: Story, folder: StateFolder, running: Running, *, keep: bool) -> Iterator[None]:
    """The operator under its own service account, until the block ends (with ``keep``: until the cluster goes down)."""
    token = story.kubectl("create", "token", "-n", NAMESPACE, SERVICE_ACCOUNT, "--duration=24h").strip()
    mount_service_account(folder.service_account, folder, token, NAMESPACE)
    arguments = [
        "--leader-elect",
        "--metrics-bind-address=127.0.0.1:0",
        "--health-probe-bind-address=127.0.0.1:0",
        f"--runtime-image={RUNTIME_IMAGE}",
    ]
    # The data of a demonstration is on this machine.
    environ = {**pod_environment(running, folder.service_account), "KAITO_ALLOW_PRIVATE_URLS": "true"}
    process = launch([*arguments, "--log-format=json"], environ, folder.operator_log)
    folder.operator_pid.write_text(str(process.pid))
    story.say(f"the operator runs as process {process.pid}, under the service account {NAMESPACE}/{SERVICE_ACCOUNT}")
    completed = False
    try:
        yield
        completed = True
    finally:
        if not (keep and completed):
            end(process.pid)
            process.wait()


async def _follow(
    story: Story, folder: StateFolder, running: Running, apply: Callable[[], None], name: str, timeout: float
) -> bool:
    """Apply a Workspace and tell what happens until it is ready; False if that takes longer than ``timeout`` seconds."""
    over: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    async with _watching(story, load_config(folder.kubeconfig), name, over), _pools(story, running):
        await asyncio.to_thread(apply)
        try:
            async with asyncio.timeout(timeout):
                if not await over:
                    return False
        except TimeoutError:
            story.say(f"not ready after {timeout:g} s")
            return False
        await asyncio.sleep(0.2)  # the Events of the last step are written a moment after its condition
    return True


async def _follow_manifest(
    story: Story, folder: StateFolder, running: Running, manifest: str, name: str, timeout: float
) -> bool:
    return await _follow(story, folder, running, partial(story.apply, manifest), name, timeout)


@asynccontextmanager
async def _watching(story: Story, config: RestConfig, name: str, over: asyncio.Future[bool]) -> AsyncIterator[None]:
    """Tells of all that is new. ``over`` gets to know whether the Workspace ``name`` is ready, or has failed."""
    rest = Rest(config, RuntimeMetrics())
    cache = Cache(rest, RuntimeMetrics())
    tasks = TaskScope(lambda name, error: story.say(f"{name}: {error}"))
    tell = story.news

    def conditions(kind: str) -> Callable[[Event[Any]], None]:
        def handle(event: Event[Any]) -> None:
            if event.new is None or (kind == "workspace" and event.new.key.name != name):
                return
            decoded = event.new.decode()
            body = decoded if isinstance(decoded, dict) else decoded.model_dump(by_alias=True, exclude_none=True)
            # One line for all conditions that say the same: while a step waits, so do those after it.
            same: dict[tuple[bool, str], list[str]] = {}
            for condition in (body.get("status") or {}).get("conditions") or ():
                words = condition.get("message") or condition.get("reason") or ""
                same.setdefault((condition["status"] == "True", words), []).append(condition["type"])
                succeeded = condition["type"] == "WorkspaceSucceeded" and condition["status"] == "True"
                if kind == "workspace" and succeeded and not over.done():
                    over.set_result(True)
            for (good, words), types in same.items():
                mark = "yes" if good else "not yet"
                tell(f"{kind:<17} {', '.join(types)}: {mark}{'  ' + words if words else ''}", good=good)

        return handle

    def node(event: Event[Any]) -> None:
        if event.new is not None and event.old is None and not event.initial:
            tell(f"node              {event.new.key.name}")

    def pod(event: Event[Any]) -> None:
        if event.new is not None and event.new.key.namespace == "default" and not event.initial:
            tell(f"pod               {event.new.key.name}  {event.new.decode().get('status', {}).get('phase', '')}")

    def record(event: Event[Any]) -> None:
        if event.new is None or event.initial:
            return
        body = event.new.decode()
        if "kaito" in body.get("reportingController", "") or body.get("regarding", {}).get("kind") in (
            "Workspace",
            "Machine",
        ):
            tell(f"event             {body['reason']}: {body.get('note', '')}")
            if body["reason"] == "WorkspaceFailed" and body["regarding"]["name"] == name and not over.done():
                over.set_result(False)

    cache.informer(WORKSPACES).add_handler(conditions("workspace"), WORKSPACES)
    cache.informer(MACHINES).add_handler(conditions("machine"), MACHINES)
    cache.informer(NODES).add_handler(node, NODES)
    cache.informer(PODS).add_handler(pod, PODS)
    cache.informer(EVENTS).add_handler(record, EVENTS)
    cache.start(tasks)
    try:
        await cache.wait_synced(30.0)
        yield
    finally:
        await tasks.aclose()
        await rest.aclose()


@asynccontextmanager
async def _pools(story: Story, running: Running) -> AsyncIterator[None]:
    """Tells of the agent pools, as the emulated Azure reports them."""
    url = (
        f"{running.cloud}/subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}/providers"
        f"/Microsoft.ContainerService/managedClusters/{CLUSTER_NAME}/agentPools?api-version=2024-01-01"
    )

    async def poll(session: aiohttp.ClientSession) -> None:
        while True:
            async with session.get(url) as answer:
                listed = (await answer.json()).get("value", [])
            for pool in listed:
                properties = pool["properties"]
                text = f"agent pool        {pool['name']}  {properties['vmSize']}  {properties['provisioningState']}"
                story.news(text)
            await asyncio.sleep(0.25)

    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {CLOUD_TOKEN}"}) as session:
        polling = asyncio.create_task(poll(session))
        try:
            yield
        finally:
            polling.cancel()
            await asyncio.wait([polling])


def _outcome(story: Story) -> str:
    """Show what there is now, and ask the model; the address of its page to chat, empty where no model was loaded."""
    story.title("Ready")
    for arguments in (
        ["get", "workspace"],
        ["get", "machines"],
        ["get", "nodes", "-l", "kaito.sh/workspace"],
        ["get", "deployment,service", NAME],
        ["get", "pods", "-l", "kaito.sh/workspace", "-o", "wide"],
    ):
        story.show(*arguments)
    return converse(story, NAME, PRESET)


def _farewell(folder: StateFolder, sample: Path, address: str, *, keep: bool) -> None:
    typer.echo()
    typer.secho("To try next" if keep else "To try it yourself: make demo KEEP=1, then", bold=True)
    if keep:
        typer.echo(f"  export KUBECONFIG={folder.kubeconfig}")
    if address:
        typer.echo(
            f"  {'open ' + address if keep else 'open the page /ui of the Service in a browser'}     # chat with it"
        )
        typer.echo(f"  kubectl logs deployment/{NAME} --follow")
    typer.echo(f"  kubectl describe workspace {NAME}")
    typer.echo("  kubectl explain workspace.resource")
    typer.echo("  kubectl get events --sort-by=.metadata.creationTimestamp")
    typer.echo(f"  kubectl delete -f {sample}     # the Machine, the agent pool and the node go with it")
    if keep:
        program = Path(sys.executable).with_name("kaito")
        typer.echo(f"  {program} dev down --directory {folder.path}     # stops the cluster and the operator")
