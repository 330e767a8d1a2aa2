"""The volumes of a pod as folders, and the folder that is a container's filesystem."""

from __future__ import annotations

import posixpath
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaito.devcluster.kubelet.host import references
from kaito.devcluster.kubelet.host.environment import expand
from kaito.devcluster.kubelet.host.references import Missing, Sources
from kaito.runtime import Manifest

_TOKEN_SECONDS = 3600
_FILE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the files of one pod are; ``claims`` outlives it."""

    pod: Path
    claims: Path

    def volume(self, name: str) -> Path:
        return self.pod / "volumes" / name

    def root(self, container: str) -> Path:
        return self.pod / "containers" / container

    def log(self, container: str, attempt: int) -> Path:
        return self.pod / "logs" / container / f"{attempt}.log"

    def remove(self) -> None:
        shutil.rmtree(self.pod, ignore_errors=True)


async def make_volumes(pod: Manifest, node: Manifest, sources: Sources, folders: Folders) -> None:
    """Raises Missing while something that a volume shows is not there, and for kinds of volumes that there are not here."""
    for volume in pod["spec"].get("volumes") or ():
        target = folders.volume(volume["name"])
        if target.is_symlink() or target.exists():
            continue
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if "hostPath" in volume:
            _link(target, _on_host(volume["hostPath"]))
        elif "persistentVolumeClaim" in volume:
            claim = folders.claims / pod["metadata"]["namespace"] / volume["persistentVolumeClaim"]["claimName"]
            claim.mkdir(mode=0o700, parents=True, exist_ok=True)
            _link(target, claim)
        elif "emptyDir" in volume:
            target.mkdir(mode=0o700)
        else:
            files = await _files(volume, pod, node, sources)
            target.mkdir(mode=0o700)
            for path, content in files.items():
                _write(target, path, content)


async def _files(volume: Mapping[str, Any], pod: Manifest, node: Manifest, sources: Sources) -> dict[str, bytes]:
    """By path below the volume."""
    if source := volume.get("configMap"):
        held = await sources.config_map(source["name"], optional=bool(source.get("optional")))
        return _chosen(held, source, f'configmap "{source["name"]}"')
    if source := volume.get("secret"):
        name = source.get("secretName") or source.get("name")
        held = await sources.secret(name, optional=bool(source.get("optional")))
        return _chosen(held, source, f'secret "{name}"')
    if source := volume.get("downwardAPI"):
        return {item["path"]: _described(item, pod, node) for item in source.get("items") or ()}
    if source := volume.get("serviceAccountToken"):
        account = pod["spec"].get("serviceAccountName") or "default"
        seconds = source.get("expirationSeconds") or _TOKEN_SECONDS
        return {source["path"]: await sources.token(account, source.get("audience", ""), seconds)}
    if source := volume.get("projected"):
        files: dict[str, bytes] = {}
        for each in source.get("sources") or ():
            files |= await _files(each, pod, node, sources)
        return files
    kind = next((key for key in volume if key != "name"), "emptyDir")
    raise Missing(f"volumes of the kind {kind} are not there in the local cluster")


def _chosen(held: Mapping[str, bytes], source: Mapping[str, Any], what: str) -> dict[str, bytes]:
    items = source.get("items")
    if not items:
        return dict(held)
    if not source.get("optional"):
        for item in items:
            if item["key"] not in held:
                raise Missing(f"{what} has no key {item['key']}")
    return {item["path"]: held[item["key"]] for item in items if item["key"] in held}


def _described(item: Mapping[str, Any], pod: Manifest, node: Manifest) -> bytes:
    if reference := item.get("fieldRef"):
        return references.field(pod, reference["fieldPath"]).encode()
    reference = item["resourceFieldRef"]
    containers = (*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ()))
    container = next((each for each in containers if each["name"] == reference.get("containerName")), None)
    if container is None:
        raise Missing(f"container {reference.get('containerName')} of a resourceFieldRef is not in the pod")
    return references.resource(container, reference, node).encode()


def _on_host(source: Mapping[str, Any]) -> Path:
    path, kind = Path(source["path"]), source.get("type") or ""
    if kind in ("DirectoryOrCreate", "FileOrCreate") or path.exists():
        return path
    raise Missing(f"hostPath {path} does not exist on this machine")


def _write(folder: Path, path: str, content: bytes) -> None:
    """The API server has checked that ``path`` stays below ``folder``."""
    target = folder / path
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    target.touch(mode=_FILE_MODE)
    target.write_bytes(content)


def _link(place: Path, target: Path) -> None:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    place.symlink_to(target)


@dataclass(frozen=True, slots=True)
class Root:
    """A folder that is a container's filesystem."""

    path: Path
    mounts: tuple[str, ...]
    """Mount paths, as the container knows them."""

    def of(self, path: str) -> str:
        """The path on this machine of an absolute ``path`` of the container."""
        return f"{self.path}{path}"

    def confine(self, word: str) -> str:
        """A word of a command, after :meth:`translate`, with every path in it kept within the folder."""
        flag, equals, path = word.rpartition("=") if word.startswith("-") else ("", "", word)
        if not path.startswith("/") and ".." not in path.split("/"):
            return word
        below = posixpath.normpath(f"/{path.removeprefix(str(self.path))}")
        return f"{flag}{equals}{self.of('/' + below.lstrip('/'))}"

    def translate(self, text: str) -> str:
        """``text`` with the paths in it that lie below mount paths replaced by those on this machine."""
        if not self.mounts:
            return text
        every = "|".join(re.escape(mount) for mount in sorted(self.mounts, key=len, reverse=True))
        return re.sub(rf"(?<![\w./-])({every})(?=[/\s:,;'\"]|\Z)", lambda found: self.of(found[1]), text)


def make_root(
    container: Mapping[str, Any], environ: Mapping[str, str], volumes: Iterable[str], folders: Folders
) -> Root:
    """Mount the volumes into the container's folder. Raises Missing for a volume that the pod has not."""
    path, known = folders.root(container["name"]), set(volumes)
    mounts = container.get("volumeMounts") or ()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for mount in sorted(mounts, key=lambda item: len(item["mountPath"])):
        if mount["name"] not in known:
            raise Missing(f'volume "{mount["name"]}" of container {container["name"]} is not in the pod')
        source = folders.volume(mount["name"])
        below = expand(mount["subPathExpr"], environ) if mount.get("subPathExpr") else mount.get("subPath")
        if below:
            source = source / below
            if not source.exists():
                source.mkdir(mode=0o700, parents=True)
        place = path / _normal(mount["mountPath"])
        if not place.is_symlink():
            _link(place, source)
    if not (path / "tmp").is_symlink():
        (path / "tmp").mkdir(mode=0o700, exist_ok=True)
    return Root(path, tuple("/" + _normal(mount["mountPath"]) for mount in mounts))


def _normal(path: str) -> str:
    return "/".join(part for part in path.split("/") if part not in ("", "."))
