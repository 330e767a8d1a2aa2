"""The pods of a cluster that are processes: begins, reports and ends them as the API server says."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final
from urllib.parse import urlsplit

import aiohttp

from kaito.devcluster.kubelet import containers as c
from kaito.devcluster.kubelet import rules
from kaito.devcluster.kubelet.addresses import Lease
from kaito.devcluster.kubelet.host import watcher
from kaito.devcluster.kubelet.host.container import HostContainer, Setting
from kaito.devcluster.kubelet.host.environment import service_links
from kaito.devcluster.kubelet.host.images import ImageMap
from kaito.devcluster.kubelet.host.pod import PodProcesses
from kaito.devcluster.kubelet.host.references import Sources
from kaito.devcluster.kubelet.host.volumes import Folders
from kaito.devcluster.kubelet.nodes import internal_ip
from kaito.devcluster.kubelet.timing import Timing
from kaito.runtime import (
    PODS,
    Channel,
    Client,
    Clock,
    Conflict,
    EventRecorder,
    Key,
    Manifest,
    NotFound,
    ObjectReference,
    RestConfig,
    Result,
    Stored,
    TaskScope,
    format_time,
    get_logger,
    parse_time,
)

_log = get_logger("kubelet")


@dataclass(frozen=True, slots=True)
class _Running:
    uid: str
    pod: PodProcesses
    lease: Lease
    task: asyncio.Task[Any]


@final
class HostKubelet:
    """A context: what runs ends when it is left, and with this process in whatever way it ends."""

    def __init__(
        self,
        images: ImageMap,
        config: RestConfig,
        client: Client,
        recorder: EventRecorder,
        clock: Clock,
        timing: Timing,
    ) -> None:
        self._images = images
        self._client = client
        self._recorder = recorder
        self._clock = clock
        self._timing = timing
        self._cluster = secrets.token_hex(8)
        self._running: dict[Key, _Running] = {}
        self._tasks = TaskScope(self._failed)
        server = urlsplit(config.server)
        spec = {"clusterIP": server.hostname, "ports": [{"name": "https", "port": server.port or 443}]}
        self._base = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            # Not at the address of the Service, where an ordinary user may not listen.
            **service_links([{"metadata": {"name": "kubernetes"}, "spec": spec}]),
        }
        self.changes: Channel[Key] = Channel(lambda key: (key,))
        """Keys of pods whose processes have news."""

    async def __aenter__(self) -> HostKubelet:
        self._folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="kaito-pods-"))
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, limit=0))
        self._watcher = await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", watcher.__file__, self._cluster, str(self._folder),
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._tasks.aclose()
        for running in self._running.values():
            running.lease.release()
        self._running.clear()
        await self._session.close()
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        await self._watcher.wait()

    def _failed(self, name: str, error: BaseException) -> None:
        _log.error("a pod's processes were given up", pod=name, error=repr(error), exc_info=error)

    def takes(self, pod: Manifest) -> bool:
        """Whether processes of this machine play the part of the pod: not where it is to fail as an annotation says."""
        running = self._running.get(Key(pod["metadata"]["namespace"], pod["metadata"]["name"]))
        if running is not None and running.uid == pod["metadata"]["uid"]:
            return True
        annotations = pod["metadata"].get("annotations") or {}
        return not {rules.FAIL, rules.READY_AFTER} & annotations.keys() and self._images.knows(pod)

    def find(self, pod: Mapping[str, Any], container: str) -> HostContainer | None:
        """The container of a pod that is a process; None for one that is not."""
        running = self._running.get(Key(pod["metadata"]["namespace"], pod["metadata"]["name"]))
        if running is None or running.uid != pod["metadata"]["uid"]:
            return None
        found = running.pod.find(container)
        return found if isinstance(found, HostContainer) else None

    async def forget(self, key: Key) -> None:
        """End at once what runs for a pod that is not there any more."""
        running = self._running.pop(key, None)
        if running is not None:
            running.task.cancel()
            await asyncio.wait({running.task})
            running.lease.release()
            await asyncio.to_thread(running.pod.setting.folders.remove)

    async def reconcile(self, stored: Stored[Manifest], pod: Manifest, node: Manifest) -> Result | None:
        running = self._running.get(stored.key)
        if running is not None and running.uid != stored.uid:
            await self.forget(stored.key)
            running = None
        deleting = "deletionTimestamp" in pod["metadata"]
        if running is None:
            if deleting or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
                await self._remove(stored, pod)
                return None
            running = self._begin(stored, pod, node)
        if deleting:
            running.pod.stop(pod["metadata"].get("deletionGracePeriodSeconds") or 0)
        overdue, again = self._deadline(pod)
        if overdue:
            running.pod.stop(running.pod.setting.grace)
        status = self._status(running.pod, pod, overdue=overdue)
        if status != (pod.get("status") or {}):
            await self._write(stored, status)
        elif running.pod.ended:
            running.lease.release()
            if deleting:
                await self._remove(stored, pod)
        return Result(requeue_after=again) if again else None

    def _begin(self, stored: Stored[Manifest], pod: Manifest, node: Manifest) -> _Running:
        key, uid = stored.key, stored.uid
        lease = Lease()
        host, address = internal_ip(node), lease.address
        status = {
            **(pod.get("status") or {}),
            "startTime": format_time(self._clock.now()),
            "hostIP": host,
            "hostIPs": [{"ip": host}],
            "podIP": address,
            "podIPs": [{"ip": address}],
        }
        about = ObjectReference.of(PODS, stored)
        setting = Setting(
            pod={**pod, "status": status},
            node=node,
            address=address,
            mark=f"{self._cluster}.{uid}",
            sources=Sources(self._client, key.namespace),
            folders=Folders(self._folder / uid, self._folder / "claims"),
            base={**self._base, "HOSTNAME": pod["spec"].get("hostname") or key.name},
            session=self._session,
            clock=self._clock,
            timing=self._timing,
            changed=lambda: self.changes.send(key),
            note=lambda note: self._recorder.event(about, note.kind, note.reason, note.text),
        )
        processes = PodProcesses(setting, self._images)
        task = self._tasks.start(f"pod {key}", processes.run())
        self._running[key] = _Running(uid, processes, lease, task)
        return self._running[key]

    def _deadline(self, pod: Manifest) -> tuple[bool, float]:
        """Whether ``activeDeadlineSeconds`` are over, and the seconds that are left otherwise."""
        seconds, started = pod["spec"].get("activeDeadlineSeconds"), (pod.get("status") or {}).get("startTime")
        if seconds is None or started is None:
            return False, 0.0
        left = seconds - (self._clock.now() - parse_time(started)).total_seconds()
        return left <= 0, max(0.0, left)

    def _status(self, running: PodProcesses, pod: Manifest, *, overdue: bool) -> Manifest:
        set_at_start = ("startTime", "hostIP", "hostIPs", "podIP", "podIPs")
        fixed = {name: running.setting.pod["status"][name] for name in set_at_start}
        main, inits = running.statuses(init=False), running.statuses(init=True)
        status = c.pod_status(pod, main, inits, self._clock.now(), **fixed)
        if "deletionTimestamp" in pod["metadata"]:
            # A pod that was stopped is not one that failed.
            status["phase"] = (pod.get("status") or {}).get("phase") or "Pending"
        elif overdue and (running.ended or status["phase"] == "Failed"):
            message = "Pod was active on the node longer than the specified deadline"
            status |= {"phase": "Failed", "reason": "DeadlineExceeded", "message": message}
        return status

    async def _write(self, stored: Stored[Manifest], status: Manifest) -> None:
        patch = {"metadata": {"resourceVersion": stored.resource_version}, "status": status}
        try:
            await self._client.patch(PODS, stored.key.name, patch, namespace=stored.key.namespace, subresource="status")
        except (NotFound, Conflict):
            return  # the news of the change bring the pod here again

    async def _remove(self, stored: Stored[Manifest], pod: Manifest) -> None:
        """Complete the deletion; one without a grace period is complete but for finalizers."""
        key = stored.key
        if not pod["metadata"].get("deletionGracePeriodSeconds"):
            return
        try:
            await self._client.delete(PODS, key.name, key.namespace, uid=stored.uid, grace_period=0)
        except (NotFound, Conflict):
            return
