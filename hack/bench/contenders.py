"""The programs that are compared. Each follows all objects of a kind, "reconciles" each once, and then times every change.

Run as ``python -m hack.bench.contenders NAME KUBECONFIG PLURAL COUNT``; the first line of its standard input is that of
``access_line``. It prints a line of JSON for each thing that the benchmark waits for, and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from hack.bench.names import NAMES, POD, Names
from hack.bench.report import Report


async def kaito(kubeconfig: str, access: str, names: Names, report: Report) -> None:
    from hack.bench.access import parse_access
    from kaito.runtime import PODS, Controller, Manager, ManagerOptions, Request, manifest_resource

    manager = Manager(parse_access(access), ManagerOptions(metrics_address="0", health_address="0", own_process=True))
    resource = PODS if names is POD else manifest_resource(names.group, names.version, names.kind, names.plural)
    objects = manager.cache.lister(resource)

    class Reconciler:
        async def reconcile(self, request: Request) -> None:
            stored = objects.stored(request.key.name, request.key.namespace)
            if stored is not None:
                report.reconciled(request.key.namespace, request.key.name, stored.meta.annotations)

    manager.add(Controller("bench", Reconciler(), resource, max_concurrent=4))
    running = asyncio.create_task(manager.run())
    await report.serve()
    manager.stop()
    await running


async def kopf(kubeconfig: str, _: str, names: Names, report: Report) -> None:
    import kopf

    os.environ["KUBECONFIG"] = kubeconfig
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**arguments: Any) -> Any:
        return kopf.login_with_kubeconfig(**arguments)

    # The cheapest handler that kopf has: no finalizer, no progress annotations, no patches.
    @kopf.on.event(names.group, names.version, names.plural, registry=registry)
    async def seen(namespace: str | None, name: str, annotations: Mapping[str, str], **_: Any) -> None:
        report.reconciled(namespace or "", name, annotations)

    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    stop = asyncio.Event()
    running = asyncio.create_task(
        kopf.operator(registry=registry, settings=settings, clusterwide=True, standalone=True, stop_flag=stop)
    )
    await report.serve()
    stop.set()
    await running


class _Api(NamedTuple):
    """How an informer on kubernetes_asyncio reads a kind: custom resources as dictionaries, pods as models."""

    read: Callable[..., Any]
    """Lists, and with ``watch`` watches."""
    arguments: tuple[str, ...]
    page: Callable[[Any], tuple[list[Any], str, str | None]]
    """Items, resource version and continue token."""
    identity: Callable[[Any], tuple[str, str]]
    """Namespace and name of an object."""
    annotations: Callable[[Any], Mapping[str, str]]


def _api(api_client: Any, names: Names) -> _Api:
    from kubernetes_asyncio import client

    if names is POD:
        return _Api(
            client.CoreV1Api(api_client).list_pod_for_all_namespaces,
            (),
            lambda page: (page.items, page.metadata.resource_version, page.metadata._continue),
            lambda pod: (pod.metadata.namespace, pod.metadata.name),
            lambda pod: pod.metadata.annotations or {},
        )
    return _Api(
        client.CustomObjectsApi(api_client).list_cluster_custom_object,
        (names.group, names.version, names.plural),
        lambda page: (page["items"], page["metadata"]["resourceVersion"], page["metadata"].get("continue")),
        lambda item: (item["metadata"]["namespace"], item["metadata"]["name"]),
        lambda item: item["metadata"].get("annotations", {}),
    )


async def kubernetes_asyncio(kubeconfig: str, _: str, names: Names, report: Report) -> None:
    from kubernetes_asyncio import client, config, watch

    await config.load_kube_config(config_file=kubeconfig)
    store: dict[tuple[str, str], Any] = {}
    queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    async with client.ApiClient() as api_client:
        api = _api(api_client, names)

        def seen(item: Any) -> None:
            key = api.identity(item)
            store[key] = item
            queue.put_nowait(key)

        async def follow() -> None:
            options: dict[str, Any] = {}
            while True:
                items, version, token = api.page(await api.read(*api.arguments, limit=500, **options))
                for item in items:
                    seen(item)
                if not token:
                    break
                options["_continue"] = token
            async with watch.Watch() as watching:
                stream = watching.stream(api.read, *api.arguments, resource_version=version, timeout_seconds=3600)
                async for event in stream:
                    seen(event["object"])

        async def reconcile() -> None:
            while True:
                key = await queue.get()
                report.reconciled(*key, api.annotations(store[key]))

        tasks = [asyncio.create_task(follow()), asyncio.create_task(reconcile())]
        await report.serve()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def main() -> None:
    name, kubeconfig, plural, count = sys.argv[1:]
    contender = {"kaito": kaito, "kopf": kopf, "kubernetes_asyncio": kubernetes_asyncio}[name]
    names = NAMES[plural]
    report = Report(names, int(count))
    # uvloop where the contender itself would use it; an informer on kubernetes_asyncio runs on asyncio's own loop.
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if name != "kubernetes_asyncio":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(contender(kubeconfig, sys.stdin.readline(), names, report))


if __name__ == "__main__":
    main()
