"""What is written about the machine controller is true of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client import CollectorRegistry

from kaito.api import labels
from kaito.controllers.machine import claims, settings
from kaito.controllers.machine.metrics import ClaimMetrics
from kaito.controllers.machine.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "provisioner.md").read_text()


def test_every_setting_is_on_the_page_with_its_default() -> None:
    read = set(re.findall(r"\"(KAITO_[A-Z_]+|FEATURE_GATES)\"", Path(settings.__file__).read_text()))
    assert {name for name in read if f"`{name}`" not in PAGE} == set()
    default = Settings()
    for name, value in (
        ("KAITO_POLL_INTERVAL_SECONDS", default.poll_interval),
        ("KAITO_REGISTRATION_TIMEOUT_SECONDS", default.registration_ttl),
        ("KAITO_DRAIN_TIMEOUT_SECONDS", default.drain_timeout),
        ("KAITO_NODE_GRACE_SECONDS", default.node_grace),
        ("KAITO_REPAIR_SHARE", default.repair_share),
        ("KAITO_GARBAGE_INTERVAL_SECONDS", default.garbage_interval),
    ):
        assert re.search(rf"`{name}` \| {value:g} \|", PAGE), name


def test_every_condition_and_annotation_is_on_the_page() -> None:
    conditions = (
        claims.LAUNCHED,
        claims.REGISTERED,
        claims.INITIALIZED,
        claims.NODE_READY,
        claims.DRAINED,
        claims.TERMINATING,
        claims.DRIFTED,
        claims.READY,
    )
    asked = (
        labels.NODE_IMAGE_FAMILY,
        labels.OS_DISK_TYPE,
        labels.SPOT_EVICTION_POLICY,
        labels.SPOT_MAX_PRICE,
        labels.MAX_PODS,
        labels.TAGS,
        labels.TERMINATION_TIMESTAMP,
        labels.HEARTBEAT,
    )
    assert [name for name in (*conditions, *asked) if name not in PAGE] == []


def test_every_metric_is_on_the_page() -> None:
    registry = CollectorRegistry()
    ClaimMetrics(registry)
    written = set()
    for text in re.findall(r"`(karpenter_[^`]*)`", PAGE):
        name = re.sub(r"\{[a-z_,]*\}$", "", text)
        choices = re.search(r"\{(.*?)\}", name)
        written |= {name.replace(choices[0], each) for each in choices[1].split(",")} if choices else {name}
    reported = {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}
    assert written == reported


def test_every_permission_is_explained() -> None:
    role = json.loads((ROOT / "config" / "azure" / "role.json").read_text())
    for action in role["Actions"]:
        assert f"`{action.removeprefix('Microsoft.ContainerService/')}`" in PAGE
