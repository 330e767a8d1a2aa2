"""``kaito deploy`` and ``kaito tune``: a Workspace from a line of flags, judged before anything is sent."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from kaito.cli.cluster.connect import CONTEXT, KUBECONFIG, NAMESPACE, Target, run
from kaito.cli.errors import fail

MODEL = Annotated[str, typer.Option(help="Model, by its name in `kaito models` or on the hub.")]
INSTANCE_TYPE = Annotated[str, typer.Option(help="Size of the nodes, as in `kaito skus`.")]
NAME = Annotated[str, typer.Option(help="Name of the Workspace; by default made from the model's.")]
DRY_RUN = Annotated[bool, typer.Option("--dry-run", help="Print the manifest and send nothing.")]
SELECTOR = Annotated[
    list[str] | None, typer.Option("--label", "-l", help="key=value that the nodes carry; may be repeated.")
]


def deploy(
    model: MODEL,
    instance_type: INSTANCE_TYPE = "",
    name: NAME = "",
    count: Annotated[int, typer.Option(help="Nodes.", min=1)] = 1,
    adapter: Annotated[
        list[str] | None, typer.Option(help="NAME=IMAGE or NAME=IMAGE@STRENGTH of an adapter; may be repeated.")
    ] = None,
    config: Annotated[str, typer.Option(help="ConfigMap with inference_config.yaml.")] = "",
    runtime: Annotated[str, typer.Option(help="Engine: transformers, vllm or openvino.")] = "",
    secret: Annotated[str, typer.Option(help="Secret with HF_TOKEN for a model that is not public.")] = "",
    label: SELECTOR = None,
    dry_run: DRY_RUN = False,
    namespace: NAMESPACE = None,
    kubeconfig: KUBECONFIG = None,
    context: CONTEXT = None,
) -> None:
    """Serve a model: make the Workspace, or print it with --dry-run."""
    preset: dict[str, Any] = {"name": model}
    if secret:
        preset["presetOptions"] = {"modelAccessSecret": secret}
    inference: dict[str, Any] = {"preset": preset}
    if adapter:
        inference["adapters"] = [_adapter(text) for text in adapter]
    if config:
        inference["config"] = config
    manifest = _workspace(name or _name(model), instance_type, count, label, runtime) | {"inference": inference}
    _make(manifest, dry_run=dry_run, namespace=namespace, kubeconfig=kubeconfig, context=context)


def make_tuning(
    model: str,
    instance_type: str,
    name: str,
    method: str,
    data: list[str],
    output: str,
    secret: str,
    config: str,
    label: list[str] | None,
    *,
    dry_run: bool,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
) -> None:
    """Make the Workspace that tunes ``model``."""
    tuning: dict[str, Any] = {"preset": {"name": model}, "method": method, "input": {"urls": data}}
    tuning["output"] = {"image": output, "imagePushSecret": secret}
    if config:
        tuning["config"] = config
    manifest = _workspace(name or f"tune-{_name(model)}"[:63].rstrip("-"), instance_type, 1, label, "")
    _make(manifest | {"tuning": tuning}, dry_run=dry_run, namespace=namespace, kubeconfig=kubeconfig, context=context)


def _name(model: str) -> str:
    """A name for a Service, from that of a model."""
    found = re.sub(r"[^a-z0-9]+", "-", model.rpartition("/")[2].casefold()).strip("-")
    return (found if found[:1].isalpha() else f"model-{found}")[:63].rstrip("-")


def _workspace(name: str, instance_type: str, count: int, label: list[str] | None, runtime: str) -> dict[str, Any]:
    pairs = dict(_pair(text) for text in label or ()) or {"apps": name}
    resource: dict[str, Any] = {"labelSelector": {"matchLabels": pairs}}
    if instance_type:
        resource["instanceType"] = instance_type
    if count > 1:
        resource["count"] = count
    metadata: dict[str, Any] = {"name": name}
    if runtime:
        metadata["annotations"] = {"kaito.sh/runtime": runtime}
    return {"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "metadata": metadata, "resource": resource}


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        fail(f"--label {text!r}: use key=value")
    return key, value


def _adapter(text: str) -> dict[str, Any]:
    name, equals, image = text.partition("=")
    if not name or not equals or not image:
        fail(f"--adapter {text!r}: use NAME=IMAGE or NAME=IMAGE@STRENGTH")
    found = re.fullmatch(r"(.+)@(\d*\.?\d+)", image)
    source = {"source": {"name": name, "image": found[1] if found else image}}
    return source | {"strength": found[2]} if found else source


def _make(
    manifest: dict[str, Any], *, dry_run: bool, namespace: str | None, kubeconfig: str | None, context: str | None
) -> None:
    _judge(manifest)
    if dry_run:
        import yaml

        if namespace:
            manifest["metadata"]["namespace"] = namespace
        typer.echo(yaml.safe_dump(manifest, sort_keys=False), nl=False)
        return
    run(_create(Target.of(kubeconfig, context, namespace), manifest))


def _judge(manifest: dict[str, Any]) -> None:
    """What the manifest alone tells; the operator, whose settings are not known here, has the last word."""
    from pydantic import ValidationError

    from kaito.api.defaulting import read_workspace
    from kaito.models import Catalogue

    try:
        workspace = read_workspace(manifest)
    except ValidationError as error:
        fail("; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()))
    spec = workspace.inference.preset if workspace.inference else workspace.tuning.preset if workspace.tuning else None
    if spec is not None and Catalogue.default().preset(spec.name) is None:
        typer.secho(f"warning: this version of kaito does not know the model {spec.name!r} (kaito models)", err=True)


async def _create(target: Target, manifest: dict[str, Any]) -> None:
    from kaito.cli.cluster.seen import WORKSPACE
    from kaito.runtime import AlreadyExists

    name = manifest["metadata"]["name"]
    async with target.client() as client:
        try:
            await client.create(WORKSPACE, manifest, namespace=target.namespace)
        except AlreadyExists:
            fail(f"there is a Workspace {name} in namespace {target.namespace} already: give another --name", code=1)
    typer.echo(f"workspace.kaito.sh/{name} created; kaito status -w {name} shows how it goes")
