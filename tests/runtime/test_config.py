"""Finding the API server and proving who we are, from a pod's files or a kubeconfig."""

from __future__ import annotations

import base64
import ssl
import stat
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from kaito.runtime import ConfigError, Material, RestConfig, TlsConfig, Unauthorized, in_cluster_config, load_config
from kaito.runtime.transport.credentials import ExecPlugin, TokenFile


class ManualClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


Write = Callable[..., Path]


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Write:
    def write(
        name: str = "config", *, user: dict[str, Any] | None = None, cluster: dict[str, Any] | None = None, **top: Any
    ) -> Path:
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "main",
            "contexts": [{"name": "main", "context": {"cluster": "c", "user": "u", "namespace": "ns"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://example.test:6443/", **(cluster or {})}}],
            "users": [{"name": "u", "user": user or {}}],
        }
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(body | top))
        return path

    return write


async def test_the_current_context_is_used(kubeconfig: Write) -> None:
    config = load_config(str(kubeconfig(user={"token": "secret\n"})))
    assert (config.server, config.namespace) == ("https://example.test:6443", "ns")
    assert await config.credentials.authorization() == "Bearer secret"


async def test_a_token_file_goes_before_an_inline_token_and_is_trimmed(kubeconfig: Write, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    config = load_config(str(kubeconfig(user={"token": "inline", "tokenFile": "token"})))
    assert await config.credentials.authorization() == "Bearer from-file"


async def test_a_context_without_a_user_is_anonymous(kubeconfig: Write) -> None:
    path = kubeconfig(contexts=[{"name": "main", "context": {"cluster": "c"}}], users=None)
    assert await load_config(str(path)).credentials.authorization() is None


def test_of_several_files_the_first_to_name_something_wins(kubeconfig: Write) -> None:
    first = kubeconfig("first", cluster={"server": "https://first.test"})
    second = kubeconfig("second", cluster={"server": "https://second.test"}, **{"current-context": "other"})
    assert load_config(f"{first}:{second}").server == "https://first.test"


def test_paths_are_relative_to_the_file_that_names_them(kubeconfig: Write, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "ca.pem").write_bytes(b"pem")
    config = load_config(str(kubeconfig("deep/config", cluster={"certificate-authority": "ca.pem"})))
    assert config.tls.authority.read() == b"pem"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"current-context": "missing"}, "no context 'missing'; it has: main"),
        ({"current-context": ""}, "no current-context"),
        ({"contexts": [{"name": "main", "context": {"cluster": "nope"}}]}, "no cluster 'nope'"),
        ({"contexts": [{"name": "main", "context": {"cluster": "c", "user": "nope"}}]}, "no user 'nope'"),
        ({"users": [{"name": "u", "user": {"auth-provider": {"name": "oidc"}}}]}, "use an exec plugin"),
        ({"users": [{"name": "u", "user": {"client-certificate-data": "%%%"}}]}, "is not base64"),
    ],
)
def test_what_cannot_work_is_said(kubeconfig: Write, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config(str(kubeconfig(**change)))


def test_a_missing_file_is_said() -> None:
    with pytest.raises(ConfigError, match="no kubeconfig at /nonexistent/config"):
        load_config("/nonexistent/config")


def test_secrets_are_not_printed(kubeconfig: Write) -> None:
    key = base64.b64encode(b"key material").decode()
    config = load_config(str(kubeconfig(user={"token": "hunter2", "client-key-data": key})))
    assert "hunter2" not in repr(config)
    assert "key material" not in repr(config)


@pytest.fixture
def pod(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text("first\n")
    (tmp_path / "ca.crt").write_text("")
    (tmp_path / "namespace").write_text("kaito-system\n")
    return tmp_path


async def test_in_a_pod_the_service_account_is_used(pod: Path) -> None:
    environ = {
        "KUBERNETES_SERVICE_HOST": "fd00::1",
        "KUBERNETES_SERVICE_PORT": "6443",
        "KUBERNETES_SERVICE_ACCOUNT_DIR": str(pod),
    }
    config = load_config(environ=environ)
    assert (config.server, config.namespace) == ("https://[fd00::1]:6443", "kaito-system")
    assert await config.credentials.authorization() == "Bearer first"


def test_in_a_pod_without_a_token_the_missing_file_is_named(pod: Path) -> None:
    (pod / "token").unlink()
    with pytest.raises(ConfigError, match=r"token is missing"):
        in_cluster_config({"KUBERNETES_SERVICE_HOST": "h"}, pod)


async def test_a_rotated_token_is_used_after_a_minute_and_after_a_refusal_at_once(pod: Path) -> None:
    clock = ManualClock()
    token = TokenFile(pod / "token", clock=clock)
    assert await token.authorization() == "Bearer first"
    (pod / "token").write_text("second")
    clock.seconds = 59.0
    assert await token.authorization() == "Bearer first"
    clock.seconds = 60.0
    assert await token.authorization() == "Bearer second"
    (pod / "token").write_text("third")
    assert token.rejected("Bearer second")
    assert await token.authorization() == "Bearer third"


async def test_a_token_file_that_vanishes_keeps_the_last_token(pod: Path) -> None:
    clock = ManualClock()
    token = TokenFile(pod / "token", clock=clock)
    await token.authorization()
    (pod / "token").unlink()
    clock.seconds = 120.0
    assert await token.authorization() == "Bearer first"
    with pytest.raises(ConfigError, match="cannot read the token"):
        await TokenFile(pod / "token").authorization()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"two\nlines", "gödel".encode()])
async def test_a_token_file_that_holds_something_else_is_as_good_as_unreadable(tmp_path: Path, content: bytes) -> None:
    clock, path = ManualClock(), tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="binary"):
        await TokenFile(path).authorization()
    path.write_text("first\n")
    token = TokenFile(path, clock=clock)
    await token.authorization()
    path.write_bytes(content)
    clock.seconds = 120.0
    assert await token.authorization() == "Bearer first"


def script(path: Path, body: str) -> str:
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def plugin(command: str, clock: ManualClock | None = None) -> ExecPlugin:
    return ExecPlugin([command], api_version="client.authentication.k8s.io/v1", clock=clock)


COUNTING = """
import json, os, pathlib, sys
assert json.loads(os.environ["KUBERNETES_EXEC_INFO"])["kind"] == "ExecCredential"
sys.stderr.write("x" * 200_000)
runs = pathlib.Path(__file__).with_suffix(".runs")
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
print(json.dumps({"status": {"token": "t%d" % len(runs.read_text()), "expirationTimestamp": "2026-01-01T00:05:00Z"}}))
"""


async def test_a_plugin_runs_once_until_its_token_expires_or_is_refused_however_much_it_says(tmp_path: Path) -> None:
    clock = ManualClock()
    credentials = plugin(script(tmp_path / "plugin", COUNTING), clock)
    assert await credentials.authorization() == "Bearer t1"
    clock.seconds = 280.0
    assert await credentials.authorization() == "Bearer t1"
    clock.seconds = 295.0
    assert await credentials.authorization() == "Bearer t2"
    clock.seconds = 0.0
    assert credentials.rejected("Bearer t2")
    assert await credentials.authorization() == "Bearer t3"


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ("import sys; sys.exit('not logged in')", Unauthorized, "not logged in"),
        ("print('hello')", Unauthorized, "printed no ExecCredential"),
        ('print(\'{"status": {"clientCertificateData": "x"}}\')', ConfigError, "without its key"),
        ("print('{\"status\": {}}')", ConfigError, "neither a token nor a client certificate"),
    ],
)
async def test_a_plugin_that_fails_is_quoted(tmp_path: Path, body: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        await plugin(script(tmp_path / "plugin", body)).authorization()
    with pytest.raises(ConfigError, match="cannot run the credential plugin"):
        await plugin(str(tmp_path / "missing")).authorization()


async def test_a_plugin_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kaito.runtime.transport.credentials.PLUGIN_TIMEOUT", 0.5)
    with pytest.raises(Unauthorized, match="did not end within"):
        await plugin(script(tmp_path / "plugin", "import time; time.sleep(3600)")).authorization()


def impersonating(tmp_path: Path, **user: Any) -> Path:
    """A kubeconfig whose user has these fields."""
    path = tmp_path / "config"
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "HTTPS://Example.org:6443/"}}],
                "users": [{"name": "u", "user": {"token": "t", **user}}],
            }
        )
    )
    return path


def test_a_kubeconfig_acts_in_the_name_that_it_says(tmp_path: Path) -> None:
    extra = {"Scopes/a b": ["read", "write"]}
    path = impersonating(tmp_path, **{"as": "alice", "as-uid": "7", "as-groups": ["a", "b"], "as-user-extra": extra})
    impersonate = load_config(path).impersonate
    assert impersonate is not None
    assert impersonate.headers() == [
        ("Impersonate-User", "alice"),
        ("Impersonate-Uid", "7"),
        ("Impersonate-Group", "a"),
        ("Impersonate-Group", "b"),
        ("Impersonate-Extra-scopes%2Fa%20b", "read"),
        ("Impersonate-Extra-scopes%2Fa%20b", "write"),
    ]
    assert load_config(impersonating(tmp_path)).impersonate is None
    with pytest.raises(ConfigError, match="without as"):
        load_config(impersonating(tmp_path, **{"as-groups": ["a"]}))


def test_a_servers_scheme_is_written_in_any_case_and_has_to_be_one(tmp_path: Path) -> None:
    assert load_config(impersonating(tmp_path)).server == "https://Example.org:6443"
    for server in ("example.org:6443", "ftp://example.org", "https://", ""):
        with pytest.raises(ConfigError, match="is not a URL"):
            RestConfig(server=server)


def test_certificates_that_do_not_load_are_said_and_insecure_is_possible() -> None:
    with pytest.raises(ConfigError, match="do not load"):
        TlsConfig(authority=Material(data=b"not pem")).context()
    with pytest.raises(ConfigError, match="cannot read"):
        TlsConfig(authority=Material(file=Path("/nonexistent/ca.pem"))).context()
    assert TlsConfig(insecure=True).context().verify_mode is ssl.CERT_NONE
