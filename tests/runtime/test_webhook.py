"""The webhook server over HTTPS, with reviews as an API server sends them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import jsonpatch
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaito.runtime import (
    CONFIG_MAPS,
    AdmissionRequest,
    AdmissionResponse,
    ConfigError,
    Controller,
    Forbidden,
    Invalid,
    Manager,
    ManagerOptions,
    Manifest,
    Resource,
    RuntimeMetrics,
    WebhookServer,
    defaulting,
    manifest_resource,
    validating,
)
from kaito.runtime.serving.selfsigned import EphemeralCertificates
from kaito.runtime.serving.webhook import server as server_module
from kaito.runtime.serving.webhook.patch import json_patch, same
from support.controlplane import ControlPlane
from support.waiting import eventually

UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
WIDGETS = manifest_resource("example.com", "v1", "Widget", "widgets")


def widget(**spec: Any) -> Manifest:
    return {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "w", "namespace": "default"},
        "spec": spec,
    }


def admission_review(
    operation: str, new: Manifest | None = None, old: Manifest | None = None, *, version: str = "v1", **more: Any
) -> Manifest:
    """As kube-apiserver 1.32 writes it."""
    return {
        "kind": "AdmissionReview",
        "apiVersion": f"admission.k8s.io/{version}",
        "request": {
            "uid": UID,
            "kind": {"group": "example.com", "version": "v1", "kind": "Widget"},
            "resource": {"group": "example.com", "version": "v1", "resource": "widgets"},
            "requestKind": {"group": "example.com", "version": "v1", "kind": "Widget"},
            "requestResource": {"group": "example.com", "version": "v1", "resource": "widgets"},
            "name": "w",
            "namespace": "default",
            "operation": operation,
            "userInfo": {"username": "kubernetes-admin", "groups": ["system:masters"], "extra": {"a": ["b"]}},
            "object": new,
            "oldObject": old,
            "dryRun": False,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
            **more,
        },
    }


class Endpoint:
    """A running server and a client that trusts it."""

    def __init__(self, server: WebhookServer, session: aiohttp.ClientSession, metrics: RuntimeMetrics) -> None:
        self.server = server
        self.session = session
        self.metrics = metrics

    def url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.server.port}{path}"

    async def ask(self, path: str, body: Any) -> Manifest:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(
            self.url(path), data=io.BytesIO(data), headers={"Content-Type": "application/json"}
        ) as answer:
            assert answer.status == 200
            assert answer.content_type == "application/json"
            review: Manifest = await answer.json()
        return review

    async def admit(self, path: str, body: Any) -> Manifest:
        review = await self.ask(path, body)
        assert review["kind"] == "AdmissionReview"
        response: Manifest = review["response"]
        return response

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


def trusting_anyone() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@asynccontextmanager
async def serving(setup: Callable[[WebhookServer], None]) -> AsyncIterator[Endpoint]:
    metrics = RuntimeMetrics()
    server = WebhookServer(EphemeralCertificates(), metrics, "127.0.0.1:0")
    setup(server)
    await server.start()
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting_anyone())) as session:
            yield Endpoint(server, session, metrics)
    finally:
        await server.stop()


class Sizes:
    """Widgets may not be larger than 10, may not shrink, and may not be deleted while they are in use."""

    async def validate_create(self, new: Manifest, request: AdmissionRequest) -> Iterable[str] | None:
        size = new["spec"]["size"]
        if size > 10:
            raise Invalid("Widget w is invalid", details={"causes": [{"field": "spec.size", "message": "too large"}]})
        return ["that is rather large"] if size > 5 else None

    async def validate_update(self, old: Manifest, new: Manifest, request: AdmissionRequest) -> Iterable[str] | None:
        if new["spec"]["size"] < old["spec"]["size"]:
            raise Forbidden(f"{request.user_info.username} may not shrink a widget")
        return None

    async def validate_delete(self, old: Manifest, request: AdmissionRequest) -> Iterable[str] | None:
        if old["spec"].get("used"):
            raise Forbidden("the widget is in use")
        return None


class Never:
    async def validate_create(self, new: Manifest, request: AdmissionRequest) -> Iterable[str] | None:
        raise Forbidden("no widgets at all")

    validate_update: Any = None
    validate_delete: Any = None


def sizes(server: WebhookServer) -> None:
    server.add_admission("/validate", validating(WIDGETS, Sizes()))


async def test_a_valid_object_is_allowed_with_the_warnings_of_its_validator() -> None:
    async with serving(sizes) as endpoint:
        assert await endpoint.admit("/validate", admission_review("CREATE", widget(size=1))) == {
            "uid": UID,
            "allowed": True,
        }
        warned = await endpoint.admit("/validate", admission_review("CREATE", widget(size=6)))
        assert warned == {"uid": UID, "allowed": True, "warnings": ["that is rather large"]}


async def test_an_api_error_reaches_the_user_as_the_status_it_is() -> None:
    async with serving(sizes) as endpoint:
        response = await endpoint.admit("/validate", admission_review("CREATE", widget(size=11)))
        assert (response["uid"], response["allowed"]) == (UID, False)
        status = response["status"]
        assert (status["code"], status["reason"], status["message"]) == (422, "Invalid", "Widget w is invalid")
        assert status["details"]["causes"][0]["field"] == "spec.size"
        response = await endpoint.admit("/validate", admission_review("UPDATE", widget(size=1), widget(size=2)))
        assert response["status"]["message"] == "kubernetes-admin may not shrink a widget"
        assert response["status"]["code"] == 403
        assert endpoint.value("controller_runtime_webhook_panics_total") == 0


async def test_a_deletion_is_judged_by_the_stored_object() -> None:
    async with serving(sizes) as endpoint:
        response = await endpoint.admit("/validate", admission_review("DELETE", None, widget(size=1, used=True)))
        assert response["status"]["message"] == "the widget is in use"
        response = await endpoint.admit("/validate", admission_review("DELETE", None, widget(size=1)))
        assert response["allowed"]
        response = await endpoint.admit("/validate", admission_review("CONNECT"))
        assert response["allowed"]


async def test_of_several_validators_the_first_denial_decides_and_warnings_are_kept() -> None:
    def setup(server: WebhookServer) -> None:
        server.add_admission("/validate", validating(WIDGETS, Sizes(), Never()))

    async with serving(setup) as endpoint:
        response = await endpoint.admit("/validate", admission_review("CREATE", widget(size=6)))
        assert response["status"]["message"] == "no widgets at all"
        assert response["warnings"] == ["that is rather large"]
        response = await endpoint.admit("/validate", admission_review("CREATE", widget(size=20)))
        assert response["status"]["reason"] == "Invalid"


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
async def test_the_answer_has_the_version_and_uid_of_the_question(version: str) -> None:
    async with serving(sizes) as endpoint:
        review = await endpoint.ask("/validate", admission_review("CREATE", widget(size=1), version=version))
        assert review["apiVersion"] == f"admission.k8s.io/{version}"
        assert review["response"]["uid"] == UID


async def test_a_bug_is_contained_and_answered_with_the_uid() -> None:
    """Pitfall 85."""

    async def broken(request: AdmissionRequest) -> AdmissionResponse:
        raise KeyError("oops")

    async def unencodable(request: AdmissionRequest) -> AdmissionResponse:
        return AdmissionResponse(True, patch=({"op": "add", "path": "/x", "value": object()},))

    def setup(server: WebhookServer) -> None:
        server.add_admission("/broken", broken)
        server.add_admission("/unencodable", unencodable)
        sizes(server)

    async with serving(setup) as endpoint:
        for path in ("/broken", "/unencodable"):
            response = await endpoint.admit(path, admission_review("CREATE", widget(size=1)))
            assert (response["uid"], response["allowed"], response["status"]["code"]) == (UID, False, 500)
        # A validator that trips over the object is the same case.
        response = await endpoint.admit("/validate", admission_review("CREATE", widget()))
        assert (response["uid"], response["status"]["code"]) == (UID, 500)
        assert "KeyError" in response["status"]["message"]
        assert endpoint.value("controller_runtime_webhook_panics_total") == 3
        assert (await endpoint.admit("/validate", admission_review("CREATE", widget(size=1))))["allowed"]


@pytest.mark.parametrize(
    ("body", "code", "uid"),
    [
        (b"", 400, ""),
        (b"{", 400, ""),
        (b"[]", 400, ""),
        (json.dumps({"kind": "Pod", "apiVersion": "v1"}).encode(), 400, ""),
        (json.dumps(admission_review("CREATE") | {"apiVersion": "admission.k8s.io/v9"}).encode(), 400, UID),
        (json.dumps(admission_review("SCRUB", widget(size=1))).encode(), 400, UID),
        (json.dumps(admission_review("CREATE")).encode(), 400, UID),
        (json.dumps(admission_review("UPDATE", widget(size=1))).encode(), 400, UID),
        (
            json.dumps(
                admission_review("CREATE", widget(size=1), kind={"group": "", "version": "v1", "kind": "Pod"})
            ).encode(),
            400,
            UID,
        ),
    ],
)
async def test_what_is_not_a_review_is_refused_with_what_is_known_of_its_uid(body: bytes, code: int, uid: str) -> None:
    async with serving(sizes) as endpoint:
        response = await endpoint.admit("/validate", body)
        assert (response["allowed"], response["status"]["code"], response["uid"]) == (False, code, uid)
        assert endpoint.value("controller_runtime_webhook_panics_total") == 0


async def test_only_json_is_read() -> None:
    async with serving(sizes) as endpoint:
        for content_type in ("application/yaml", "text/plain"):
            async with endpoint.session.post(
                endpoint.url("/validate"), data=b"{}", headers={"Content-Type": content_type}
            ) as answer:
                review = await answer.json()
        assert review["response"]["status"]["code"] == 400
        async with endpoint.session.post(endpoint.url("/other"), data=b"{}") as answer:
            assert answer.status == 404
        async with endpoint.session.get(endpoint.url("/validate")) as answer:
            assert answer.status == 405


async def test_a_body_without_end_is_cut_off_at_seven_megabytes() -> None:
    before = asyncio.all_tasks()
    async with serving(sizes) as endpoint:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            with contextlib.suppress(ConnectionError):
                while sent < 64 << 20:
                    yield b" " * (1 << 18)
                    sent += 1 << 18

        async with endpoint.session.post(
            endpoint.url("/validate"), data=endless(), headers={"Content-Type": "application/json"}
        ) as answer:
            review = await answer.json()
        assert review["response"]["status"]["code"] == 413
        fits = admission_review("CREATE", widget(size=1, blob="x" * (6 << 20)))
        assert (await endpoint.admit("/validate", fits))["allowed"]
    # The connection is read on for a while after the refusal, so that the client gets to see it.
    await eventually(lambda: not asyncio.all_tasks() - before)


async def test_a_client_that_leaves_before_the_answer_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """Pitfall 83."""
    asked, proceed = asyncio.Event(), asyncio.Event()

    async def slow(request: AdmissionRequest) -> AdmissionResponse:
        asked.set()
        await proceed.wait()
        return AdmissionResponse(True, warnings=("w" * (4 << 20),))

    def setup(server: WebhookServer) -> None:
        server.add_admission("/slow", slow)
        sizes(server)

    async with serving(setup) as endpoint:
        body = json.dumps(admission_review("CREATE", widget(size=1))).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", endpoint.server.port, ssl=trusting_anyone())
        head = (
            f"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        await asked.wait()
        writer.transport.abort()
        proceed.set()
        assert (await endpoint.admit("/validate", admission_review("CREATE", widget(size=1))))["allowed"]
        assert endpoint.value("controller_runtime_webhook_panics_total") == 0
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) <= 1


class Defaults:
    """Fills in a size and a first part."""

    def __init__(self) -> None:
        self.calls = 0

    async def default(self, obj: Manifest, request: AdmissionRequest) -> Manifest:
        self.calls += 1
        obj["spec"].setdefault("size", 3)
        return obj


class Labels:
    async def default(self, obj: Manifest, request: AdmissionRequest) -> Manifest:
        obj["metadata"].setdefault("labels", {})["example.com/size~"] = str(obj["spec"]["size"])
        return obj


def patched(obj: Manifest, response: Manifest) -> Manifest:
    assert response["patchType"] == "JSONPatch"
    result: Manifest = jsonpatch.apply_patch(obj, json.loads(base64.b64decode(response["patch"])))
    return result


async def test_defaulters_are_chained_and_answered_with_one_patch() -> None:
    def setup(server: WebhookServer) -> None:
        server.add_admission("/default", defaulting(WIDGETS, Defaults(), Labels()))

    async with serving(setup) as endpoint:
        obj = widget(colour="red")
        response = await endpoint.admit("/default", admission_review("CREATE", obj))
        result = patched(obj, response)
        assert result["spec"] == {"colour": "red", "size": 3}
        assert result["metadata"]["labels"] == {"example.com/size~": "3"}
        assert await endpoint.admit("/default", admission_review("UPDATE", result, obj)) == {
            "uid": UID,
            "allowed": True,
        }


class Part(msgspec.Struct, omit_defaults=True):
    name: str
    size: int = 0


class Spec(msgspec.Struct, omit_defaults=True):
    size: int = 0
    parts: list[Part] = []
    old_name: str = ""


class Widget(msgspec.Struct, rename="camel", omit_defaults=True):
    api_version: str
    kind: str
    metadata: dict[str, Any]
    spec: Spec


TYPED: Resource[Widget] = Resource(
    "example.com", "v1", "Widget", "widgets", True, msgspec.json.Decoder(Widget).decode, msgspec.json.encode
)


class TypedDefaults:
    async def default(self, obj: Widget, request: AdmissionRequest) -> Widget:
        obj.spec.size = obj.spec.size or len(obj.spec.parts)
        obj.spec.old_name = ""
        for part in obj.spec.parts:
            part.size = part.size or 7
        return obj


async def test_fields_that_the_type_does_not_know_survive_defaulting() -> None:
    """Pitfall 82."""

    def setup(server: WebhookServer) -> None:
        server.add_admission("/default", defaulting(TYPED, TypedDefaults()))

    async with serving(setup) as endpoint:
        obj = widget(future={"x": 1}, parts=[{"name": "a", "new": True}, {"name": "b", "size": 1}], old_name="gone")
        response = await endpoint.admit("/default", admission_review("CREATE", obj))
        assert patched(obj, response)["spec"] == {
            "future": {"x": 1},
            "parts": [{"name": "a", "new": True, "size": 7}, {"name": "b", "size": 1}],
            "size": 2,
        }


async def test_deletions_are_not_defaulted() -> None:
    """Pitfall 82."""
    defaults = Defaults()

    def setup(server: WebhookServer) -> None:
        server.add_admission("/default", defaulting(WIDGETS, defaults))

    async with serving(setup) as endpoint:
        response = await endpoint.admit("/default", admission_review("DELETE", None, widget()))
        assert response == {"uid": UID, "allowed": True}
        assert defaults.calls == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("a/~é", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~", max_size=2), inner, max_size=3),
    max_leaves=12,
)


@given(
    original=st.dictionaries(st.text("ab/~", max_size=2), JSON),
    desired=st.dictionaries(st.text("ab/~", max_size=2), JSON),
)
def test_a_patch_between_any_two_documents_is_exact(original: Any, desired: Any) -> None:
    patch = json_patch(original, original, desired)
    assert same(jsonpatch.apply_patch(original, patch), desired)
    assert not json_patch(original, original, original)


def test_elements_that_moved_keep_what_the_type_does_not_know() -> None:
    original = [{"n": 1, "u": "one"}, {"n": 2, "u": "two"}]
    known = [{"n": 1}, {"n": 2}]
    desired = [{"n": 0}, {"n": 1}, {"n": 2}]
    patch = json_patch({"l": original}, {"l": known}, {"l": desired})
    assert patch == [{"op": "replace", "path": "/l", "value": [{"n": 0}, *original]}]
    swapped = json_patch({"l": original}, {"l": known}, {"l": [{"n": 2}, {"n": 1}]})
    assert swapped == [{"op": "replace", "path": "/l", "value": [original[1], original[0]]}]


async def test_metrics_have_controller_runtimes_names_and_start_at_zero() -> None:
    async with serving(sizes) as endpoint:
        for code in ("200", "500"):
            assert endpoint.value("controller_runtime_webhook_requests_total", webhook="/validate", code=code) == 0
        await endpoint.admit("/validate", admission_review("CREATE", widget(size=11)))
        assert endpoint.value("controller_runtime_webhook_requests_total", webhook="/validate", code="200") == 1
        assert endpoint.value("controller_runtime_webhook_requests_in_flight", webhook="/validate") == 0
        assert endpoint.value("controller_runtime_webhook_latency_seconds_count", webhook="/validate") == 1
        assert (
            endpoint.value("controller_runtime_webhook_latency_seconds_bucket", webhook="/validate", le="1000.0") == 1
        )
        assert endpoint.value("controller_runtime_conversion_webhook_panics_total") == 0


async def test_a_path_can_be_taken_once() -> None:
    server = WebhookServer(EphemeralCertificates(), RuntimeMetrics())
    sizes(server)
    with pytest.raises(ConfigError, match="already a webhook at /validate"):
        sizes(server)
    with pytest.raises(ConfigError, match="slash"):
        server.add_admission("validate", validating(WIDGETS))


async def test_the_check_does_a_handshake(caplog: pytest.LogCaptureFixture) -> None:
    """Pitfall 86."""
    server = WebhookServer(EphemeralCertificates(), RuntimeMetrics(), "127.0.0.1:0")
    with pytest.raises(ConfigError, match="not started"):
        await server.check()
    await server.start()
    with caplog.at_level(logging.DEBUG):
        await server.check()
    await server.stop()
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the system
        await server.check()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_server_that_never_answers_a_handshake_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pitfall 86."""
    monkeypatch.setattr(server_module, "DIAL_TIMEOUT", 0.05)

    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        ended.set()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    server = WebhookServer(EphemeralCertificates(), RuntimeMetrics(), "127.0.0.1:0")
    server.port = listener.sockets[0].getsockname()[1]
    with pytest.raises(TimeoutError):
        await server.check()
    await ended.wait()
    listener.close()
    await listener.wait_closed()


def to_version(obj: Manifest, wanted: str) -> Manifest:
    if obj["spec"].get("unconvertible"):
        raise Invalid("cannot be said in that version")
    if obj["spec"].get("bug"):
        raise KeyError("oops")
    metadata = {**obj["metadata"], "name": obj["spec"].get("rename", obj["metadata"]["name"])}
    return {**obj, "apiVersion": wanted, "metadata": metadata}


def conversion_review(*objects: Manifest) -> Manifest:
    return {
        "kind": "ConversionReview",
        "apiVersion": "apiextensions.k8s.io/v1",
        "request": {"uid": UID, "desiredAPIVersion": "example.com/v2", "objects": list(objects)},
    }


async def test_conversion_keeps_order_and_says_success() -> None:
    """Pitfall 84."""
    async with serving(lambda server: server.add_conversion("/convert", to_version)) as endpoint:
        objects = [widget(size=1), widget(size=2) | {"apiVersion": "example.com/v2"}, widget(size=3)]
        review = await endpoint.ask("/convert", conversion_review(*objects))
        assert (review["apiVersion"], review["kind"]) == ("apiextensions.k8s.io/v1", "ConversionReview")
        response = review["response"]
        assert response["result"] == {"status": "Success"}
        assert response["uid"] == UID
        assert [obj["spec"]["size"] for obj in response["convertedObjects"]] == [1, 2, 3]
        assert {obj["apiVersion"] for obj in response["convertedObjects"]} == {"example.com/v2"}


@pytest.mark.parametrize(
    ("spec", "words", "panics"),
    [
        ({"unconvertible": True}, "cannot be said", 0),
        ({"bug": True}, "KeyError", 1),
        ({"rename": "x"}, "another identity", 0),
    ],
)
async def test_a_failed_conversion_says_failure_with_the_uid(spec: Manifest, words: str, panics: int) -> None:
    """Pitfalls 84 and 85."""
    async with serving(lambda server: server.add_conversion("/convert", to_version)) as endpoint:
        response = (await endpoint.ask("/convert", conversion_review(widget(size=1), widget(**spec))))["response"]
        assert (response["uid"], response["result"]["status"]) == (UID, "Failure")
        assert words in response["result"]["message"]
        assert endpoint.value("controller_runtime_conversion_webhook_panics_total") == panics
        response = (await endpoint.ask("/convert", b"{}"))["response"]
        assert (response["result"]["status"], response["result"]["code"]) == ("Failure", 400)


async def test_webhooks_are_served_before_caches_sync_and_until_after_they_stopped(control_plane: ControlPlane) -> None:
    """Pitfall 73."""
    missing = manifest_resource("example.com", "v1", "Never", "nevers")
    options = ManagerOptions(metrics_address="0", health_address="127.0.0.1:0", sync_timeout=60.0, grace_period=1.0)
    manager = Manager(control_plane.config, options)

    class Idle:
        async def reconcile(self, request: Any) -> None:
            return None

    manager.add(Controller("waits", Idle(), missing))
    server = WebhookServer(EphemeralCertificates(), manager.runtime_metrics, "127.0.0.1:0")
    sizes(server)
    manager.add_server("webhook", server)
    with pytest.raises(ConfigError, match="already"):
        manager.add_server("webhook", server)
    task = asyncio.create_task(manager.run())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting_anyone())) as session:
        await eventually(lambda: server.port)
        endpoint = Endpoint(server, session, manager.runtime_metrics)
        assert (await endpoint.admit("/validate", admission_review("CREATE", widget(size=1))))["allowed"]
        assert not manager.elected.is_set()
        async with session.get(f"http://127.0.0.1:{manager.health_port}/readyz/webhook") as answer:
            assert answer.status == 200
    with pytest.raises(ConfigError, match="too late"):
        manager.add_server("late", server)
    manager.stop()
    await task


async def test_a_server_that_cannot_start_stops_the_manager(control_plane: ControlPlane) -> None:
    manager = Manager(control_plane.config, ManagerOptions(metrics_address="0", health_address="0"))
    manager.add_server("webhook", WebhookServer(EphemeralCertificates(), manager.runtime_metrics, "256.0.0.1:1"))
    manager.cache.informer(CONFIG_MAPS)
    with pytest.raises((ConfigError, OSError)):
        await manager.run()
