"""``kaito status``: what a Workspace consists of, in which state each part is, and what it waits for."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated

import typer

from kaito.cli.cluster.connect import CONTEXT, KUBECONFIG, NAMESPACE, OUTPUT, Target, run
from kaito.cli.errors import fail

if TYPE_CHECKING:
    from rich.text import Text

    from kaito.cli.cluster.picture import Part

_PLAIN_WIDTH = 120


def status(
    name: Annotated[str | None, typer.Argument(help="Name of the Workspace; by default all of the namespace.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Show changes as they happen, until interrupted.")
    ] = False,
    output: OUTPUT = "text",
    namespace: NAMESPACE = None,
    kubeconfig: KUBECONFIG = None,
    context: CONTEXT = None,
) -> None:
    """Show a Workspace as a tree: machines, agent pools, nodes, workload, pods, each with what it waits for and since when."""
    if output not in ("text", "json"):
        fail(f"--output {output!r}: use text or json")
    target = Target.of(kubeconfig, context, namespace)
    if watch:
        if name is None:
            fail("--watch needs the name of one Workspace")
        run(_follow(target, name, output))
    else:
        run(_once(target, name, output))


async def _once(target: Target, name: str | None, output: str) -> None:
    from kaito.cli.cluster.picture import picture
    from kaito.cli.cluster.seen import WORKSPACE, read

    async with target.client() as client:
        names = (
            [name] if name else [each["metadata"]["name"] for each in await client.list(WORKSPACE, target.namespace)]
        )
        parts = [picture(await read(client, target.namespace, each)) for each in names]
    if output == "json":
        found = [part.as_json() for part in parts]
        typer.echo(json.dumps(found[0] if name else found, indent=2))
    elif not parts:
        typer.echo(f"no Workspace in namespace {target.namespace}", err=True)
    else:
        for part in parts:
            _print(part)


def _print(part: Part) -> None:
    from rich.console import Console

    if sys.stdout.isatty():
        Console(highlight=False).print(_coloured(part, shutil.get_terminal_size().columns), end="")
    else:
        typer.echo(_text(part, _PLAIN_WIDTH))


def _text(part: Part, width: int) -> str:
    from kaito.cli.cluster.render import lines
    from kaito.runtime import SystemClock

    return "\n".join(line.plain(width) for line in lines(part, SystemClock().now(), width))


def _coloured(part: Part, width: int) -> Text:
    from rich.text import Text

    from kaito.cli.cluster.render import COLOURS, lines
    from kaito.runtime import SystemClock

    text = Text(no_wrap=True, overflow="crop")
    for line in lines(part, SystemClock().now(), width):
        start = len(text)
        text.append(line.plain(width) + "\n", style="" if line.state else "dim")
        if line.state is not None:
            place = text.plain.rindex(line.state, start)
            text.stylize(COLOURS[line.state], place, place + len(line.state))
    return text


async def _follow(target: Target, name: str, output: str) -> None:
    from kaito.cli.cluster.picture import picture
    from kaito.cli.cluster.seen import follow, read

    async with target.client() as client:
        await read(client, target.namespace, name)  # says in words what is missing or forbidden
    if sys.stdout.isatty() and output == "text":
        await _live(target, name)
        return
    before = ""
    async with aclosing(follow(target.config, target.namespace, name)) as changes:
        async for seen in changes:
            if seen is None:
                break
            part = picture(seen)
            now = json.dumps(part.as_json()) if output == "json" else _text(part, _PLAIN_WIDTH)
            if now != before:
                typer.echo(now if output == "json" else f"{now}\n")
            before = now


async def _live(target: Target, name: str) -> None:
    """One picture that changes in place; its ages grow meanwhile."""
    from rich.live import Live

    from kaito.cli.cluster.picture import picture
    from kaito.cli.cluster.seen import follow

    shown: list[Part] = []

    def draw() -> Text | str:
        return _coloured(shown[0], shutil.get_terminal_size().columns) if shown else ""

    with Live(get_renderable=draw, refresh_per_second=4, vertical_overflow="visible") as live:
        async with aclosing(follow(target.config, target.namespace, name)) as changes:
            async for seen in changes:
                if seen is None:
                    break
                shown[:] = [picture(seen)]
                live.refresh()
    typer.echo(f"Workspace {name} is gone")
