"""The tree of commands. What a command needs is imported when it runs, so that ``--help`` costs nothing."""

from __future__ import annotations

import typer

from kaito.cli import demo, dev, inspect, manager, oci, plan
from kaito.cli.cluster import chat, deploy, doctor, logs, status, tune


def build(*, plugin: bool, completes: bool = True) -> typer.Typer:
    """The program: as a kubectl plugin without the commands that run servers in a cluster.

    ``completes`` adds the options that install completion in a shell.
    """
    app = typer.Typer(
        name="kaito",
        help="The Kubernetes AI toolchain operator: one Workspace, a GPU node, a running model.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=completes,
        rich_markup_mode=None,
    )
    if not plugin:
        app.command("manager", short_help="Run the operator.")(manager.run)
        app.command("demo", short_help="Show a Workspace becoming ready, on a local cluster.")(demo.run)
    app.command("status", short_help="Show what a Workspace consists of, and what it waits for.")(status.status)
    app.command("chat", short_help="Talk to the model of a Workspace.")(chat.chat)
    app.command("logs", short_help="Print the logs of a Workspace's pods.")(logs.logs)
    app.command("deploy", short_help="Serve a model.")(deploy.deploy)
    app.command("tune", short_help="Fine-tune a model, or show how far that is.")(tune.tune)
    app.command("doctor", short_help="Check whether kaito can work in the cluster.")(doctor.doctor)
    app.add_typer(dev.app, name="dev", short_help="Start, stop and look at the local cluster.")
    app.add_typer(oci.app, name="oci", short_help="Push and pull adapters as images.")
    app.command("plan", short_help="Print what the operator would create.")(plan.plan)
    app.command("models", short_help="List the models that kaito knows.")(inspect.models)
    app.command("presets", hidden=True)(inspect.models)
    app.command("skus", short_help="List the instance types that kaito knows.")(inspect.skus)
    app.command("version")(inspect.version)
    return app
