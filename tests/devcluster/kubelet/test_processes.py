"""Pods as processes: what a user of a cluster expects of containers, on this machine."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from devcluster.living import Living, is_ready
from kaito.devcluster.apiserver import LogOptions
from kaito.devcluster.cluster import ClusterOptions, LocalCluster
from kaito.devcluster.controllers.resources import PERSISTENT_VOLUME_CLAIMS
from kaito.devcluster.kubelet.addresses import LOOPBACK_NETWORK
from kaito.devcluster.kubelet.host import HOST_COMMANDS
from kaito.devcluster.kubelet.host.logfile import LogFile
from kaito.devcluster.kubelet.host.streams import Streams
from kaito.runtime import CONFIG_MAPS, EVENTS, JOBS, PODS, SECRETS, SERVICES, Manifest
from support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pods are processes on Linux")
SPEED = 50.0
SERVER = """
import http.server, os, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ.get("SAYS", "hello").encode()
        self.send_response(200 if os.path.exists(os.environ.get("READY_FILE", "/")) else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer((os.environ["POD_IP"], int(sys.argv[1])), Answer).serve_forever()
"""


@dataclass(frozen=True)
class Machine(Living):
    cluster: LocalCluster
    session: aiohttp.ClientSession

    async def pod(self, name: str, *containers: Manifest, **spec: Any) -> Manifest:
        body = {"metadata": {"name": name}, "spec": {"containers": list(containers), "restartPolicy": "Never", **spec}}
        return await self.create(PODS, body)

    def log_url(self, pod: str) -> str:
        return f"{self.cluster.server.url}/api/v1/namespaces/{self.namespace}/pods/{pod}/log"

    async def log(self, pod: str, **params: str) -> str:
        async with self.session.get(self.log_url(pod), params=params) as answer:
            text = await answer.text()
            assert answer.status == 200, text
            return text

    async def phase(self, name: str, phase: str) -> Manifest:
        return await self.until(PODS, name, lambda pod: pod["status"]["phase"] == phase)

    async def ready(self, name: str) -> Manifest:
        return await self.until(PODS, name, is_ready)


@pytest.fixture
async def machine() -> AsyncIterator[Machine]:
    async with LocalCluster(ClusterOptions(speed=SPEED, images=HOST_COMMANDS)) as cluster:
        tls = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=cluster.server.ca_pem.decode()))
        headers = {"Authorization": f"Bearer {cluster.server.admin_token}"}
        async with aiohttp.ClientSession(connector=tls, headers=headers) as session:
            yield Machine(cluster.controllers.client, "default", cluster, session)


def shell(script: str, name: str = "main", **more: Any) -> Manifest:
    return {"name": name, "image": "any:1", "command": ["/bin/sh", "-c", script], **more}


def server(name: str = "main", port: int = 8080, **more: Any) -> Manifest:
    ports = [{"name": "http", "containerPort": port}]
    return {
        "name": name,
        "image": "any:1",
        "command": [sys.executable, "-c", SERVER, str(port)],
        "ports": ports,
        **more,
    }


def state(pod: Manifest, index: int = 0, field: str = "containerStatuses") -> Manifest:
    """A container's status; what one has from the start where the kubelet has not reported yet."""
    held: list[Manifest] = pod["status"].get(field) or []
    return held[index] if held else {"state": {}, "restartCount": 0, "started": False}


def variables(**values: str) -> list[Manifest]:
    return [{"name": name, "value": value} for name, value in values.items()]


def processes(text: str) -> list[str]:
    """Command lines of this machine that hold ``text``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if text in line and int(entry.name) != os.getpid():
                found.append(line)
    return found


async def test_exit_codes_decide_and_the_log_is_the_process_own(machine: Machine) -> None:
    await machine.pod("good", shell("echo one; echo two >&2; echo three"))
    pod = await machine.phase("good", "Succeeded")
    terminated = state(pod)["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (0, "Completed")
    assert "kaito.sh/simulated" not in pod["metadata"].get("labels", {})
    lines = (await machine.log("good")).splitlines()
    assert "command of the manifest" in lines[0]
    assert sorted(lines[1:]) == ["one", "three", "two"]
    assert await machine.log("good", tailLines="1") in ("three\n", "two\n")
    assert (await machine.log("good", timestamps="true")).splitlines()[1].startswith("20")
    assert await machine.log("good", sinceSeconds="3600") == await machine.log("good")
    assert await machine.log("good", sinceTime="2020-01-01T00:00:00Z") == await machine.log("good")
    assert await machine.log("good", sinceTime="2999-01-01T00:00:00Z") == ""
    assert len(await machine.log("good", limitBytes="7")) == 7

    await machine.pod("bad", shell("exit 3"))
    terminated = state(await machine.phase("bad", "Failed"))["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (3, "Error")


async def test_a_pod_has_a_loopback_address_of_its_own_where_its_ports_listen(machine: Machine) -> None:
    probe = {"readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1}}
    for name in ("one", "two"):
        await machine.pod(name, server(env=variables(SAYS=name), **probe), restartPolicy="Always")
    addresses = set()
    for name in ("one", "two"):
        address = (await machine.ready(name))["status"]["podIP"]
        assert IPv4Address(address) in LOOPBACK_NETWORK
        addresses.add(address)
        async with machine.session.get(f"http://{address}:8080/") as answer:
            assert await answer.text() == name
    assert len(addresses) == 2


async def test_logs_are_followed_until_the_container_ends(machine: Machine, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    await machine.pod("talks", shell(f"echo first; while [ ! -e {gate} ]; do sleep 0.05; done; echo last"))
    await machine.phase("talks", "Running")
    async with machine.session.get(machine.log_url("talks"), params={"follow": "true"}) as answer:
        await answer.content.readline()
        assert await answer.content.readline() == b"first\n"
        gate.touch()
        async with asyncio.timeout(20):
            assert await answer.content.read() == b"last\n"


async def test_a_container_that_crashes_is_started_again_with_back_off(machine: Machine) -> None:
    await machine.pod("again", shell("echo attempt; exit 7"), restartPolicy="Always")

    def in_back_off(pod: Manifest) -> bool:
        item = state(pod)
        reason = item["state"].get("waiting", {}).get("reason")
        return bool(item["restartCount"] >= 2 and reason == "CrashLoopBackOff")

    pod = await machine.until(PODS, "again", in_back_off)
    assert pod["status"]["phase"] == "Running"
    assert state(pod)["lastState"]["terminated"]["exitCode"] == 7
    assert "attempt" in await machine.log("again", previous="true")
    reasons = {event["reason"] for event in await machine.list(EVENTS) if "again" in event["metadata"]["name"]}
    assert {"BackOff", "Started"} <= reasons


async def test_on_failure_starts_again_until_it_succeeds(machine: Machine) -> None:
    volume = {"volumes": [{"name": "data", "emptyDir": {}}], "restartPolicy": "OnFailure"}
    mount = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    await machine.pod("tries", shell("[ -e /data/seen ] || { touch /data/seen; exit 1; }", **mount), **volume)
    pod = await machine.phase("tries", "Succeeded")
    assert state(pod)["restartCount"] == 1


async def test_environment_and_files_come_from_where_they_are_said_to(machine: Machine) -> None:
    await machine.create(CONFIG_MAPS, {"metadata": {"name": "settings"}, "data": {"colour": "blue", "size": "4"}})
    secret = {"password": base64.b64encode(b"s3cret").decode()}
    await machine.create(SECRETS, {"metadata": {"name": "login"}, "data": secret})
    environ = [
        {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "MEMORY", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
        {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": True}}},
        {"name": "GREETING", "value": "hello $(WHO) $$(WHO) $(UNKNOWN)"},
    ]
    mounts = [{"name": name, "mountPath": f"/mnt/{name}"} for name in ("config", "all", "scratch")]
    mounts.append({"name": "config", "mountPath": "/etc/one.txt", "subPath": "renamed"})
    script = """
      echo "$WHO/$LABEL/$MEMORY/$PASSWORD/${NONE-unset}/$GREETING/$set_colour/$set_size"
      echo "address $IP"
      cat /mnt/config/renamed /etc/one.txt; echo
      cat /mnt/all/me /mnt/all/colour /mnt/all/password; echo
      test -s /mnt/all/token && echo token
      echo kept > /mnt/scratch/file; cat "$FILE"; echo "$1"
    """
    container = shell(
        script,
        args=["zero", "$(WHO):/mnt/scratch/file"],
        env=[*environ, {"name": "FILE", "value": "/mnt/scratch/file"}],
        envFrom=[{"prefix": "set_", "configMapRef": {"name": "settings"}}],
        volumeMounts=mounts,
        resources={"limits": {"memory": "64Mi"}},
    )
    sources = [
        {"configMap": {"name": "settings", "items": [{"key": "colour", "path": "colour"}]}},
        {"secret": {"name": "login"}},
        {"downwardAPI": {"items": [{"path": "me", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
    ]
    volumes = [
        {"name": "config", "configMap": {"name": "settings", "items": [{"key": "size", "path": "renamed"}]}},
        {"name": "all", "projected": {"sources": sources}},
        {"name": "scratch", "emptyDir": {}},
    ]
    body = {
        "metadata": {"name": "env", "labels": {"app": "demo"}},
        "spec": {"containers": [container], "volumes": volumes, "restartPolicy": "Never"},
    }
    await machine.create(PODS, body)
    pod = await machine.phase("env", "Succeeded")
    lines = (await machine.log("env")).splitlines()[1:]
    assert lines[0] == "env/demo/64/s3cret/unset/hello env $(WHO) $(UNKNOWN)/blue/4"
    assert lines[1] == f"address {pod['status']['podIP']}"
    assert lines[2:5] == ["44", "defaultblues3cret", "token"]
    assert lines[5] == "kept"
    assert lines[6].startswith("env:/")
    assert lines[6].endswith("/mnt/scratch/file")


async def test_services_are_in_the_environment_unless_the_pod_wants_none(machine: Machine) -> None:
    ports = [{"name": "http", "port": 80}, {"name": "grpc", "port": 90}]
    made = await machine.create(SERVICES, {"metadata": {"name": "my-model"}, "spec": {"ports": ports}})
    address = made["spec"]["clusterIP"]
    await machine.create(SERVICES, {"metadata": {"name": "headless"}, "spec": {"clusterIP": "None"}})
    for name, spec in (("linked", {}), ("alone", {"enableServiceLinks": False})):
        script = "env | grep -E '^(MY_MODEL|HEADLESS|KUBERNETES)_'"
        await machine.pod(name, shell(script, env=variables(MY_MODEL_PORT="mine")), **spec)
        await machine.phase(name, "Succeeded")
    environ = dict(line.split("=", 1) for line in (await machine.log("linked")).splitlines()[1:])
    server = urlsplit(machine.cluster.server.url)
    assert environ.pop("KUBERNETES_SERVICE_HOST") == server.hostname
    assert environ.pop("KUBERNETES_SERVICE_PORT") == environ.pop("KUBERNETES_SERVICE_PORT_HTTPS") == str(server.port)
    assert environ.pop("KUBERNETES_PORT") == f"tcp://{server.hostname}:{server.port}"
    assert {name: value for name, value in environ.items() if not name.startswith("KUBERNETES_PORT_")} == {
        "MY_MODEL_SERVICE_HOST": address,
        "MY_MODEL_SERVICE_PORT": "80",
        "MY_MODEL_SERVICE_PORT_HTTP": "80",
        "MY_MODEL_SERVICE_PORT_GRPC": "90",
        "MY_MODEL_PORT": "mine",
        "MY_MODEL_PORT_80_TCP": f"tcp://{address}:80",
        "MY_MODEL_PORT_80_TCP_PROTO": "tcp",
        "MY_MODEL_PORT_80_TCP_PORT": "80",
        "MY_MODEL_PORT_80_TCP_ADDR": address,
        "MY_MODEL_PORT_90_TCP": f"tcp://{address}:90",
        "MY_MODEL_PORT_90_TCP_PROTO": "tcp",
        "MY_MODEL_PORT_90_TCP_PORT": "90",
        "MY_MODEL_PORT_90_TCP_ADDR": address,
    }
    alone = await machine.log("alone")
    assert "MY_MODEL_SERVICE_HOST" not in alone
    assert "KUBERNETES_SERVICE_HOST" in alone


async def test_what_is_missing_is_waited_for(machine: Machine) -> None:
    reference = {"name": "V", "valueFrom": {"configMapKeyRef": {"name": "late", "key": "k"}}}
    volumes = [{"name": "late", "configMap": {"name": "later"}}]
    await machine.pod("env", shell("echo $V", env=[reference]))
    await machine.pod("mount", shell("cat /c/k", volumeMounts=[{"name": "late", "mountPath": "/c"}]), volumes=volumes)

    def refused(pod: Manifest) -> bool:
        waiting = state(pod)["state"].get("waiting", {})
        return bool(waiting.get("reason") == "CreateContainerConfigError" and '"late" not found' in waiting["message"])

    await machine.until(PODS, "env", refused)

    async def said() -> bool:
        return any("later" in event.get("note", event.get("message", "")) for event in await machine.list(EVENTS))

    await eventually(said)
    for name in ("late", "later"):
        await machine.create(CONFIG_MAPS, {"metadata": {"name": name}, "data": {"k": "here"}})
    for name in ("env", "mount"):
        await machine.phase(name, "Succeeded")
        assert "here" in await machine.log(name)


async def test_init_containers_run_in_turn_and_a_sidecar_beside(machine: Machine) -> None:
    mount = {"volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    inits = [
        shell(
            "trap 'echo bye; exit 0' TERM; touch /data/side; while :; do sleep 0.05; done",
            "side",
            restartPolicy="Always",
            **mount,
        ),
        shell("while [ ! -e /data/side ]; do sleep 0.05; done; echo 1 >> /data/order", "first", **mount),
        shell("echo 2 >> /data/order", "second", **mount),
    ]
    await machine.pod(
        "ordered", shell("cat /data/order", **mount), initContainers=inits, volumes=[{"name": "data", "emptyDir": {}}]
    )
    pod = await machine.phase("ordered", "Succeeded")
    assert (await machine.log("ordered")).splitlines()[1:] == ["1", "2"]
    await machine.until(PODS, "ordered", lambda pod: "terminated" in state(pod, 0, "initContainerStatuses")["state"])
    assert "bye" in await machine.log("ordered", container="side")
    assert [each["state"]["terminated"]["exitCode"] for each in pod["status"]["initContainerStatuses"][1:]] == [0, 0]

    await machine.pod("refused", shell("echo never"), initContainers=[shell("exit 4", "first")])
    pod = await machine.phase("refused", "Failed")
    assert state(pod, 0, "initContainerStatuses")["state"]["terminated"]["exitCode"] == 4


async def test_probes_are_asked(machine: Machine, tmp_path: Path) -> None:
    ready, alive = tmp_path / "ready", tmp_path / "alive"
    alive.touch()
    container = server(
        env=variables(READY_FILE=str(ready)),
        startupProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 600},
        readinessProbe={"httpGet": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 1},
        livenessProbe={"exec": {"command": ["test", "-e", str(alive)]}, "periodSeconds": 1, "failureThreshold": 2},
    )
    await machine.pod("probed", container, restartPolicy="Always")
    pod = await machine.until(PODS, "probed", lambda pod: state(pod)["started"])
    assert not is_ready(pod)
    ready.touch()
    await machine.ready("probed")
    ready.unlink()
    await machine.until(PODS, "probed", lambda pod: not is_ready(pod))
    alive.unlink()
    pod = await machine.until(PODS, "probed", lambda pod: state(pod)["restartCount"] >= 1)
    assert state(pod)["lastState"]["terminated"]["exitCode"] == 143


async def test_a_pod_that_is_deleted_while_a_probe_ends_its_container_goes_in_its_own_time(machine: Machine) -> None:
    probe = {
        "exec": {"command": ["false"]},
        "periodSeconds": 1,
        "failureThreshold": 1,
        "terminationGracePeriodSeconds": 600,
    }
    await machine.pod("deaf", shell("trap '' TERM; while :; do sleep 0.05; done", livenessProbe=probe))

    async def killing() -> bool:
        return any(event["reason"] == "Killing" for event in await machine.list(EVENTS))

    await eventually(killing)
    await machine.client.delete(PODS, "deaf", machine.namespace, grace_period=1)
    await machine.gone(PODS, "deaf")


async def test_a_kubelet_that_stops_while_it_waits_for_a_container_to_end_leaves_nothing(machine: Machine) -> None:
    await machine.pod("deaf", shell("trap '' TERM; echo up; while :; do sleep 0.05; done"))

    async def deaf() -> bool:
        return "up" in await machine.log("deaf")

    async def ending() -> bool:
        return any(event["reason"] == "Killing" for event in await machine.list(EVENTS))

    await machine.phase("deaf", "Running")
    await eventually(deaf)
    await machine.client.delete(PODS, "deaf", machine.namespace, grace_period=600)
    await eventually(ending)


async def test_memory_beyond_the_limit_kills(machine: Machine) -> None:
    greedy = "import time\nheld = bytearray(200 << 20)\ntime.sleep(600)"
    container = {"name": "main", "image": "any:1", "command": [sys.executable, "-c", greedy]}
    await machine.pod("greedy", {**container, "resources": {"limits": {"memory": "100Mi"}}})
    terminated = state(await machine.phase("greedy", "Failed"))["state"]["terminated"]
    assert (terminated["exitCode"], terminated["reason"]) == (137, "OOMKilled")


async def test_a_deleted_pod_gets_sigterm_and_time_and_then_sigkill(machine: Machine, tmp_path: Path) -> None:
    said = tmp_path / "said"
    polite = f"trap 'echo bye > {said}; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    await machine.pod("polite", shell(polite))
    deaf = f"trap '' TERM; echo up; while :; do sleep 0.05; done # {tmp_path}/deaf"
    await machine.pod("deaf", shell(deaf), terminationGracePeriodSeconds=1)
    for name in ("polite", "deaf"):

        async def up(name: str = name) -> bool:
            return "up" in await machine.log(name)

        await machine.phase(name, "Running")
        await eventually(up)
        await machine.delete(PODS, name)
        await machine.gone(PODS, name)
    assert said.read_text() == "bye\n"
    assert not processes(f"{tmp_path}/deaf")


async def test_a_hook_runs_before_sigterm(machine: Machine, tmp_path: Path) -> None:
    said = tmp_path / "said"
    script = f"trap 'echo term >> {said}; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    hook = {"preStop": {"exec": {"command": ["sh", "-c", f"echo hook >> {said}"]}}}
    await machine.pod("hooked", shell(script, lifecycle=hook))

    async def up() -> bool:
        return "up" in await machine.log("hooked")

    await machine.phase("hooked", "Running")
    await eventually(up)
    await machine.delete(PODS, "hooked")
    await machine.gone(PODS, "hooked")
    assert said.read_text() == "hook\nterm\n"


async def test_a_hook_runs_after_the_start_and_before_the_probes(machine: Machine, tmp_path: Path) -> None:
    said = tmp_path / "said"
    hook = {"postStart": {"exec": {"command": ["sh", "-c", f"echo hook >> {said}"]}}}
    probe = {"exec": {"command": ["sh", "-c", f"echo probe >> {said}"]}, "periodSeconds": 1}
    await machine.pod("hooked", shell("sleep 600", lifecycle=hook, readinessProbe=probe))
    await machine.ready("hooked")
    assert said.read_text().startswith("hook\nprobe\n")


async def test_a_hook_that_fails_restarts_the_container(machine: Machine, tmp_path: Path) -> None:
    there = tmp_path / "there"
    hook = {"postStart": {"exec": {"command": ["sh", "-c", f"test -e {there} || {{ touch {there}; false; }}"]}}}
    await machine.pod("hooked", shell("sleep 600", lifecycle=hook), restartPolicy="Always")
    assert state(await machine.ready("hooked"))["restartCount"] == 1

    async def told() -> bool:
        return any(event["reason"] == "FailedPostStartHook" for event in await machine.list(EVENTS))

    await eventually(told)


async def test_who_attaches_first_gets_what_is_not_read_in_the_log(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log")
    streams, ends = await Streams.open(stdin=True)
    copying = asyncio.create_task(streams.copy(log, lambda: datetime.now(UTC)))

    async def written(text: bytes) -> None:
        """It has come as far as the log: so has all that was written before."""
        os.write(ends.stdout, text)

        async def there() -> bool:
            return text.splitlines()[0] in b"".join(
                [piece async for piece in log.read(LogOptions("main", tail_lines=1))]
            )

        await eventually(there)

    await written(b"one\n")
    assert [piece async for piece in log.read(LogOptions("main"))] == [b"one\n"]
    await written(b"two\nprompt: ")
    client = streams.attach()
    ends.close()
    assert b"".join([data async for _, data in client.output()]) == b"two\nprompt: "
    await copying
    log.close()


async def test_claims_keep_their_files_from_pod_to_pod(machine: Machine) -> None:
    claim = {
        "metadata": {"name": "kept"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    await machine.create(PERSISTENT_VOLUME_CLAIMS, claim)
    volumes = [{"name": "kept", "persistentVolumeClaim": {"claimName": "kept"}}]
    for name, script in (("writes", "echo here > /kept/file"), ("reads", "cat /kept/file")):
        container = shell(script, volumeMounts=[{"name": "kept", "mountPath": "/kept"}])
        await machine.pod(name, container, volumes=volumes)
        await machine.phase(name, "Succeeded")
        if name == "writes":
            await machine.delete(PODS, name)
            await machine.gone(PODS, name)
    assert (await machine.log("reads")).splitlines()[-1] == "here"


async def test_what_has_left_its_session_and_its_parent_ends_with_the_container(
    machine: Machine, tmp_path: Path
) -> None:
    mark = f"{tmp_path}/stray"
    await machine.pod("forks", shell(f"setsid sh -c 'while :; do sleep 0.1; done # {mark}' & sleep 0.2"))
    await machine.phase("forks", "Succeeded")
    assert not processes(mark)


async def test_a_job_completes_through_its_exit_code(machine: Machine) -> None:
    def job(name: str, script: str) -> Manifest:
        template = {"spec": {"restartPolicy": "Never", "containers": [shell(script)]}}
        return {"metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": template}}

    await machine.create(JOBS, job("works", "exit 0"))
    await machine.create(JOBS, job("fails", "exit 1"))
    await machine.until(JOBS, "works", lambda job: job.get("status", {}).get("succeeded") == 1)
    await machine.until(JOBS, "fails", lambda job: job.get("status", {}).get("failed") == 1)


async def test_a_pod_beyond_its_deadline_fails(machine: Machine, tmp_path: Path) -> None:
    await machine.pod(
        "slow", shell(f"sleep 600 # {tmp_path}"), activeDeadlineSeconds=1, terminationGracePeriodSeconds=0
    )
    pod = await machine.phase("slow", "Failed")
    assert pod["status"]["reason"] == "DeadlineExceeded"
    assert not processes(str(tmp_path))


async def test_unknown_images_play_their_part_beside_and_fates_stay(machine: Machine) -> None:
    await machine.pod("mixed", shell("exit 0"), {"name": "other", "image": "nginx"})
    pod = await machine.phase("mixed", "Succeeded")
    assert [each["state"]["terminated"]["exitCode"] for each in pod["status"]["containerStatuses"]] == [0, 0]
    assert "no process runs" in await machine.log("mixed", container="other")
    body = {
        "metadata": {"name": "fated", "annotations": {"dev.kaito.sh/fail": "image-pull"}},
        "spec": {"containers": [shell("exit 0")]},
    }
    await machine.create(PODS, body)
    await machine.until(PODS, "fated", lambda pod: "ImagePull" in str(pod["status"]))


async def test_a_log_that_grows_begins_anew_and_is_followed_over_that(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", max_bytes=200)
    reading = log.read(LogOptions(follow=True))
    seen = []
    for number in range(20):
        log.write(f"line {number}".encode(), datetime.now(UTC))
        seen.append(await anext(reading))
    assert seen == [f"line {number}\n".encode() for number in range(20)]
    log.close()
    assert [piece async for piece in reading] == []
    assert (tmp_path / "log").stat().st_size < 300
    assert b"".join([piece async for piece in log.read(LogOptions(tail_lines=1))]) == b"line 19\n"


async def test_nothing_is_left_when_the_cluster_stops(tmp_path: Path) -> None:
    async with LocalCluster(ClusterOptions(speed=SPEED, images=HOST_COMMANDS)) as cluster:
        living = Living(cluster.controllers.client, "default")
        script = f"trap '' TERM; while :; do sleep 0.05; done # {tmp_path}"
        await living.create(PODS, {"metadata": {"name": "p"}, "spec": {"containers": [shell(script)]}})
        await living.until(PODS, "p", is_ready)
        assert processes(str(tmp_path))
    assert not processes(str(tmp_path))


def test_nothing_is_left_when_the_cluster_is_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio, sys
from kaito.devcluster.cluster import ClusterOptions, LocalCluster
from kaito.devcluster.kubelet.host import HOST_COMMANDS
from kaito.runtime import PODS

async def main():
    async with LocalCluster(ClusterOptions(speed=50.0, images=HOST_COMMANDS)) as cluster:
        script = "setsid sleep 600 & echo $HOME > {tmp_path}/home; while :; do sleep 0.05; done # {tmp_path}/orphan"
        pod = {{
            "apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "p", "namespace": "default"}},
            "spec": {{"containers": [{{"name": "main", "image": "any", "command": ["sh", "-c", script]}}]}},
        }}
        await cluster.controllers.client.create(PODS, pod)
        await asyncio.sleep(600)

asyncio.run(main())
"""
    (tmp_path / "tmp").mkdir()
    environ = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    process = subprocess.Popen([sys.executable, "-c", program], env=environ)
    try:
        deadline = 600
        while not ((tmp_path / "home").exists() and processes(f"{tmp_path}/orphan")) and deadline:
            assert process.poll() is None
            deadline -= 1
            signal.sigtimedwait([], 0.05)
        assert deadline
    finally:
        process.kill()
        process.wait()
    deadline = 400
    while (processes(f"{tmp_path}/orphan") or list((tmp_path / "tmp").iterdir())) and deadline:
        deadline -= 1
        signal.sigtimedwait([], 0.05)
    assert deadline, processes(f"{tmp_path}/orphan")
