"""What simulated nodes report, which addresses they give out, and what logs say."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from typing import Any

import pytest

from kaito.devcluster.kubelet.addresses import Addresses
from kaito.devcluster.kubelet.logs import render
from kaito.devcluster.kubelet.nodes import internal_ip, is_reported, node_status, system_node
from kaito.runtime import BadRequest

NOW = datetime(2024, 11, 16, 12, tzinfo=UTC)


def test_a_node_reports_once_and_again_when_contradicted() -> None:
    node = system_node()
    assert not is_reported(node)
    node["status"] |= node_status(node, "10.224.0.4", NOW)
    assert is_reported(node)
    assert internal_ip(node) == "10.224.0.4"
    assert node["status"]["nodeInfo"]["kubeletVersion"] == "v1.32.0+kaito-sim"
    ready = next(item for item in node["status"]["conditions"] if item["type"] == "Ready")
    later = node_status(node, "10.224.0.5", NOW + timedelta(minutes=5))
    again = next(item for item in later["conditions"] if item["type"] == "Ready")
    assert again["lastTransitionTime"] == ready["lastTransitionTime"]
    assert again["lastHeartbeatTime"] != ready["lastHeartbeatTime"]
    assert internal_ip({"status": later}) == "10.224.0.4"
    ready["status"] = "False"
    assert not is_reported(node)


def test_addresses_come_in_turn_and_never_twice() -> None:
    used = {"10.0.0.5"}
    addresses = Addresses(IPv4Network("10.0.0.0/29"), used.__contains__)
    taken = []
    for _ in range(2):
        taken.append(addresses.take())
        used.add(taken[-1])
    assert taken == ["10.0.0.4", "10.0.0.6"]
    with pytest.raises(RuntimeError, match="in use"):
        addresses.take()
    used.remove("10.0.0.5")
    assert addresses.take() == "10.0.0.5"


@dataclass
class Options:
    container: str = "main"
    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    since_seconds: int | None = None
    since_time: datetime | None = None
    tail_lines: int | None = None
    limit_bytes: int | None = None


def pod(state: dict[str, Any], last: dict[str, Any] | None = None) -> dict[str, Any]:
    status = {"name": "main", "image": "img:1", "ready": True, "state": state, "lastState": last or {}}
    return {
        "metadata": {"name": "p", "namespace": "default", "uid": "u"},
        "spec": {"nodeName": "n"},
        "status": {"containerStatuses": [status]},
    }


def test_logs_tell_the_truth() -> None:
    running = pod({"running": {"startedAt": "2024-11-16T12:00:00Z"}})
    text = render(running, Options()).decode()
    assert "simulated container main of pod default/p on n" in text
    assert "no process runs" in text
    assert render(running, Options(tail_lines=1)).decode().count("\n") == 1
    assert render(running, Options(tail_lines=0)) == b""
    assert render(running, Options(timestamps=True)).startswith(b"2024-11-16T12:00:00Z simulated")
    assert len(render(running, Options(limit_bytes=7))) == 7


def test_containers_that_have_not_run_have_no_log() -> None:
    with pytest.raises(BadRequest, match='container "main" in pod "p" is waiting to start: ContainerCreating'):
        render(pod({"waiting": {"reason": "ContainerCreating"}}), Options())
    with pytest.raises(BadRequest, match="previous terminated container"):
        render(pod({"running": {}}), Options(previous=True))
    crashed = {"terminated": {"exitCode": 1, "reason": "Error", "startedAt": "a", "finishedAt": "b"}}
    for options in (Options(previous=True), Options()):
        assert b"exit code 1: Error" in render(pod({"waiting": {"reason": "CrashLoopBackOff"}}, crashed), options)
