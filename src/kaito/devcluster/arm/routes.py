"""What the emulator answers to each request of Azure's REST interface."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from kaito.devcluster.arm.errors import ArmError, bad_request, in_progress, pool_not_found, precondition_failed
from kaito.devcluster.arm.pools import Pool, requested_properties
from kaito.devcluster.arm.vm_sizes import VM_SIZES, VmSize

if TYPE_CHECKING:
    from collections.abc import Callable

    from kaito.devcluster.arm.operations import Operation, Operations

_CLUSTER = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/resourceGroups/(?P<group>[^/]+)/providers/Microsoft\.ContainerService"
    r"/managedClusters/(?P<cluster>[^/]+)(?P<rest>/agentPools(?:/(?P<pool>[^/]+))?|/(?P<power>stop|start))?/?",
    re.IGNORECASE,
)
_OPERATIONS = re.compile(
    r"/subscriptions/(?P<subscription>[^/]+)/providers/Microsoft\.ContainerService/locations/[^/]+"
    r"/(?P<kind>operations|operationresults)/(?P<id>[^/]+)",
    re.IGNORECASE,
)
_SIZES = re.compile(r"/subscriptions/(?P<subscription>[^/]+)/providers/Microsoft\.Compute/skus", re.IGNORECASE)
_STATE_OPERATIONS = {"Creating": "create", "Updating": "update", "Deleting": "delete"}


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By name, whatever its case."""
    body: Any = None

    @property
    def kind(self) -> str:
        """GET, LIST, PUT or DELETE of a pool; CLUSTER, OPERATION, SKUS; the HTTP method of anything else."""
        cluster = _CLUSTER.fullmatch(self.path)
        if cluster is None:
            if self.method == "GET" and _SIZES.fullmatch(self.path):
                return "SKUS"
            return "OPERATION" if self.method == "GET" and _OPERATIONS.fullmatch(self.path) else self.method
        if self.method == "GET" and not cluster["rest"]:
            return "CLUSTER"
        return "LIST" if self.method == "GET" and not cluster["pool"] else self.method

    @property
    def pool(self) -> str:
        found = _CLUSTER.fullmatch(self.path)
        return (found["pool"] or "") if found else ""


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Routes:
    def __init__(self, operations: Operations, url: Callable[[], str], *, page_size: int, exclusive: bool) -> None:
        self._operations = operations
        self._cluster = operations.cluster
        self._site = operations.cluster.site
        self._url = url
        self._page_size = page_size
        self._exclusive = exclusive

    def answer(self, call: Call) -> Reply:
        """Carry the request out. Raises ArmError."""
        if not call.query.get("api-version"):
            raise ArmError(
                400,
                "MissingApiVersionParameter",
                "The api-version query parameter (?api-version=) is required for all requests.",
            )
        if (cluster := _CLUSTER.fullmatch(call.path)) is not None:
            self._locate(cluster)
            return self._of_cluster(cluster, call)
        if call.method == "GET" and (operation := _OPERATIONS.fullmatch(call.path)) is not None:
            return self._operation(operation, call)
        if call.method == "GET" and (sizes := _SIZES.fullmatch(call.path)) is not None:
            self._check_subscription(sizes["subscription"])
            return Reply(200, {"value": [_sku(size, self._site.location) for size in VM_SIZES.values()]})
        raise _nothing_at(call.path)

    def _check_subscription(self, subscription: str) -> None:
        if subscription.lower() != self._site.subscription.lower():
            raise ArmError(404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found.")

    def _locate(self, found: re.Match[str]) -> None:
        self._check_subscription(found["subscription"])
        if found["group"].lower() != self._site.resource_group.lower():
            raise ArmError(404, "ResourceGroupNotFound", f"Resource group '{found['group']}' could not be found.")
        if found["cluster"].lower() != self._site.cluster.lower():
            raise ArmError(
                404,
                "ResourceNotFound",
                f"The Resource 'Microsoft.ContainerService/managedClusters/{found['cluster']}' under resource group "
                f"'{found['group']}' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix",
            )

    def _of_cluster(self, found: re.Match[str], call: Call) -> Reply:
        name: str = found["pool"] or ""
        match call.method, bool(name):
            case "GET", False:
                return Reply(200, self._cluster.resource()) if not found["rest"] else self._list(call)
            case "POST", False if found["power"]:
                return self._set_power(found["power"].lower())
            case "GET", True:
                return Reply(200, self._pool(name).resource())
            case "PUT", True:
                return self._put(name, call)
            case "DELETE", True:
                return self._delete(name, call)
        raise ArmError(405, "HttpMethodNotAllowed", f"The {call.method} method is not supported here.")

    def _pool(self, name: str) -> Pool:
        pool = self._operations.pools.get(name.lower())
        if pool is None:
            raise pool_not_found(name)
        return pool

    def _list(self, call: Call) -> Reply:
        pools = self._operations.pools
        token = call.query.get("$skiptoken", "")
        names = [name for name in sorted(pools) if name > token]
        page = names[: self._page_size]
        reply: dict[str, Any] = {"value": [pools[name].resource() for name in page]}
        if len(names) > len(page):
            query = urlencode({"api-version": call.query["api-version"], "$skiptoken": page[-1]})
            reply["nextLink"] = f"{self._url()}{call.path}?{query}"
        return Reply(200, reply)

    def _put(self, name: str, call: Call) -> Reply:
        properties = requested_properties(self._site, name, call.body)
        pool = self._operations.pools.get(name)
        _check_conditions(call, name, pool)
        self._check_idle(pool)
        if pool is None:
            created = Pool(self._site, name, properties)
            operation = self._operations.create(created)
            return Reply(201, created.resource(), self._polling(operation))
        if pool.properties["vmSize"] != properties["vmSize"]:
            raise bad_request(
                "PropertyChangeNotAllowed", "Changing property 'properties.vmSize' is not allowed on an agent pool."
            )
        operation = self._operations.update(pool, properties)
        return Reply(200, pool.resource(), self._polling(operation))

    def _delete(self, name: str, call: Call) -> Reply:
        pool = self._operations.pools.get(name.lower())
        if pool is None:
            return Reply(204)
        _check_conditions(call, name, pool)
        self._check_idle(pool)
        operation = self._operations.delete(pool)
        return Reply(202, None, {**self._polling(operation), "Location": self._link("operationresults", operation)})

    def _set_power(self, action: str) -> Reply:
        if not self._cluster.settled:
            self._cluster.check_running()
        for pool in self._operations.pools.values():
            if (operation := _STATE_OPERATIONS.get(pool.state)) is not None:
                raise in_progress(operation, pool.name)
        started = self._operations.set_power("Running" if action == "start" else "Stopped")
        return Reply(202, None, {**self._polling(started), "Location": self._link("operationresults", started)})

    def _check_idle(self, pool: Pool | None) -> None:
        """Raises ArmError where something else is going on."""
        if pool is not None and (operation := _STATE_OPERATIONS.get(pool.state)) is not None:
            raise in_progress(operation, pool.name)
        self._cluster.check_running()
        if not self._exclusive:
            return
        for other in self._operations.pools.values():
            if other.state in _STATE_OPERATIONS:
                raise ArmError(
                    409,
                    "OperationNotAllowed",
                    f"Operation is not allowed: Another agentpool operation ({other.name} - {other.state}) is in progress, "
                    "please wait for it to finish before starting a new operation. See "
                    "https://aka.ms/aks-pending-operation for more details",
                    flat=True,
                )

    def _polling(self, operation: Operation) -> dict[str, str]:
        return {"Azure-AsyncOperation": self._link("operations", operation), **operation.headers()}

    def _link(self, kind: str, operation: Operation) -> str:
        return (
            f"{self._url()}/subscriptions/{self._site.subscription}/providers/Microsoft.ContainerService/locations/"
            f"{self._site.location}/{kind}/{operation.id}?api-version=2017-08-31"
        )

    def _operation(self, found: re.Match[str], call: Call) -> Reply:
        operation = self._operations.find(found["id"])
        if operation is None:
            raise _nothing_at(call.path)
        operation.asked()
        if found["kind"].lower() == "operations":
            return Reply(200, operation.resource(), operation.headers())
        if operation.status == "InProgress":
            return Reply(202, None, {"Location": self._link("operationresults", operation), **operation.headers()})
        if operation.error is not None:
            raise operation.error
        return Reply(200, operation.pool.resource()) if operation.pool and operation.kind != "delete" else Reply(204)


def _nothing_at(path: str) -> ArmError:
    return ArmError(404, "ResourceNotFound", f"There is nothing at {path}.")


def _sku(size: VmSize, location: str) -> dict[str, Any]:
    offers = {"vCPUs": size.cpu, "MemoryGB": size.memory_gib} | ({"GPUs": size.gpus} if size.gpus else {})
    return {
        "resourceType": "virtualMachines",
        "name": size.name,
        "locations": [location],
        "locationInfo": [{"location": location, "zones": ["1", "2", "3"]}],
        "capabilities": [{"name": name, "value": str(value)} for name, value in offers.items()],
        "restrictions": [],
    }


def _check_conditions(call: Call, name: str, pool: Pool | None) -> None:
    wanted, unwanted = call.headers.get("If-Match"), call.headers.get("If-None-Match")
    if wanted is not None and (pool is None or wanted.strip('"') not in ("*", pool.etag)):
        raise precondition_failed(name)
    if unwanted is not None and pool is not None and unwanted.strip('"') in ("*", pool.etag):
        raise precondition_failed(name)
