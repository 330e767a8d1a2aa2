"""The images that the manifests name: build them, push them, and write down their digests (``make images REGISTRY=…``)."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from hack.locks import IMAGES
from hack.version import ROOT, current, tagged

FILE = Path("config/components/images/kustomization.yaml")
"""The one place that says where the images are."""
PLATFORMS: Mapping[str, Sequence[str]] = {
    "operator": ("linux/amd64", "linux/arm64"),
    "inference-cpu": ("linux/amd64", "linux/arm64"),
    "inference-gpu": ("linux/amd64",),
    "tuning": ("linux/amd64",),
}
"""The sizes of the catalogue that have GPUs are all amd64, and these images are large."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REGISTRY = re.compile(r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*")
_HEAD = """\
# The images that kaito runs from, the operator's own and those of the pods that it makes. config/manager takes them from
# here, and so does every overlay. `make images` and `make release` write this file.
"""


@dataclass(frozen=True, slots=True)
class Images:
    """Where the images of one version are; by digest, or as long as none is known by tag."""

    version: str
    registry: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    """By image: of all of them, or of none."""

    def __post_init__(self) -> None:
        """Raises ValueError for what cannot be pulled."""
        if self.registry and not _REGISTRY.fullmatch(self.registry):
            raise ValueError(f"{self.registry!r} is not a registry, such as registry.example/team")
        for image, digest in self.digests.items():
            if image not in IMAGES:
                raise ValueError(f"{image!r} is not an image; there are: {', '.join(IMAGES)}")
            if not _DIGEST.fullmatch(digest):
                raise ValueError(f"{image}={digest}: a digest is sha256: and 64 digits in lower-case hex")
        if self.digests and (missing := [image for image in IMAGES if image not in self.digests]):
            raise ValueError(f"no digest is given for {', '.join(missing)}: give all of them, or none")

    def name(self, image: str) -> str:
        return f"{self.registry}/kaito-{image}" if self.registry else f"kaito-{image}"

    def reference(self, image: str) -> str:
        """As a pod names it."""
        digest = self.digests.get(image)
        return f"{self.name(image)}@{digest}" if digest else f"{self.name(image)}:{self.version}"

    def render(self) -> str:
        entries = [
            {
                "name": f"kaito-{image}",
                "newName": self.name(image),
                **({"digest": self.digests[image]} if self.digests else {"newTag": self.version}),
            }
            for image in IMAGES
        ]
        document = {
            "apiVersion": "kustomize.config.k8s.io/v1alpha1",
            "kind": "Component",
            "configurations": ["fields.yaml"],
            "images": entries,
        }
        return _HEAD + yaml.safe_dump(document, sort_keys=False)

    def write(self, root: Path = ROOT) -> None:
        (root / FILE).write_text(self.render(), "utf-8")


def read(version: str, root: Path = ROOT) -> Images:
    """What the manifests name now."""
    entries = {entry["name"]: entry for entry in yaml.safe_load((root / FILE).read_text("utf-8"))["images"]}
    digests = {image: entries[f"kaito-{image}"].get("digest", "") for image in IMAGES}
    registry = entries["kaito-operator"]["newName"].rpartition("/")[0]
    return Images(version, registry, {image: digest for image, digest in digests.items() if digest})


def normal(registry: str) -> str:
    """Names of people, of which GitHub's registry makes its own, may have capitals; those of images may not."""
    return registry.lower().rstrip("/")


def parse(text: str) -> dict[str, str]:
    """``operator=sha256:… tuning=sha256:…`` by image. Raises ValueError."""
    found = {}
    for word in text.split():
        image, equals, digest = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is not IMAGE=DIGEST, such as operator=sha256:…")
        if image in found:
            raise ValueError(f"{image} is given twice")
        found[image] = digest
    return found


def build(images: Images, platforms: Sequence[str] = (), root: Path = ROOT) -> Images:
    """Build and push each of the ``images``, with SBOM and provenance; what was pushed. Raises ValueError."""
    digests = {}
    with tempfile.TemporaryDirectory(prefix="kaito-images-") as folder:
        for image in IMAGES:
            said = Path(folder, f"{image}.json")
            command = ["docker", "buildx", "build", "--file=docker/Dockerfile", f"--build-arg=IMAGE={image}"]
            command += [f"--platform={','.join(platforms or PLATFORMS[image])}", "--sbom=true", "--provenance=mode=max"]
            command += [f"--tag={images.name(image)}:{images.version}", f"--metadata-file={said}", "--push", "."]
            try:
                subprocess.run(command, check=True, cwd=root)
            except FileNotFoundError:
                raise ValueError("docker is not installed") from None
            except subprocess.CalledProcessError as error:
                raise ValueError(f"{image} was not built and pushed: docker ended with {error.returncode}") from error
            digests[image] = pushed(said.read_text("utf-8"))
    return Images(images.version, images.registry, digests)


def pushed(metadata: str) -> str:
    """The digest that buildx says it has pushed. Raises ValueError."""
    digest = json.loads(metadata).get("containerimage.digest")
    if not digest:
        raise ValueError("buildx does not say which digest it has pushed")
    return str(digest)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make images", description=__doc__)
    parser.add_argument("--registry", default="", help="where to push to, such as registry.example/team")
    parser.add_argument("--tag", default="", help="of the release that they are for, such as v0.2.0")
    parser.add_argument("--platforms", default="", help="such as linux/amd64; by default those that nodes have")
    given = parser.parse_args()
    try:
        if not given.registry:
            raise ValueError("where to? make images REGISTRY=registry.example/team")
        version = tagged(given.tag) if given.tag else current()
        made = build(Images(version, normal(given.registry)), [each for each in given.platforms.split(",") if each])
    except ValueError as error:
        sys.exit(f"error: {error}")
    made.write()
    for image in IMAGES:
        print(made.reference(image))


if __name__ == "__main__":
    main()
