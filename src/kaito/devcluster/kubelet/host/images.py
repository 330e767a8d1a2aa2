"""The image map: which images stand for which programs of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from kaito.devcluster.kubelet.host.volumes import Root

DOCKER_HUB = ("docker.io/library/", "docker.io/", "index.docker.io/")


@dataclass(frozen=True, slots=True)
class Invocation:
    """A container that is to start. Words and environment have the paths of this machine."""

    image: str
    words: tuple[str, ...]
    """Its command and its arguments."""
    address: str
    """The pod's; what listens has to do so there."""
    root: Root
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Program:
    """What runs on this machine in place of a container."""

    command: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    """Beside and above the container's."""
    note: str = ""
    """First line of its log: in what it is not what the manifest asks for."""
    quick: bool = False
    """It starts in seconds where what it stands for takes minutes: probes do not wait for their initial delay, and ask
    each second until it is ready."""
    commands: bool = False
    """Whether commands of probes and hooks run as well."""


Builder = Callable[[Invocation], Program]
Recognize = Callable[[str, Sequence[str]], Builder | None]
"""From an image and the words of a container, as in the manifest, to what runs in its place; None for what is not known."""


@dataclass(frozen=True, slots=True)
class Entry:
    globs: tuple[str, ...]
    """Of image names, without the registry's name and without tag or digest: ``*/kaito-*``."""
    recognize: Recognize


@dataclass(frozen=True, slots=True)
class ImageMap:
    """The first entry with a matching glob that knows the container's words decides."""

    entries: tuple[Entry, ...] = ()

    def find(self, container: Mapping[str, Any]) -> Builder | None:
        """None for a container that only plays its part."""
        image = container["image"]
        name, words = repository(image), words_of(container)
        for entry in self.entries:
            if any(fnmatchcase(name, glob) for glob in entry.globs) and (built := entry.recognize(image, words)):
                return built
        return None

    def knows(self, pod: Mapping[str, Any]) -> bool:
        """Whether something of the pod runs for real."""
        spec = pod["spec"]
        return any(self.find(each) for each in (*spec["containers"], *(spec.get("initContainers") or ())))

    def __add__(self, other: ImageMap) -> ImageMap:
        return replace(self, entries=self.entries + other.entries)


def repository(image: str) -> str:
    """The image's name without digest, tag and Docker's own registry: ``mcr.microsoft.com/aks/kaito/kaito-phi-2``."""
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    name = f"{head}{slash}{last.partition(':')[0]}"
    for prefix in DOCKER_HUB:
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name


def words_of(container: Mapping[str, Any]) -> tuple[str, ...]:
    return (*(container.get("command") or ()), *(container.get("args") or ()))


def host_commands(image: str, words: Sequence[str]) -> Builder | None:
    """The container's own command, where it names one."""

    def build(invocation: Invocation) -> Program:
        note = "this is the command of the manifest, run by the user of the local cluster on this machine"
        return Program(invocation.words, {"POD_IP": invocation.address}, note, commands=True)

    return build if words else None


HOST_COMMANDS = ImageMap((Entry(("*",), host_commands),))
"""Every command of every manifest runs on this machine."""
