"""What every test gets: a clean event loop, and a check that nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from kaito.devcluster.apiserver import ApiServer, ApiServerOptions
from kaito.runtime import NAMESPACES, Client, Rest, RestConfig, RuntimeMetrics
from support.controlplane import ControlPlane, external, of_server
from support.front import Front


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """One worker for one cluster: Machines and Nodes have no namespace that would keep tests apart."""
    return 1 if os.environ.get("KAITO_TEST_KUBECONFIG") else None


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("KAITO_TEST_KUBECONFIG") and (config.getoption("numprocesses", None) or 0) > 1:
        raise pytest.UsageError(
            "KAITO_TEST_KUBECONFIG names one cluster, on which tests run one after another: use -n 1"
        )
    if config.option.markexpr == "models":
        _keep_to_one_core()
    # Without a loop set, asking for the current one creates one that nobody closes.
    asyncio.set_event_loop(None)
    # How long an example takes says more about the machine than about the code.
    settings.register_profile("kaito", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("kaito")


def _keep_to_one_core() -> None:
    """Real models beside each other: libraries that share their cores wait for each other more than they compute."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


@pytest.fixture(autouse=True)
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The exit codes with which a manager would have ended this process: on a busy machine a watchdog may well bark.

    What a manager promises of itself (fences, errors, what is left) holds all the same.
    """
    codes: list[int] = []
    monkeypatch.setattr("kaito.runtime.manager.watchdog.end_process", codes.append)
    return codes


@pytest_asyncio.fixture(autouse=True)
async def no_task_left_behind(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """An async test ends with the tasks that it began with."""
    before = asyncio.all_tasks()
    yield
    left = [task for task in asyncio.all_tasks() - before if not task.done() and task is not asyncio.current_task()]
    assert not left, f"tasks left behind: {[task.get_name() for task in left]}"


def _sockets() -> set[str]:
    links = set()
    for entry in Path("/proc/self/fd").iterdir() if Path("/proc/self/fd").exists() else ():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith("socket:"):
            links.add(target)
    return links


@pytest.fixture(autouse=True)
def no_socket_or_thread_left_behind() -> Iterator[None]:
    """A test closes the sockets and ends the threads that it opened."""
    sockets, threads = _sockets(), set(threading.enumerate())
    yield
    if _sockets() - sockets:
        gc.collect()
    left = _sockets() - sockets
    assert not left, f"sockets left open: {sorted(left)}"
    for thread in set(threading.enumerate()) - threads:
        if not _pooled(thread):
            thread.join(timeout=5.0)
    alive = [thread for thread in set(threading.enumerate()) - threads if thread.is_alive() and not _pooled(thread)]
    assert not alive, f"threads left running: {[thread.name for thread in alive]}"


def _pooled(thread: threading.Thread) -> bool:
    """Threads of an event loop's executor, which asyncio ends with its loop."""
    return thread.name.startswith(("asyncio_", "ThreadPoolExecutor"))


@pytest.fixture(scope="session")
def external_config() -> Iterator[RestConfig | None]:
    """The real API server that the environment names; None for the local cluster's."""
    with external() as config:
        yield config


@pytest.fixture
async def control_plane(external_config: RestConfig | None) -> AsyncIterator[ControlPlane]:
    """The API server of component tests."""
    async with AsyncExitStack() as stack:
        config = external_config
        if config is None:
            config = of_server(await stack.enter_async_context(ApiServer(ApiServerOptions(bookmark_interval=0.2))))
        front = await stack.enter_async_context(Front(config))
        yield ControlPlane(front.config, front)


@pytest.fixture
async def rest(control_plane: ControlPlane) -> AsyncIterator[Rest]:
    rest = Rest(control_plane.config, RuntimeMetrics())
    yield rest
    await rest.aclose()


@pytest.fixture
def client(rest: Rest) -> Client:
    """The administrator of the component tests' API server."""
    return Client(rest)


@pytest.fixture
async def namespace(client: Client) -> AsyncIterator[str]:
    """A namespace of the test's own."""
    name = f"test-{secrets.token_hex(4)}"
    await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    await client.delete(NAMESPACES, name)
