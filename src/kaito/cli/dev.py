"""``kaito dev``: a Kubernetes cluster on this machine, without containers, cloud or GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kaito.cli.errors import fail

if TYPE_CHECKING:
    from kaito.devcluster.state import StateFolder

app = typer.Typer(
    no_args_is_help=True, help="A local cluster: real API server, simulated cloud and nodes, models as processes."
)

Directory = Annotated[
    Path | None,
    typer.Option(
        "--directory", help="Where the cluster keeps its kubeconfig and log; default: ~/.local/state/kaito/dev."
    ),
]


def _folder(directory: Path | None) -> StateFolder:
    from kaito.devcluster.state import StateFolder

    return StateFolder(directory.absolute()) if directory else StateFolder.default()


@app.command()
def up(
    directory: Directory = None,
    port: Annotated[int, typer.Option(help="Port of the API server on 127.0.0.1; 0 takes a free one.")] = 0,
    pretend: Annotated[
        bool, typer.Option("--pretend", help="Run nothing: let every pod only play its part, also those of models.")
    ] = False,
    image: Annotated[
        list[str] | None,
        typer.Option(
            "--image",
            help="Images with kaito's programs or a preset's server beside */kaito-*, such as */my-llama; may be given several "
            "times.",
        ),
    ] = None,
    allow_host_commands: Annotated[
        bool,
        typer.Option(
            "--allow-host-commands",
            help="Run the commands of all manifests on this machine, as you. Whoever may create pods may do anything you may.",
        ),
    ] = False,
) -> None:
    """Start the local cluster in the background and say how to use it."""
    from kaito.devcluster.process import LocalClusterError, start

    folder = _folder(directory)
    flags = [
        *(["--pretend"] if pretend else []),
        *(f"--image={glob}" for glob in image or ()),
        *(["--allow-host-commands"] if allow_host_commands else []),
    ]
    try:
        running, _ = start(folder, port=port, flags=flags)
    except LocalClusterError as error:
        fail(error, code=1)
    typer.echo(f"The local cluster is up: {running.server} (process {running.pid}).")
    typer.echo(
        "Its API is real, its cloud and nodes are simulated. Pods of models and of kaito's programs are processes of"
    )
    typer.echo("this machine, other pods only play their part. To use it:")
    typer.echo(f"  export KUBECONFIG={folder.kubeconfig}")


@app.command()
def down(directory: Directory = None) -> None:
    """Stop the local cluster; everything in it is lost."""
    from kaito.devcluster.process import stop

    folder = _folder(directory)
    if stop(folder):
        typer.echo("The local cluster is down.")
    else:
        typer.echo(f"No local cluster runs in {folder.path}.")


@app.command()
def status(directory: Directory = None) -> None:
    """Say whether the local cluster runs, and where. Exit code 1 if it does not."""
    folder = _folder(directory)
    running = folder.running()
    if running is None:
        typer.echo(f"No local cluster runs in {folder.path}.")
        raise typer.Exit(1)
    typer.echo(f"API server   {running.server}")
    typer.echo(f"Cloud (ARM)  {running.cloud}")
    typer.echo(f"Process      {running.pid}, since {running.started}")
    typer.echo(f"Kubeconfig   {folder.kubeconfig}")
    typer.echo(f"Log          {folder.log}")


@app.command()
def arm(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 8099,
    subscription: Annotated[str, typer.Option(help="Id of the subscription.")] = "00000000-0000-0000-0000-000000000000",
    resource_group: Annotated[str, typer.Option(help="Name of the resource group.")] = "kaito",
    cluster: Annotated[str, typer.Option(help="Name of the managed cluster.")] = "kaito",
    token: Annotated[str, typer.Option(help="Bearer token to insist on; by default any will do.")] = "",
    create_seconds: Annotated[float, typer.Option(help="How long a pool takes to make.")] = 3.0,
    delete_seconds: Annotated[float, typer.Option(help="How long it takes to go.")] = 1.0,
    latency: Annotated[float, typer.Option(help="Seconds that every answer takes.")] = 0.0,
    exclusive: Annotated[
        bool, typer.Option("--exclusive", help="Take one operation on pools at a time, as some clusters do.")
    ] = False,
) -> None:
    """Run the emulated Azure alone, without a Kubernetes cluster, until interrupted."""
    import asyncio

    from kaito.devcluster.arm import ArmOptions, Site
    from kaito.devcluster.arm.alone import serve

    options = ArmOptions(
        port=port,
        site=Site(subscription=subscription, resource_group=resource_group, cluster=cluster),
        token=token,
        create_seconds=create_seconds,
        delete_seconds=delete_seconds,
        latency=latency,
        exclusive=exclusive,
    )

    def started(url: str, path: str) -> None:
        typer.echo(f"Azure Resource Manager is emulated at {url}; its cluster is {path}.")
        typer.echo(f"Requests so far: GET {url}/emulator/requests; faults: POST {url}/emulator/faults.")

    try:
        asyncio.run(serve(options, started))
    except OSError as error:
        fail(f"cannot listen on 127.0.0.1:{port}: {error.strerror or error}", code=1)
    except KeyboardInterrupt:
        return


@app.command()
def kubeconfig(directory: Directory = None) -> None:
    """Print the kubeconfig of the local cluster's administrator."""
    folder = _folder(directory)
    if folder.running() is None:
        fail(f"no local cluster runs in {folder.path}: start one with `kaito dev up`", code=1)
    typer.echo(folder.kubeconfig.read_text(), nl=False)
