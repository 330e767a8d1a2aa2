"""Asks the webhooks that a write concerns."""

from __future__ import annotations

import asyncio
import base64
import binascii
import uuid
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

import msgspec

from kaito.devcluster.apiserver.schema.cel import CelError
from kaito.devcluster.apiserver.store import decode
from kaito.devcluster.apiserver.verbs.patch import json_patch
from kaito.devcluster.apiserver.webhooks.calling import Caller, CallFailed, Place
from kaito.devcluster.apiserver.webhooks.matching import Webhook, conditions_hold, matched_version, selected
from kaito.runtime import ApiError, BadRequest, InternalError

if TYPE_CHECKING:
    from kaito.devcluster.apiserver.auth.identity import User
    from kaito.devcluster.apiserver.objects.registry import Kind, Registry
    from kaito.devcluster.apiserver.store import Collection, Object
    from kaito.devcluster.apiserver.verbs.writes import Ask, Write, Written

_GROUP = "admissionregistration.k8s.io"
_OPTIONS = {"CREATE": "CreateOptions", "UPDATE": "UpdateOptions", "DELETE": "DeleteOptions"}


@dataclass(slots=True)
class Asking:
    """One request, while webhooks are asked about it."""

    user: User
    dry_run: bool = False
    operation: str = ""
    warnings: list[str] = field(default_factory=list)


@final
class Webhooks:
    def __init__(self, collections: Mapping[str, Collection], registry: Registry) -> None:
        self._configurations = {
            True: collections[f"mutatingwebhookconfigurations.{_GROUP}"],
            False: collections[f"validatingwebhookconfigurations.{_GROUP}"],
        }
        self._namespaces = collections["namespaces"]
        self._services = collections["services"]
        self._endpoints = collections["endpoints"]
        self._registry = registry
        self._caller = Caller(self._place)
        self._known: dict[bool, tuple[int, tuple[Webhook, ...]]] = {}

    async def aclose(self) -> None:
        await self._caller.aclose()

    async def carry_out(self, write: Write, asking: Asking) -> Written:
        """Drive ``write``, asking the webhooks at each of its stops. Raises ApiError."""
        answer: Object | None = None
        while True:
            try:
                ask = write.send(answer) if answer is not None else next(write)
            except StopIteration as stop:
                written: Written = stop.value
                written.warnings.extend(asking.warnings)
                return written
            asking.operation = "CREATE" if ask.old is None else "UPDATE"
            try:
                answer = await self._mutate(ask, asking) if ask.mutating else await self._consent(ask, asking)
            except BaseException:
                write.close()
                raise

    async def allow_delete(self, kind: Kind, old: Object, asking: Asking) -> None:
        """Ask whether ``old`` may be deleted. Raises ApiError."""
        asking.operation = "DELETE"
        for mutating in (True, False):
            webhooks = self._concerned(mutating, kind, "", None, old, asking)
            await asyncio.gather(
                *(self._ask(webhook, kind, version, "", None, old, asking) for webhook, version in webhooks)
            )

    async def _mutate(self, ask: Ask, asking: Asking) -> Object:
        obj = ask.obj
        asked: list[tuple[Webhook, str, Object]] = []
        for webhook, version in self._concerned(True, ask.kind, ask.subresource, obj, ask.old, asking):
            obj = await self._changed(webhook, version, ask, obj, asking)
            asked.append((webhook, version, obj))
        for webhook, version, left in asked:
            # Whoever asks to be asked again, is, once, where the object is not what it left.
            if webhook.spec.get("reinvocationPolicy") == "IfNeeded" and obj != left:
                obj = await self._changed(webhook, version, ask, obj, asking)
        return obj

    async def _changed(self, webhook: Webhook, version: str, ask: Ask, obj: Object, asking: Asking) -> Object:
        response = await self._ask(webhook, ask.kind, version, ask.subresource, obj, ask.old, asking)
        patch = response.get("patch")
        if not patch:
            return obj
        try:
            if response.get("patchType") != "JSONPatch":
                raise BadRequest(f"patchType is {response.get('patchType')!r}, it must be JSONPatch")
            changed = json_patch(obj, msgspec.json.decode(base64.b64decode(patch, validate=True)))
        except (ApiError, binascii.Error, msgspec.DecodeError) as error:
            if webhook.ignores_failure:
                return obj
            raise InternalError(f'admission webhook "{webhook.name}": its patch cannot be applied: {error}') from error
        return changed if changed != obj else obj

    async def _consent(self, ask: Ask, asking: Asking) -> Object:
        webhooks = self._concerned(False, ask.kind, ask.subresource, ask.obj, ask.old, asking)
        if webhooks:
            await asyncio.gather(
                *(
                    self._ask(webhook, ask.kind, version, ask.subresource, ask.obj, ask.old, asking)
                    for webhook, version in webhooks
                )
            )
        return ask.obj

    def _concerned(
        self, mutating: bool, kind: Kind, subresource: str, obj: Object | None, old: Object | None, asking: Asking
    ) -> list[tuple[Webhook, str]]:
        """Webhooks with the versions in which they want to be asked."""
        webhooks = self._webhooks(mutating)
        if not webhooks:
            return []
        info = kind.info
        versions = [
            other.info.version for other in self._registry.of_group(info.group) if other.info.plural == info.plural
        ]
        some = obj or old
        assert some is not None, "a request is about an object"
        labels = self._namespace_labels(kind, some)
        found = []
        for webhook in webhooks:
            version = matched_version(webhook, info, versions, asking.operation, subresource)
            if version is None or not selected(webhook, labels, (obj, old)):
                continue
            request = self._request(kind, version, subresource, obj, old, asking)
            variables = {"object": request["object"], "oldObject": request["oldObject"], "request": request}
            try:
                if conditions_hold(webhook, variables):
                    found.append((webhook, version))
            except CelError as error:
                if not webhook.ignores_failure:
                    raise _failed(webhook, f"matchConditions cannot be evaluated: {error}") from error
        return found

    def _webhooks(self, mutating: bool) -> tuple[Webhook, ...]:
        collection = self._configurations[mutating]
        if not len(collection):
            return ()
        revision, known = self._known.get(mutating, (-1, ()))
        if revision != collection.revision:
            known = tuple(
                Webhook(record.name, mutating, spec)
                for record in sorted(collection, key=lambda record: record.name)
                for spec in decode(record.body).get("webhooks") or ()
            )
            self._known[mutating] = (collection.revision, known)
        return known

    def _namespace_labels(self, kind: Kind, obj: Object) -> Mapping[str, str] | None:
        if kind.info.group_resource == "namespaces":
            return obj["metadata"].get("labels") or {}
        if not kind.info.namespaced:
            return None
        record = self._namespaces.get(obj["metadata"].get("namespace", ""))
        return (decode(record.body)["metadata"].get("labels") or {}) if record is not None else {}

    def _request(
        self, kind: Kind, version: str, subresource: str, obj: Object | None, old: Object | None, asking: Asking
    ) -> dict[str, Any]:
        """The AdmissionRequest, with the objects in ``version``."""
        info, some = kind.info, obj or old or {"metadata": {}}
        metadata = some["metadata"]
        request: dict[str, Any] = {
            "uid": str(uuid.uuid4()),
            "kind": {"group": info.group, "version": version, "kind": info.kind},
            "resource": {"group": info.group, "version": version, "resource": info.plural},
            "requestKind": {"group": info.group, "version": info.version, "kind": info.kind},
            "requestResource": {"group": info.group, "version": info.version, "resource": info.plural},
            "name": metadata.get("name", ""),
            "operation": asking.operation,
            "userInfo": asking.user.info(),
            "object": _in_version(obj, info.group, version),
            "oldObject": _in_version(old, info.group, version),
            "dryRun": asking.dry_run,
            "options": {"kind": _OPTIONS[asking.operation], "apiVersion": "meta.k8s.io/v1"},
        }
        if info.namespaced:
            request["namespace"] = metadata.get("namespace", "")
        if subresource:
            request |= {"subResource": subresource, "requestSubResource": subresource}
        return request

    async def _ask(
        self,
        webhook: Webhook,
        kind: Kind,
        version: str,
        subresource: str,
        obj: Object | None,
        old: Object | None,
        asking: Asking,
    ) -> Mapping[str, Any]:
        """The webhook's consent. Raises the denial; with ``failurePolicy: Ignore`` no answer is consent."""
        if asking.dry_run and not webhook.takes_dry_runs:
            raise BadRequest(f"admission webhook {webhook.name!r} does not support dry run")
        request = self._request(kind, version, subresource, obj, old, asking)
        try:
            response = await self._caller.review(webhook, request)
        except CallFailed as error:
            if webhook.ignores_failure:
                return {}
            raise _failed(webhook, str(error)) from error
        asking.warnings += (str(warning) for warning in response.get("warnings") or ())
        if not response.get("allowed"):
            raise _denial(webhook, response.get("status") or {})
        return response

    def _place(self, config: Mapping[str, Any]) -> Place:
        if config.get("url"):
            return Place(str(config["url"]))
        service = config.get("service") or {}
        namespace, name = service.get("namespace", ""), service.get("name", "")
        port, path = service.get("port") or 443, service.get("path") or "/"
        host = f"{name}.{namespace}.svc"
        record = self._services.get(f"{namespace}/{name}")
        if record is None:
            raise CallFailed(f'service "{name}" not found')
        spec = decode(record.body).get("spec") or {}
        if spec.get("type") == "ExternalName":
            return Place(f"https://{spec.get('externalName')}:{port}{path}", host)
        address = self._address(namespace, name, spec, port)
        if address is None:
            raise CallFailed(f'no endpoints available for service "{name}"')
        return Place(f"https://{address}{path}", host)

    def _address(self, namespace: str, name: str, spec: Mapping[str, Any], port: int) -> str | None:
        """``host:port`` of a ready endpoint of the Service."""
        record = self._endpoints.get(f"{namespace}/{name}")
        wanted = next((entry for entry in spec.get("ports") or () if entry.get("port") == port), None)
        if record is None or wanted is None:
            return None
        for subset in decode(record.body).get("subsets") or ():
            for entry in subset.get("ports") or ():
                if entry.get("name", "") == wanted.get("name", ""):
                    for address in subset.get("addresses") or ():
                        ip = address["ip"]
                        return f"{f'[{ip}]' if ':' in ip else ip}:{entry['port']}"
        return None


def _in_version(obj: Object | None, group: str, version: str) -> Object | None:
    if obj is None:
        return None
    return {**deepcopy(obj), "apiVersion": f"{group}/{version}" if group else version}


def _failed(webhook: Webhook, why: str) -> InternalError:
    return InternalError(
        f'Internal error occurred: failed calling webhook "{webhook.name}": failed to call webhook: {why}',
        details={"causes": [{"message": f'failed calling webhook "{webhook.name}": failed to call webhook: {why}'}]},
    )


def _denial(webhook: Webhook, status: Mapping[str, Any]) -> ApiError:
    """The webhook's words, in the form of an error of the API server."""
    said = status.get("message") or status.get("reason") or "without explanation"
    message = f'admission webhook "{webhook.name}" denied the request: {said}'
    code = status.get("code")
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": message,
        "reason": status.get("reason") or ("Forbidden" if not code else ""),
        "code": code if isinstance(code, int) and code >= 400 else 403,
    }
    if status.get("details"):
        body["details"] = status["details"]
    return ApiError.from_status(body)
