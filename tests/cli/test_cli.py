"""The ``kaito`` command as its user meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kaito.devcluster.state import Running, StateFolder

SEEDS = Path(__file__).parents[1] / "seeds"
SAMPLES = Path(__file__).resolve().parents[2] / "config" / "samples"


def kaito(*arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    base = {name: value for name, value in os.environ.items() if not name.startswith(("KUBE", "ARM_", "AZURE_"))}
    return subprocess.run(
        [sys.executable, "-m", "kaito", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env={**base, "COLUMNS": "200", **environ},
        timeout=60,
        check=False,
    )


def test_the_plan_of_the_sample_is_what_the_operator_creates() -> None:
    done = kaito("plan", "-f", str(SAMPLES / "workspace-phi-3-mini.inference.yaml"))
    assert done.returncode == 0, done.stderr
    machine, service, deployment = yaml.safe_load_all(done.stdout)
    assert machine["kind"] == "Machine"
    assert machine["spec"]["requirements"][0]["values"] == ["Standard_NC6s_v3"]
    assert [port["port"] for port in service["spec"]["ports"]] == [80, 29500]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"].endswith(
        "/kaito-phi-3-mini-4k-instruct:0.0.2"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: Workspace\nmetadata: {name: a}\n", "resource"),
        ("kind: Pod\n", "expected a Workspace, found 'Pod'"),
        ("a: [", "is not YAML"),
        ("", "has no Workspace"),
        (
            "kind: Workspace\nmetadata: {name: a}\nresource: {labelSelector: {matchLabels: {a: b}}}\ninference: {preset: {name: gpt}}\n",
            "inference.preset",
        ),
    ],
)
def test_a_plan_of_nonsense_says_what_is_wrong(text: str, words: str) -> None:
    done = kaito("plan", "-f", "-", stdin=text)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there_is_named() -> None:
    done = kaito("plan", "-f", "/nonexistent.yaml")
    assert done.returncode == 2
    assert "/nonexistent.yaml" in done.stderr


@pytest.mark.parametrize("sample", ["workspace-phi-3-mini.inference.yaml", "workspace-phi-3-mini.tuning.yaml"])
def test_a_summary_says_what_it_takes(sample: str) -> None:
    text = (SEEDS / sample).read_text()
    for placeholder, own in {"ACR_REPO_HERE": "mine", "IMAGE_NAME_HERE": "x", "ACR_REGISTRY_SECRET_HERE": "s"}.items():
        text = text.replace(placeholder, own)
    done = kaito("plan", "-f", "-", "-o", "table", stdin=text)
    assert done.returncode == 0, done.stderr
    assert "1 x Standard_NC6s_v3" in done.stdout
    assert "moderate" in done.stdout
    assert ("weights in 4 bits" in done.stdout) == ("tuning" in sample)


def test_the_plan_of_a_tuning_is_a_job() -> None:
    text = (SEEDS / "workspace-phi-3-mini.tuning.yaml").read_text()
    refused = kaito("plan", "-f", "-", stdin=text)
    assert refused.returncode == 2
    assert "is a placeholder" in refused.stderr
    for placeholder, own in {"ACR_REPO_HERE": "mine", "IMAGE_NAME_HERE": "x", "ACR_REGISTRY_SECRET_HERE": "s"}.items():
        text = text.replace(placeholder, own)
    done = kaito("plan", "-f", "-", stdin=text)
    assert [item["kind"] for item in yaml.safe_load_all(done.stdout)] == ["Machine", "Service", "ConfigMap", "Job"]
    byo = kaito("plan", "-f", "-", stdin=text, KAITO_NODE_SOURCE="byo")
    assert [item["kind"] for item in yaml.safe_load_all(byo.stdout)] == ["Service", "ConfigMap", "Job"]


def test_a_plan_of_a_model_of_ones_own(tmp_path: Path) -> None:
    models = tmp_path / "models.yaml"
    models.write_text(
        "models: [{name: acme/rocket-1b, weights: 2.0, kvBytes: 4096, attention: GQA, context: 8192,"
        " architecture: LlamaForCausalLM, licence: mit}]"
    )
    text = (
        (SAMPLES / "workspace-phi-3-mini.inference.yaml")
        .read_text()
        .replace("phi-3-mini-4k-instruct", "acme/rocket-1b")
    )
    own = {"KAITO_MODELS_FILE": str(models), "KAITO_RUNTIME_IMAGE": "r.io/{engine}:1"}
    done = kaito("plan", "-f", "-", "-o", "table", stdin=text, **own)
    assert "acme/rocket-1b (vllm)" in done.stdout, done.stderr
    assert "'acme/rocket-1b' is not a supported preset" in kaito("plan", "-f", "-", stdin=text).stderr
    broken = kaito("plan", "-f", "-", stdin=text, KAITO_MODELS_FILE="/nowhere")
    assert "KAITO_MODELS_FILE" in broken.stderr
    assert broken.returncode == 2


def test_models_skus_and_version() -> None:
    assert "phi-3-mini-4k-instruct" in kaito("models").stdout
    assert "ibm-granite/granite-4.1-8b" in kaito("models", "--all").stdout
    assert "Standard_NC24ads_A100_v4" in kaito("skus").stdout
    assert "p4d.24xlarge" in kaito("skus", "--cloud=aws").stdout
    assert "use one of azure, aws, arc" in kaito("skus", "--cloud=gcp").stderr
    assert kaito("version").stdout.strip().count(".") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--controllers=nonsense"], "there is no controller 'nonsense'; installed are: machine, workspace"),
        (["--controllers="], "name at least one"),
        (["--controllers=workspace,workspace"], "named twice"),
        (["--kubeconfig=/nonexistent"], "no kubeconfig at /nonexistent"),
        (["--log-level=loud"], "'loud' is not a log level"),
        (["--log-format=xml"], "use auto, json or text"),
        (
            ["--controllers=workspace", "--node-source=cloud"],
            "KAITO_NODE_SOURCE is 'cloud'; it must be one of: machine, nodeclaim, byo",
        ),
        (["--controllers=workspace", "--upgrade-workloads=now"], "KAITO_UPGRADE_WORKLOADS is 'now'"),
        (["--leader-elect", "--lease-duration=5"], "lease duration > renew deadline"),
        (["--controllers=machine"], "ARM_SUBSCRIPTION_ID, ARM_RESOURCE_GROUP, AZURE_CLUSTER_NAME"),
        (["--controllers=machine", "--drain-timeout=0"], "KAITO_DRAIN_TIMEOUT_SECONDS is '0.0'; it must be a number"),
        (
            ["--controllers=machine", "--claim-kinds=pods"],
            "KAITO_CLAIM_KINDS is 'pods'; it must name some of: machine, node",
        ),
        (["--controllers=machine", "--repair-share=2"], "KAITO_REPAIR_SHARE is '2.0'; it must be a number from 0 to 1"),
        (["--controllers=machine", "--feature-gates=NodeRepair"], "it must be NodeRepair=true or NodeRepair=false"),
    ],
)
def test_a_manager_that_cannot_work_says_why(tmp_path: Path, arguments: list[str], words: str) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c"}}],
                "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
            }
        )
    )
    done = kaito("manager", *arguments, KUBECONFIG=str(kubeconfig))
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_help_loads_nothing_heavy() -> None:
    code = "import sys; from kaito.cli.app import build; build(plugin=False)\nprint(','.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split(","))
    assert not loaded & {
        "aiohttp",
        "azure",
        "kubernetes_asyncio",
        "msgspec",
        "pydantic",
        "prometheus_client",
        "kaito.runtime",
    }


def test_the_kubectl_plugin_has_no_servers() -> None:
    code = "import sys; sys.argv = ['kubectl-kaito', '--help']; from kaito.cli import kubectl_plugin; kubectl_plugin()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "kubectl kaito" in done.stdout
    assert "plan" in done.stdout
    assert "manager" not in done.stdout


def test_commands_on_a_cluster_that_does_not_run(tmp_path: Path) -> None:
    where = f"--directory={tmp_path / 'none'}"
    assert kaito("dev", "status", where).returncode == 1
    assert "No local cluster runs" in kaito("dev", "down", where).stdout
    assert "start one with" in kaito("dev", "kubeconfig", where).stderr


def test_what_a_dead_cluster_left_is_not_taken_for_a_living_one(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state")
    folder.create()
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    folder.announce(Running(done.pid, "https://127.0.0.1:1", "http://127.0.0.1:2", "2026-01-01T00:00:00Z"))
    folder.write_kubeconfig("x")
    assert folder.running() is None
    assert folder.kubeconfig.stat().st_mode & 0o077 == 0
    folder.remove()
    assert not folder.path.exists()
