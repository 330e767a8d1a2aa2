"""Subresources that are more than another view of their object: scale, binding, eviction, token, finalize, log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from kaito.devcluster.apiserver.auth.identity import DEFAULT_TOKEN_SECONDS, Authenticator
from kaito.devcluster.apiserver.objects import meta
from kaito.devcluster.apiserver.objects.fields import value_at
from kaito.devcluster.apiserver.schema import Cause
from kaito.devcluster.apiserver.store import Object, Record
from kaito.devcluster.apiserver.verbs.applies import Applier
from kaito.devcluster.apiserver.verbs.deletes import DeleteOptions, Deleter
from kaito.devcluster.apiserver.verbs.reads import find
from kaito.devcluster.apiserver.verbs.writes import Writer, Written, apply_patch, at_once
from kaito.runtime import BadRequest, LabelSelector, NotImplementedByServer, TooManyRequests, parse_time

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.objects.registry import Kind, Registry
    from kaito.devcluster.apiserver.wire.requests import Query

SCALE = ("autoscaling/v1", "Scale")
MIN_TOKEN_SECONDS = 600
UNSUPPORTED = {
    "proxy": "the proxy subresource of nodes",
    "ephemeralcontainers": "pods/ephemeralcontainers",
}


@dataclass(frozen=True, slots=True)
class LogOptions:
    """``core/v1 PodLogOptions``. ``since_seconds`` and ``tail_lines`` None for everything."""

    container: str = ""
    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    since_seconds: int | None = None
    tail_lines: int | None = None
    limit_bytes: int | None = None
    since_time: datetime | None = None

    @staticmethod
    def parse(query: Query, pod: Object) -> LogOptions:
        """Raises BadRequest as ``container_of``."""
        return LogOptions(
            container_of(query, pod),
            query.flag("follow"),
            query.flag("previous"),
            query.flag("timestamps"),
            query.integer("sinceSeconds"),
            query.integer("tailLines"),
            query.integer("limitBytes"),
            _moment(query.text("sinceTime")),
        )


def container_of(query: Query, pod: Object) -> str:
    """The container that a query asks for. Raises BadRequest where it is unknown, or not named though there are several."""
    containers = [
        container["name"]
        for name in ("containers", "initContainers", "ephemeralContainers")
        for container in pod["spec"].get(name) or ()
    ]
    container, name = query.text("container"), pod["metadata"]["name"]
    if container and container not in containers:
        raise BadRequest(f"container {container} is not valid for pod {name}")
    if container:
        return container
    main = [item["name"] for item in pod["spec"].get("containers") or ()]
    if len(main) > 1:
        raise BadRequest(f"a container name must be specified for pod {name}, choose one of: [{' '.join(main)}]")
    return str(main[0])


def _moment(text: str) -> datetime | None:
    """Raises BadRequest for what is not RFC 3339."""
    try:
        return parse_time(text) if text else None
    except ValueError as error:
        raise BadRequest(f"sinceTime: {text!r} is not a time: {error}") from None


LogProvider = Callable[[Object, LogOptions], AsyncGenerator[bytes, None]]
"""Gives the bytes of a container's log. The call itself, not the iteration, raises ApiError when there is none."""


class Subresources:
    def __init__(
        self, registry: Registry, writer: Writer, applier: Applier, deleter: Deleter, authenticator: Authenticator
    ) -> None:
        self._registry = registry
        self._writer = writer
        self._applier = applier
        self._deleter = deleter
        self._authenticator = authenticator

    def scale(self, kind: Kind, record: Record) -> Object:
        return _scale_of(kind, kind.read(record))

    def update_scale(self, kind: Kind, record: Record, body: Any, query: Query) -> Object:
        return self._rescale(kind, record, meta.check_gvk(body, *SCALE), query)

    def patch_scale(self, kind: Kind, record: Record, body: Any, content_type: str, query: Query) -> Object:
        scale = meta.check_gvk(apply_patch(kind, self.scale(kind, record), body, content_type), *SCALE)
        return self._rescale(kind, record, scale, query)

    def _rescale(self, kind: Kind, record: Record, scale: Object, query: Query) -> Object:
        obj = kind.read(record)
        _set_replicas(kind, obj, (scale.get("spec") or {}).get("replicas", 0), record.name)
        version = scale["metadata"].get("resourceVersion")
        if version:
            obj["metadata"]["resourceVersion"] = version
        return _scale_of(kind, self._writer.update(kind, record, obj, subresource="scale", query=query).obj)

    def apply_scale(self, kind: Kind, record: Record, body: Any, query: Query) -> Object:
        """Server-side apply of a Scale: of the number of replicas, if it says one."""
        assert kind.scale is not None
        scale = meta.check_gvk(body, *SCALE)
        config: Object = {"apiVersion": kind.info.api_version, "kind": kind.info.kind, "metadata": scale["metadata"]}
        if "replicas" in (scale.get("spec") or {}):
            _set_replicas(kind, config, scale["spec"]["replicas"], record.name)
        write = self._applier.applying(kind, record, config, subresource="scale", query=query)
        return _scale_of(kind, at_once(write).obj)

    def bind(self, namespace: str, body: Any, query: Query, *, name: str = "") -> None:
        """Assign a pod to a node. Raises Conflict when it has one."""
        binding = meta.check_gvk(body, "v1", "Binding")
        pods = self._registry.builtin("pods")
        record = find(pods, namespace, name or binding["metadata"].get("name", ""))
        target = binding.get("target") or {}
        if target.get("kind", "Node") not in ("", "Node") or not target.get("name"):
            raise meta.invalid(pods.info, record.name, [Cause.required("target.name")])
        old, pod = pods.read(record), pods.read(record)
        metadata = binding["metadata"]
        for mark, wanted in (("uid", metadata.get("uid")), ("resourceVersion", metadata.get("resourceVersion"))):
            if wanted and wanted != old["metadata"][mark]:
                raise meta.conflict(pods.info, record.name, meta.STALE)
        if "deletionTimestamp" in pod["metadata"]:
            raise meta.conflict(
                pods.info, record.name, f"pod {record.name} is being deleted, cannot be assigned to a host"
            )
        if pod["spec"].get("nodeName"):
            held = pod["spec"]["nodeName"]
            raise meta.conflict(pods.info, record.name, f'pod {record.name} is already assigned to node "{held}"')
        pod["spec"]["nodeName"] = target["name"]
        pod["metadata"]["annotations"] = {
            **(pod["metadata"].get("annotations") or {}),
            **(metadata.get("annotations") or {}),
        }
        if not pod["metadata"]["annotations"]:
            del pod["metadata"]["annotations"]
        conditions = [c for c in pod["status"].get("conditions") or () if c.get("type") != "PodScheduled"]
        scheduled = {"type": "PodScheduled", "status": "True", "lastProbeTime": None}
        scheduled["lastTransitionTime"] = meta.timestamp(self._writer.clock())
        pod["status"]["conditions"] = [*conditions, scheduled]
        self._writer.store(pods, record, pod, old, query=query)

    def evict(self, record: Record, body: Any, query: Query) -> None:
        """Delete a pod unless a disruption budget forbids it. Raises TooManyRequests."""
        eviction = meta.check_gvk(body, "policy/v1", "Eviction")
        pods = self._registry.builtin("pods")
        if eviction["metadata"].get("name", record.name) != record.name:
            raise BadRequest("name in URL does not match name in Eviction object")
        if pods.read(record).get("status", {}).get("phase") not in ("Succeeded", "Failed"):
            self._check_budgets(record)
        self._deleter.delete(pods, record, DeleteOptions.parse(eviction.get("deleteOptions") or {}, query))

    def _check_budgets(self, record: Record) -> None:
        budgets = self._registry.builtin("poddisruptionbudgets.policy")
        for held in budgets.collection.within(record.namespace):
            budget = budgets.read(held)
            selector = LabelSelector.from_object((budget.get("spec") or {}).get("selector"))
            if selector is None or not selector.matches(record.labels):
                continue
            status, name = budget.get("status") or {}, held.name
            if (status.get("observedGeneration") or 0) < budget["metadata"].get("generation", 0):
                message = f"The disruption budget {name} is still being processed by the server."
            elif (status.get("disruptionsAllowed") or 0) <= 0:
                message = (
                    f"The disruption budget {name} needs {status.get('desiredHealthy', 0)} healthy pods and has "
                    f"{status.get('currentHealthy', 0)} currently"
                )
            else:
                continue
            raise TooManyRequests(
                "Cannot evict pod as it would violate the pod's disruption budget.",
                details={"causes": [{"reason": "DisruptionBudget", "message": message}]},
                retry_after=10,
            )

    def token(self, record: Record, body: Any) -> Object:
        """A TokenRequest with its token."""
        request = meta.check_gvk(body, "authentication.k8s.io/v1", "TokenRequest")
        spec = request.get("spec") or {}
        seconds = spec.get("expirationSeconds")
        seconds = DEFAULT_TOKEN_SECONDS if seconds is None else seconds
        accounts = self._registry.builtin("serviceaccounts")
        if not isinstance(seconds, int) or seconds < MIN_TOKEN_SECONDS:
            why = "may not specify a duration less than 10 minutes"
            raise meta.invalid(accounts.info, record.name, [Cause.invalid("spec.expirationSeconds", seconds, why)])
        uid = accounts.read(record)["metadata"]["uid"]
        token, expires = self._authenticator.issue(
            record.namespace, record.name, uid, tuple(spec.get("audiences") or ()), seconds
        )
        request["metadata"] |= {"name": record.name, "namespace": record.namespace}
        request["spec"] = {**spec, "expirationSeconds": seconds}
        return request | {"status": {"token": token, "expirationTimestamp": meta.timestamp(expires)}}

    def finalize(self, kind: Kind, record: Record, body: Any, query: Query) -> Written:
        """Set the finalizers in a Namespace's spec; the last one gone completes its deletion."""
        wanted = meta.check_type(body, kind)
        old, obj = kind.read(record), kind.read(record)
        version = wanted["metadata"].get("resourceVersion")
        if version and version != old["metadata"]["resourceVersion"]:
            raise meta.conflict(kind.info, record.name, meta.STALE)
        obj["spec"] = {"finalizers": list((wanted.get("spec") or {}).get("finalizers") or ())}
        return self._writer.store(kind, record, obj, old, query=query)


def not_supported(kind: Kind, subresource: str) -> NotImplementedByServer:
    return NotImplementedByServer(
        f"{UNSUPPORTED[subresource]} is not implemented by this API server",
        details=meta.details(kind.info, ""),
    )


def _set_replicas(kind: Kind, obj: Object, replicas: Any, name: str) -> None:
    """Raises BadRequest, Invalid."""
    assert kind.scale is not None
    if not isinstance(replicas, int) or isinstance(replicas, bool):
        raise BadRequest(
            'Scale in version "v1" cannot be handled as a Scale: json: cannot unmarshal into Go struct field '
            "ScaleSpec.spec.replicas of type int32"
        )
    if replicas < 0:
        cause = Cause.invalid("spec.replicas", replicas, "must be greater than or equal to 0")
        raise meta.invalid(kind.info, name, [cause])
    steps = kind.scale.spec_replicas.split(".")
    parent = obj
    for step in steps[:-1]:
        parent = parent.setdefault(step, {})
    parent[steps[-1]] = replicas


def _scale_of(kind: Kind, obj: Object) -> Object:
    assert kind.scale is not None
    metadata = obj["metadata"]
    status: dict[str, Any] = {"replicas": value_at(obj, kind.scale.status_replicas) or 0}
    if kind.custom:
        selector = value_at(obj, kind.scale.selector) if kind.scale.selector else None
    elif kind.info.kind == "ReplicationController":
        selector = str(LabelSelector.of(obj["spec"].get("selector") or {}))
    else:
        selector = str(LabelSelector.from_object(obj["spec"].get("selector")) or "")
    if selector:
        status["selector"] = selector
    names = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in names if name in metadata},
        "spec": {"replicas": value_at(obj, kind.scale.spec_replicas) or 0},
        "status": status,
    }
