"""``kaito manager``: the operator."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kaito.cli.errors import fail

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Mapping, Sequence

    from kaito.runtime import Manager, ManagerOptions, RestConfig
    from kaito.webhooks import WebhookOptions


def run(
    controllers: Annotated[
        str,
        typer.Option(help="Controllers to run, separated by commas: names of the entry-point group kaito.controllers."),
    ] = "workspace,machine",
    kubeconfig: Annotated[
        str | None,
        typer.Option(help="Kubeconfig to use; by default $KUBECONFIG, the pod's service account, ~/.kube/config."),
    ] = None,
    context: Annotated[str | None, typer.Option(help="Context of the kubeconfig.")] = None,
    metrics_bind_address: Annotated[str, typer.Option(help="host:port of /metrics; 0 turns it off.")] = ":8080",
    metrics_port: Annotated[
        int | None, typer.Option(envvar="METRICS_PORT", help="Port of /metrics on all addresses.")
    ] = None,
    metrics_secure: Annotated[
        bool,
        typer.Option(
            "--metrics-secure/--no-metrics-secure",
            help="Serve /metrics over TLS, and only to those whom the cluster lets get it.",
        ),
    ] = False,
    metrics_cert_path: Annotated[
        Path | None,
        typer.Option(
            help="Folder with tls.crt and tls.key for secure metrics; by default a certificate is made at the start."
        ),
    ] = None,
    health_probe_bind_address: Annotated[
        str, typer.Option(help="host:port of /healthz and /readyz; 0 turns it off.")
    ] = ":8081",
    health_probe_port: Annotated[
        int | None, typer.Option(envvar="HEALTH_PROBE_PORT", help="Port of /healthz and /readyz on all addresses.")
    ] = None,
    leader_elect: Annotated[
        bool, typer.Option("--leader-elect", envvar="LEADER_ELECT", help="Run only while holding a lease.")
    ] = False,
    leader_election_namespace: Annotated[
        str | None,
        typer.Option(envvar="LEADER_ELECTION_NAMESPACE", help="Namespace of the lease; by default the process's own."),
    ] = None,
    leader_election_id: Annotated[
        str | None,
        typer.Option(
            "--leader-election-id",
            "--leader-election-name",
            envvar="LEADER_ELECTION_NAME",
            help="Name of the lease; by default kaito- and the names of the controllers. Processes that run the same "
            "controller must use the same lease.",
        ),
    ] = None,
    lease_duration: Annotated[float, typer.Option(help="Seconds that others wait for a silent leader.")] = 15.0,
    renew_deadline: Annotated[float, typer.Option(help="Seconds after which a leader that cannot renew ends.")] = 10.0,
    retry_period: Annotated[float, typer.Option(help="Seconds between two tries.")] = 2.0,
    grace_period: Annotated[float, typer.Option(help="Seconds for reconciles to end when stopping.")] = 30.0,
    kube_api_qps: Annotated[
        float,
        typer.Option(
            "--kube-api-qps",
            "--kube-client-qps",
            envvar="KUBE_CLIENT_QPS",
            help="Requests a second to the API server; 0 for no limit.",
        ),
    ] = 0.0,
    kube_api_burst: Annotated[
        int,
        typer.Option(
            "--kube-api-burst",
            "--kube-client-burst",
            envvar="KUBE_CLIENT_BURST",
            help="Requests that may exceed it for a moment.",
        ),
    ] = 50,
    log_level: Annotated[str, typer.Option(envvar="LOG_LEVEL", help="debug, info, warning or error.")] = "info",
    log_format: Annotated[str, typer.Option(help="json, text, or auto: text on a terminal.")] = "auto",
    claim_kinds: Annotated[
        str | None,
        typer.Option(
            envvar="KAITO_CLAIM_KINDS",
            help="Kinds that the machine controller serves: machine, nodeclaim, or both, which is the default.",
        ),
    ] = None,
    poll_interval: Annotated[
        float | None,
        typer.Option(
            envvar="KAITO_POLL_INTERVAL_SECONDS",
            help="Seconds between two lists of the agent pools while one is changing; default: 10.",
        ),
    ] = None,
    registration_timeout: Annotated[
        float | None,
        typer.Option(
            envvar="KAITO_REGISTRATION_TIMEOUT_SECONDS",
            help="Seconds for the node of a running machine to join; default: 900.",
        ),
    ] = None,
    drain_timeout: Annotated[
        float | None,
        typer.Option(
            envvar="KAITO_DRAIN_TIMEOUT_SECONDS",
            help="Seconds for pods to leave a node that is to go; default: 600.",
        ),
    ] = None,
    node_grace: Annotated[
        float | None,
        typer.Option(
            envvar="KAITO_NODE_GRACE_SECONDS",
            help="Seconds for a node that is not Ready, or vanished, to come back; default: 600.",
        ),
    ] = None,
    repair_share: Annotated[
        float | None,
        typer.Option(
            envvar="KAITO_REPAIR_SHARE",
            help="Part of the nodes that may be replaced at a time; default: 0.2.",
        ),
    ] = None,
    node_source: Annotated[
        str | None,
        typer.Option(
            envvar="KAITO_NODE_SOURCE",
            help="What Workspaces ask for nodes with: machine (karpenter.sh/v1alpha5), nodeclaim (karpenter.sh/v1), or byo: "
            "none are made, Workspaces run on nodes that exist; default: machine.",
        ),
    ] = None,
    workspace_node_grace: Annotated[
        float | None,
        typer.Option(
            envvar="KAITO_WORKSPACE_NODE_GRACE_SECONDS",
            help="Seconds that a Workspace waits for a node that is not Ready before it asks for another; default: 300.",
        ),
    ] = None,
    runtime_image: Annotated[
        str | None,
        typer.Option(
            envvar="KAITO_RUNTIME_IMAGE",
            help="Image of kaito's own model server and tuner; {engine} in it stands for transformers, vllm, openvino or "
            "tuning; default: none, or those that KAITO_RUNTIME_IMAGE_TRANSFORMERS and the like name.",
        ),
    ] = None,
    upgrade_workloads: Annotated[
        str | None,
        typer.Option(
            envvar="KAITO_UPGRADE_WORKLOADS",
            help="When a running workload becomes what this operator would make today: on-change of its Workspace, never "
            "(images stay, too), or rolling, one Workspace at a time; default: on-change.",
        ),
    ] = None,
    webhook: Annotated[
        bool, typer.Option("--webhook/--no-webhook", help="Serve the admission webhook for Workspaces.")
    ] = False,
    webhook_port: Annotated[
        int, typer.Option(envvar="WEBHOOK_PORT", help="Port of the admission webhook; 0 for any that is free.")
    ] = 9443,
    webhook_service: Annotated[
        str, typer.Option(envvar="WEBHOOK_SERVICE", help="Service through which the API server calls the webhook.")
    ] = "kaito-webhook-service",
    webhook_namespace: Annotated[
        str | None,
        typer.Option(envvar="SYSTEM_NAMESPACE", help="Namespace of that Service; by default the process's own."),
    ] = None,
    feature_gates: Annotated[
        str | None,
        typer.Option(
            envvar="FEATURE_GATES",
            help="NodeRepair=false turns the replacement of sick nodes off.",
        ),
    ] = None,
) -> None:
    """Run the operator, in a cluster or against any kubeconfig, until SIGTERM or SIGINT."""
    import asyncio
    from dataclasses import replace

    from kaito.runtime import (
        ConfigError,
        ElectionConfig,
        ManagerOptions,
        configure_logging,
        default_identity,
        load_config,
    )

    if log_format not in ("auto", "json", "text"):
        fail(f"--log-format {log_format!r}: use auto, json or text")
    if metrics_cert_path is not None and not metrics_secure:
        fail("--metrics-cert-path: only secure metrics have a certificate; add --metrics-secure")
    names = [name.strip() for name in controllers.split(",") if name.strip()]
    given = {
        "KAITO_CLAIM_KINDS": claim_kinds,
        "KAITO_POLL_INTERVAL_SECONDS": poll_interval,
        "KAITO_REGISTRATION_TIMEOUT_SECONDS": registration_timeout,
        "KAITO_DRAIN_TIMEOUT_SECONDS": drain_timeout,
        "KAITO_NODE_GRACE_SECONDS": node_grace,
        "KAITO_REPAIR_SHARE": repair_share,
        "KAITO_NODE_SOURCE": node_source,
        "KAITO_WORKSPACE_NODE_GRACE_SECONDS": workspace_node_grace,
        "KAITO_RUNTIME_IMAGE": runtime_image,
        "KAITO_UPGRADE_WORKLOADS": upgrade_workloads,
        "FEATURE_GATES": feature_gates,
    }
    environ = {**os.environ, **{name: str(value) for name, value in given.items() if value is not None}}
    try:
        configure_logging(log_level, json={"auto": None, "json": True, "text": False}[log_format])
        config = replace(
            load_config(kubeconfig, context=context), qps=kube_api_qps, burst=kube_api_burst, user_agent="kaito-manager"
        )
        election = None
        if leader_elect:
            election = ElectionConfig(
                namespace=leader_election_namespace or config.namespace,
                name=leader_election_id or "-".join(["kaito", *sorted(names)]),
                identity=default_identity(),
                lease_duration=lease_duration,
                renew_deadline=renew_deadline,
                retry_period=retry_period,
            )
        options = ManagerOptions(
            metrics_address=metrics_bind_address if metrics_port is None else f":{metrics_port}",
            metrics_secure=metrics_secure,
            metrics_certificates=metrics_cert_path,
            health_address=health_probe_bind_address if health_probe_port is None else f":{health_probe_port}",
            election=election,
            grace_period=grace_period,
            own_process=True,
        )
        served = None
        if webhook:
            from kaito.webhooks import WebhookOptions

            served = WebhookOptions(webhook_namespace or config.namespace, webhook_service, f":{webhook_port}")
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(config, options, names, environ, served))
    except (ConfigError, ValueError) as error:
        fail(error)
    except Exception as error:  # already logged, with the part that failed
        fail(error, code=1)


async def _run(
    config: RestConfig,
    options: ManagerOptions,
    names: Sequence[str],
    environ: Mapping[str, str],
    served: WebhookOptions | None,
) -> None:
    from kaito.runtime import Manager, load_controllers

    manager = Manager(config, options)
    try:
        for setup in load_controllers(names):
            setup(manager, environ)
        if served is not None:
            _serve_webhook(manager, environ, served)
    except BaseException:
        await manager.rest.aclose()
        raise
    await manager.run(handle_signals=True)


def _serve_webhook(manager: Manager, environ: Mapping[str, str], served: WebhookOptions) -> None:
    from kaito import webhooks
    from kaito.controllers.workspace.settings import Settings

    settings = Settings.from_environ(environ)
    webhooks.setup(manager, settings.catalogue(), settings.policy, served)


def _loop_factory() -> Callable[[], AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on this platform: asyncio's own loop does
        return None
    return uvloop.new_event_loop
