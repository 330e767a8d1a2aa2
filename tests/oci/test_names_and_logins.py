"""Names of images, and the logins of Docker's configuration files."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from kaito.oci import CredentialsError, Keychain, Reference, ReferenceError

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "registry", "repository", "version"),
    [
        ("phi-3", "docker.io", "library/phi-3", "latest"),
        ("team/phi-3:v1", "docker.io", "team/phi-3", "v1"),
        ("docker.io/team/phi-3", "docker.io", "team/phi-3", "latest"),
        ("registry.example.com/a/b/c:0.1", "registry.example.com", "a/b/c", "0.1"),
        ("localhost/adapter", "localhost", "adapter", "latest"),
        ("localhost:5000/adapter:x", "localhost:5000", "adapter", "x"),
        ("[::1]:5000/adapter", "[::1]:5000", "adapter", "latest"),
        (f"r.io/a@{DIGEST}", "r.io", "a", DIGEST),
        (f"r.io/a:tag@{DIGEST}", "r.io", "a", DIGEST),
    ],
)
def test_names_are_read_as_docker_reads_them(text: str, registry: str, repository: str, version: str) -> None:
    reference = Reference.parse(text)
    assert (reference.registry, reference.repository, reference.version) == (registry, repository, version)
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "name of a repository"),
        ("ACR_REPO_HERE.azurecr.io/IMAGE_NAME_HERE:0.0.1", "not the name of a registry"),
        ("r.io/Upper", "lower-case"),
        ("r.io/a:" + "x" * 129, "not a tag"),
        ("r.io/a@sha256:abc", "not a digest"),
        ("r.io/../etc", "name of a repository"),
        ("https://r.io/a", "name of a re"),
        ("r.io/a b", "name of a repository"),
    ],
)
def test_what_is_no_name_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(ReferenceError, match=complaint):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("registry", "loopback"),
    [
        ("localhost:5000", True),
        ("127.0.0.1", True),
        ("127.0.3.1:80", True),
        ("[::1]:5000", True),
        ("10.0.0.1:5000", False),
        ("r.io", False),
    ],
)
def test_only_this_machine_needs_no_tls(registry: str, loopback: bool) -> None:
    assert Reference.parse(f"{registry}/a").loopback is loopback


def config(tmp_path: Path, document: Any, name: str = "config.json") -> Path:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / name).write_text(document if isinstance(document, str) else json.dumps(document))
    return tmp_path


def auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


@pytest.mark.parametrize("name", ["r.io", "https://r.io", "https://r.io/", "https://r.io/v1/", "https://r.io/v2/"])
def test_a_login_is_found_under_every_name_of_its_registry(tmp_path: Path, name: str) -> None:
    login = Keychain.load([config(tmp_path, {"auths": {name: auth("me:a:b@c")}})]).login("r.io")
    assert login is not None
    assert (login.username, login.password) == ("me", "a:b@c")
    assert "a:b@c" not in repr(login)


def test_docker_hub_has_a_name_of_its_own(tmp_path: Path) -> None:
    keychain = Keychain.load([config(tmp_path, {"auths": {"https://index.docker.io/v1/": auth("me:secret")}})])
    assert keychain.login("docker.io") is not None
    assert keychain.login("r.io") is None


def test_mounted_secrets_are_read_in_order(tmp_path: Path) -> None:
    first = config(tmp_path / "one", {"auths": {"a.io": {"username": "first", "password": "x"}}}, ".dockerconfigjson")
    second = config(tmp_path / "two", {"auths": {"a.io": auth("second:x"), "b.io": {"identitytoken": "t"}}})
    keychain = Keychain.load([first, second])
    found = keychain.login("a.io"), keychain.login("b.io")
    assert found[0] is not None
    assert found[0].username == "first"
    assert found[1] is not None
    assert found[1].identity_token == "t"


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ("{hunter2", "is not JSON"),
        ([], "needs a map 'auths'"),
        ({"auths": {"r.io": {"auth": "!!!"}}}, "not base64"),
        ({"auths": {"r.io": auth("nocolon")}}, "not base64 of user:password"),
        ({"auths": {"r.io": "x"}}, "must be a map"),
        ({"credsStore": "desktop"}, "credential helper 'desktop'"),
        ({"credHelpers": {"r.io": "ecr-login"}}, "credential helper 'ecr-login'"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_without_showing_it(
    tmp_path: Path, document: Any, complaint: str
) -> None:
    with pytest.raises(CredentialsError, match=complaint) as caught:
        Keychain.load([config(tmp_path, document)]).login("r.io")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(CredentialsError, match="has neither"):
        Keychain.load([tmp_path.parent])
