"""The components, in every combination and with every overlay."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from hack import generate_dashboards, generate_metrics

from kaito.devcluster.apiserver import ApiServer, ApiServerOptions
from kaito.provisioner import errors
from support.kustomize import OVERLAYS, Manifest, apply, build, container, installer, named

COMPONENTS = tuple(
    f"components/{name}" for name in ("webhook", "prometheus", "metrics-tls", "network-policy", "grafana")
)
COMBINATIONS = [chosen for number in range(1, 6) for chosen in combinations(COMPONENTS, number)]
SITUATIONS = Path(__file__).with_name("alerts.yaml")
OF_THE_API_SERVER = {"apiserver_admission_webhook_rejection_count"}
OF_PROMETHEUS = {"up"}
OF_VLLM = {"vllm:generation_tokens_total", "vllm:time_to_first_token_seconds_bucket"}
SERIES = re.compile(r"([a-z][a-z0-9_:]+)(?=[{\[])")
RUNBOOKS = Path(__file__).parents[2] / "docs" / "runbooks.md"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_combination_builds_and_names_nothing_twice(overlay: str, tmp_path: Path) -> None:
    for number, chosen in enumerate(COMBINATIONS):
        built = build(tmp_path / str(number), overlay, chosen)
        names = [(item["kind"], item["metadata"].get("namespace"), item["metadata"]["name"]) for item in built]
        assert len(set(names)) == len(names)
        kinds = {kind for kind, _, _ in names}
        assert ("components/webhook" in chosen) == ("ValidatingWebhookConfiguration" in kinds)
        assert ("components/prometheus" in chosen) == ({"ServiceMonitor", "PrometheusRule"} <= kinds)
        assert ("components/grafana" in chosen) == (("ConfigMap", "kaito-system", "kaito-dashboards") in names)
        assert ("components/network-policy" in chosen) == ("NetworkPolicy" in kinds)
        for deployment in (item for item in built if item["kind"] == "Deployment"):
            arguments = container(deployment)["args"]
            serves = "components/webhook" in chosen and "--controllers=machine" not in arguments
            assert ("--webhook" in arguments) == serves
            assert ("--metrics-secure" in arguments) == ("components/metrics-tls" in chosen)


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_the_api_server_takes_all_of_them_and_a_second_apply_changes_nothing(
    overlay: str, tmp_path: Path
) -> None:
    built = build(tmp_path / "overlay", overlay, COMPONENTS)
    async with ApiServer(ApiServerOptions()) as server:
        kubectl = installer(server, tmp_path)
        definitions = [definition(kind) for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule")]
        await apply(kubectl, definitions)
        for item in definitions:
            wanted = ("wait", "--for=condition=Established", f"crd/{item['metadata']['name']}")
            await asyncio.to_thread(kubectl, *wanted)
        await apply(kubectl, built)
        again = await apply(kubectl, built)
    assert len(again) == len(built)
    assert [line for line in again if not line.endswith(" unchanged")] == []


@pytest.mark.parametrize("overlay", ["overlays/aks", "overlays/split"])
def test_every_process_is_scraped(overlay: str, tmp_path: Path) -> None:
    built = build(tmp_path, overlay, COMPONENTS)
    monitor = named(built, "ServiceMonitor", "kaito")["spec"]
    (endpoint,) = monitor["endpoints"]
    assert endpoint["scheme"] == "https"
    scraped = [
        item["spec"]["selector"].items()
        for item in built
        if item["kind"] == "Service"
        and monitor["selector"]["matchLabels"].items() <= item["metadata"]["labels"].items()
        and endpoint["port"] in {port["name"] for port in item["spec"]["ports"]}
    ]
    (admitted,) = [item["spec"] for item in built if item["kind"] == "NetworkPolicy"]
    ports = {port["port"] for rule in admitted["ingress"] for port in rule["ports"]}
    for deployment in (item for item in built if item["kind"] == "Deployment"):
        pods = deployment["spec"]["template"]["metadata"]["labels"].items()
        assert [selector for selector in scraped if selector <= pods]
        assert admitted["podSelector"]["matchLabels"].items() <= pods
        shown = {port["name"]: port["containerPort"] for port in container(deployment)["ports"]}
        assert {port for name, port in shown.items() if name != "probes"} <= ports


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    built = build(tmp_path_factory.mktemp("rules"), "default", ["components/prometheus"])
    spec: Manifest = named(built, "PrometheusRule", "kaito")["spec"]
    return spec


def test_alerts_ask_for_metrics_that_exist(groups: Manifest) -> None:
    expressions = [rule["expr"] for group in groups["groups"] for rule in group["rules"]]
    recorded = {rule["record"] for group in groups["groups"] for rule in group["rules"] if "record" in rule}
    drawn = [query for each in generate_dashboards.DASHBOARDS.values() for query in generate_dashboards.queries(each)]
    asked = {name for text in (*expressions, *drawn) for name in SERIES.findall(text)}
    assert asked - OF_THE_API_SERVER - OF_PROMETHEUS - OF_VLLM <= set(reported()) | recorded
    failures = {
        name for text in expressions for said in re.findall(r'error=~?"([^"]+)"', text) for name in said.split("|")
    }
    assert failures
    assert all(issubclass(getattr(errors, name), errors.ProviderError) for name in failures)


def test_alerts_say_how_bad_it_is_and_what_to_do(groups: Manifest) -> None:
    rules = alerts(groups)
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning", "none")
        assert set(rule["annotations"]) == {"summary", "description"}


@pytest.mark.parametrize("subject", ["check", "test"])
def test_prometheus_finds_the_alerts_sound(subject: str, groups: Manifest, tmp_path: Path) -> None:
    """As rules, and as ``alerts.yaml`` says when each of them fires and when it does not."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(groups))
    shutil.copy(SITUATIONS, tmp_path)
    arguments = {"check": ["check", "rules", "--lint-fatal", "rules.yaml"], "test": ["test", "rules", SITUATIONS.name]}
    done = subprocess.run(
        [promtool, *arguments[subject]], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_to_fire(groups: Manifest) -> None:
    fired = set(re.findall(r'alertname="(\w+)"', SITUATIONS.read_text()))
    assert fired == {rule["alert"] for rule in alerts(groups)}


def test_every_alert_has_a_page_in_the_runbook(groups: Manifest) -> None:
    assert re.findall(r"^## (Kaito\w+)$", RUNBOOKS.read_text(), re.MULTILINE) == [
        rule["alert"] for rule in alerts(groups)
    ]


@pytest.mark.parametrize("written", [*generate_dashboards.render().items()], ids=lambda entry: entry[0])
def test_the_dashboards_are_those_of_the_generator(written: tuple[str, str]) -> None:
    name, text = written
    assert (generate_dashboards.DIRECTORY / name).read_text() == text, "make manifests writes them anew"


def test_the_table_of_metrics_is_that_of_the_generator() -> None:
    assert generate_metrics.DOCUMENT.read_text() == generate_metrics.render(), "make manifests writes it anew"


def alerts(groups: Manifest) -> list[Manifest]:
    return [rule for group in groups["groups"] for rule in group["rules"] if "alert" in rule]


def reported() -> Iterator[str]:
    """The names of the series that the operator, the model server and the tuner can report."""
    suffixes = {"histogram": ("_bucket", "_count", "_sum"), "summary": ("_count", "_sum")}
    for family in (*generate_metrics.operator(), *generate_metrics.model_server(), *generate_metrics.tuner()):
        yield from (f"{family.name}{suffix}" for suffix in suffixes.get(family.type, ("",)))


def definition(kind: str) -> Manifest:
    """A kind of the Prometheus Operator, with as much of its definition as applying takes."""
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
