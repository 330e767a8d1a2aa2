"""``kaito oci``: push a directory as an image, pull one into a directory. Also what init containers run."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from kaito.cli.errors import fail

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, help="Adapters and datasets as OCI images, without a container runtime.")

Config = Annotated[
    list[Path] | None,
    typer.Option(
        "--config",
        help="A Docker configuration with the registry's login, or a folder with one such as a mounted pull secret; may be "
        "given several times. Default: $DOCKER_CONFIG or ~/.docker.",
    ),
]
Plain = Annotated[
    bool, typer.Option("--plain-http", help="Speak HTTP without TLS; a registry on this machine always is.")
]
DigestFile = Annotated[Path | None, typer.Option("--digest-file", help="Write the image's digest there.")]


@app.command()
def push(
    directory: Annotated[Path, typer.Argument(help="Its files become the image's /data.")],
    image: Annotated[str, typer.Argument(help="registry/repository:tag")],
    config: Config = None,
    annotation: Annotated[
        list[str] | None, typer.Option("--annotation", help="key=value; may be given several times.")
    ] = None,
    plain_http: Plain = False,
    digest_file: DigestFile = None,
) -> None:
    """Push a directory as an image. The same files give the same digest."""
    from kaito.oci import Keychain, Reference
    from kaito.oci import push as push_image

    annotations = {}
    for text in annotation or ():
        key, equals, value = text.partition("=")
        if not equals or not key:
            fail(f"--annotation {text!r}: it must be key=value")
        annotations[key] = value

    async def act() -> str:
        keychain = Keychain.load(config) if config else Keychain.default()
        reference = Reference.parse(image)
        pushed = await push_image(
            directory, reference, keychain, annotations=annotations, plain=plain_http, say=typer.echo
        )
        typer.echo(f"pushed {reference}@{pushed.digest}{'' if pushed.uploaded else ' (the layer was there already)'}")
        return pushed.digest

    _finish(_run(act()), digest_file)


@app.command()
def pull(
    image: Annotated[str, typer.Argument(help="registry/repository:tag, or …@sha256:…")],
    directory: Annotated[Path, typer.Argument(help="A new or an empty directory.")],
    config: Config = None,
    path: Annotated[str, typer.Option("--path", help="The folder of the image that is brought.")] = "data",
    plain_http: Plain = False,
    digest_file: DigestFile = None,
) -> None:
    """Bring the files of an image into a directory: all of them, or none."""
    from kaito.oci import Keychain, Reference
    from kaito.oci import pull as pull_image

    async def act() -> str:
        keychain = Keychain.load(config) if config else Keychain.default()
        reference = Reference.parse(image)
        pulled = await pull_image(reference, directory, keychain, path=path, plain=plain_http, say=typer.echo)
        typer.echo(f"pulled {reference}@{pulled.digest}: {pulled.files} files in {directory}")
        return pulled.digest

    _finish(_run(act()), digest_file)


def _run(work: Coroutine[Any, Any, T]) -> T:
    from kaito.oci import OciError

    try:
        return asyncio.run(work)
    except OciError as error:
        fail(str(error))


def _finish(digest: str, file: Path | None) -> None:
    if file is not None:
        file.write_text(f"{digest}\n")
