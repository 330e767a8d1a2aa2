"""Defaults and validation of the pod spec, shared by pods and the templates of workloads."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.schema import Cause
from kaito.devcluster.apiserver.schema.names import validate_labels, validate_name
from kaito.devcluster.apiserver.strategies.base import set_default

if TYPE_CHECKING:
    from collections.abc import Iterator

Spec = dict[str, Any]

_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))([numkMGTPE]|[KMGTPE]i|[eE][+-]?\d+)?\Z")
_SCALE = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_VOLUME_MODE = 0o644
_STANDARD_RESOURCES = ("cpu", "memory", "ephemeral-storage")


def quantity(text: Any) -> Decimal | None:
    """The number a Kubernetes quantity stands for, None where it is not one."""
    match = _QUANTITY.match(str(text))
    if match is None:
        return None
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix in _BINARY:
        return number * Decimal(2 ** _BINARY[suffix])
    exponent = int(suffix[1:]) if suffix[:1] in ("e", "E") and len(suffix) > 1 else _SCALE.get(suffix, 0)
    return number.scaleb(exponent)


def containers(spec: Spec) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each container with its field path below the spec."""
    for name in ("containers", "initContainers", "ephemeralContainers"):
        for index, container in enumerate(spec.get(name) or ()):
            if isinstance(container, dict):
                yield f"{name}[{index}]", container


def default_pod_spec(spec: Spec) -> None:
    set_default(
        spec,
        restartPolicy="Always",
        terminationGracePeriodSeconds=30,
        dnsPolicy="ClusterFirst",
        securityContext={},
        schedulerName="default-scheduler",
    )
    account = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if account:
        spec["serviceAccountName"] = spec["serviceAccount"] = account
    for _, container in containers(spec):
        _default_container(container, host_network=bool(spec.get("hostNetwork")))
    for volume in spec.get("volumes") or ():
        _default_volume(volume)


def _default_container(container: dict[str, Any], *, host_network: bool) -> None:
    set_default(
        container,
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
        imagePullPolicy=pull_policy(container.get("image") or ""),
    )
    for port in container.get("ports") or ():
        set_default(port, protocol="TCP")
        if host_network and "containerPort" in port:
            set_default(port, hostPort=port["containerPort"])
    for variable in container.get("env") or ():
        field = (variable.get("valueFrom") or {}).get("fieldRef")
        if field is not None:
            set_default(field, apiVersion="v1")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if probe is not None:
            set_default(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
            _default_handler(probe)
    for hook in (container.get("lifecycle") or {}).values():
        if isinstance(hook, dict):
            _default_handler(hook)


def _default_handler(handler: dict[str, Any]) -> None:
    if handler.get("httpGet") is not None:
        set_default(handler["httpGet"], path="/", scheme="HTTP")
    if handler.get("grpc") is not None:
        set_default(handler["grpc"], service="")


def pull_policy(image: str) -> str:
    """Always for images without a tag or digest and for ``latest``."""
    name, at, _ = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    return "IfNotPresent" if at or tag not in ("", "latest") else "Always"


def _default_volume(volume: dict[str, Any]) -> None:
    if not any(value is not None for name, value in volume.items() if name != "name"):
        volume["emptyDir"] = {}
    for source in ("secret", "configMap", "downwardAPI", "projected"):
        if volume.get(source) is not None:
            set_default(volume[source], defaultMode=_VOLUME_MODE)
    for source in (volume.get("projected") or {}).get("sources") or ():
        if source.get("serviceAccountToken") is not None:
            set_default(source["serviceAccountToken"], expirationSeconds=3600)
    if volume.get("hostPath") is not None:
        set_default(volume["hostPath"], type="")
    downward = [volume.get("downwardAPI") or {}]
    downward += [source.get("downwardAPI") or {} for source in (volume.get("projected") or {}).get("sources") or ()]
    for item in (item for api in downward for item in api.get("items") or ()):
        if item.get("fieldRef") is not None:
            set_default(item["fieldRef"], apiVersion="v1")


def default_requests(spec: Spec) -> None:
    """A pod's requests default to its limits; templates are left as they are."""
    for _, container in containers(spec):
        resources = container["resources"]
        limits = resources.get("limits")
        if limits:
            resources["requests"] = {**limits, **(resources.get("requests") or {})}


def qos_class(spec: Spec) -> str:
    """Guaranteed, Burstable or BestEffort, by cpu and memory alone."""
    relevant = [c.get("resources") or {} for path, c in containers(spec) if not path.startswith("ephemeral")]
    totals = [
        {
            name: value
            for name, value in (resources.get(side) or {}).items()
            if name in ("cpu", "memory") and quantity(value)
        }
        for resources in relevant
        for side in ("requests", "limits")
    ]
    if not any(totals):
        return "BestEffort"
    requests, limits = totals[::2], totals[1::2]
    guaranteed = all(
        set(limit) == {"cpu", "memory"}
        and all(quantity(request.get(name, limit[name])) == quantity(limit[name]) for name in limit)
        for request, limit in zip(requests, limits, strict=True)
    )
    return "Guaranteed" if guaranteed else "Burstable"


def validate_pod_spec(spec: Spec, field: str) -> list[Cause]:
    causes: list[Cause] = []
    if not spec.get("containers"):
        causes.append(Cause.required(f"{field}.containers"))
    volumes = [volume.get("name") for volume in spec.get("volumes") or ()]
    causes += [
        Cause.duplicate(f"{field}.volumes[{index}].name", name)
        for index, name in enumerate(volumes)
        if name in volumes[:index]
    ]
    names: set[str] = set()
    for path, container in containers(spec):
        where = f"{field}.{path}"
        name = container.get("name") or ""
        if not name:
            causes.append(Cause.required(f"{where}.name"))
        elif wrong := validate_name(name, "label"):
            causes.append(Cause.invalid(f"{where}.name", name, wrong))
        elif name in names:
            causes.append(Cause.duplicate(f"{where}.name", name))
        names.add(name)
        if not container.get("image"):
            causes.append(Cause.required(f"{where}.image"))
        causes += _validate_resources(container.get("resources") or {}, f"{where}.resources")
        if container.get("imagePullPolicy") not in ("Always", "IfNotPresent", "Never"):
            supported = ("Always", "IfNotPresent", "Never")
            causes.append(Cause.not_supported(f"{where}.imagePullPolicy", container.get("imagePullPolicy"), supported))
        causes += [
            Cause(f"{where}.volumeMounts[{index}].name", "FieldValueNotFound", f'Not found: "{mount.get("name")}"')
            for index, mount in enumerate(container.get("volumeMounts") or ())
            if mount.get("name") not in volumes
        ]
    if spec.get("restartPolicy") not in ("Always", "OnFailure", "Never"):
        causes.append(
            Cause.not_supported(f"{field}.restartPolicy", spec.get("restartPolicy"), ("Always", "OnFailure", "Never"))
        )
    return causes + validate_labels(spec.get("nodeSelector") or {}, f"{field}.nodeSelector")


def _validate_resources(resources: dict[str, Any], field: str) -> Iterator[Cause]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for side, values in (("limits", limits), ("requests", requests)):
        for name, value in values.items():
            number = quantity(value)
            if number is None:
                yield Cause.invalid(
                    f"{field}.{side}[{name}]",
                    value,
                    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                )
            elif number < 0:
                yield Cause.invalid(f"{field}.{side}[{name}]", value, "must be greater than or equal to 0")
    for name, value in requests.items():
        extended = name not in _STANDARD_RESOURCES and not name.startswith("hugepages-")
        request, limit = quantity(value), quantity(limits.get(name, ""))
        if request is None:
            continue
        if limit is None:
            if extended:
                yield Cause.required(f"{field}.limits", "Limit must be set for non overcommitable resources")
        elif extended and request != limit:
            yield Cause.invalid(f"{field}.requests", str(value), f"must be equal to {name} limit of {limits[name]}")
        elif request > limit:
            yield Cause.invalid(
                f"{field}.requests", str(value), f"must be less than or equal to {name} limit of {limits[name]}"
            )
