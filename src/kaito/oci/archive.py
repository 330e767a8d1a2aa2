"""Layers: a directory as a tar archive that is the same every time, and archives of strangers unpacked safely."""

from __future__ import annotations

import gzip
import hashlib
import shutil
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from kaito.oci.errors import ArchiveError

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """A gzipped tar archive in a file."""

    path: Path
    digest: str
    size: int
    """Bytes of the file."""
    diff_id: str
    """Digest of the archive before compression."""


class _Hashing:
    """Passes on what is written, and knows its digest."""

    def __init__(self, target: BinaryIO) -> None:
        self._target = target
        self._hash = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._target.write(data)

    def flush(self) -> None:
        self._target.flush()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def build_layer(source: Path, target: Path, *, prefix: str = "data") -> Layer:
    """The files of ``source`` under ``prefix``, in a layer at ``target``. Equal files give equal bytes.

    Raises ArchiveError for a source without files, or with anything but files and folders.
    """
    files = _files(source)
    with target.open("wb") as raw:
        packed = _Hashing(raw)
        # Neither name nor time: both would make equal layers differ.
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=cast(BinaryIO, packed), mtime=0) as zipped:
            plain = _Hashing(cast(BinaryIO, zipped))
            with tarfile.open(fileobj=cast(IO[bytes], plain), mode="w|", format=tarfile.PAX_FORMAT) as tar:
                for name, path in files:
                    info = tarfile.TarInfo(f"{prefix}/{name}".rstrip("/"))
                    if path.is_dir():
                        info.type, info.mode = tarfile.DIRTYPE, 0o755
                        tar.addfile(info)
                    else:
                        info.size, info.mode = path.stat().st_size, 0o644
                        with path.open("rb") as content:
                            tar.addfile(info, content)
    return Layer(target, packed.digest, target.stat().st_size, plain.digest)


def _files(source: Path) -> list[tuple[str, Path]]:
    if not source.is_dir():
        raise ArchiveError(f"{source} is not a directory")
    found = [("", source)]
    for path in sorted(source.rglob("*")):
        mode = path.lstat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ArchiveError(f"{path} is neither a file nor a folder: only those are pushed")
        found.append((path.relative_to(source).as_posix(), path))
    if not any(path.is_file() for _, path in found):
        raise ArchiveError(f"{source} has no files to push")
    return found


class Unpacker:
    """Unpacks the layers of one image, lowest first, into an empty directory of its own.

    Nothing is written outside it, through a link or otherwise; owners, devices and special bits are left out.
    """

    def __init__(self, root: Path, *, limit: int) -> None:
        """``limit`` is how many bytes all layers may unpack to."""
        self._root = root
        self._left = limit

    def unpack(self, layer: Path) -> None:
        """Raises ArchiveError for what is unsafe, broken or too large."""
        written: set[PurePosixPath] = set()
        try:
            with tarfile.open(layer, "r:*") as tar:
                for member in tar:
                    self._member(tar, member, written)
        except (tarfile.TarError, EOFError, OSError, gzip.BadGzipFile, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise ArchiveError(f"cannot unpack: {error.strerror} ({error.filename or self._root})") from error
            raise ArchiveError(f"the layer is not a whole tar archive: {error}") from error

    def _member(self, tar: tarfile.TarFile, member: tarfile.TarInfo, written: set[PurePosixPath]) -> None:
        name = _inside(member.name)
        if not name.parts:
            return
        if name.name.startswith(WHITEOUT):
            self._whiteout(name, written)
            return
        target = self._place(name)
        written.update((name, *name.parents))
        if member.isdir():
            if target.is_symlink() or not target.is_dir():
                _remove(target)
                target.mkdir()
        elif member.isreg():
            self._left -= member.size
            if self._left < 0:
                raise ArchiveError("the image unpacks to more than is allowed")
            _remove(target)
            content = tar.extractfile(member)
            assert content is not None, "a regular file has content"
            with target.open("xb") as file:
                shutil.copyfileobj(content, file, _PIECE)
            target.chmod(0o755 if member.mode & 0o111 else 0o644)
        elif member.issym():
            leads_to = _link_target(name, member.linkname)
            _remove(target)
            target.symlink_to(leads_to)
        elif member.islnk():
            source = self._place(_inside(member.linkname))
            if source.is_symlink() or not source.is_file():
                raise ArchiveError(f"{member.name} is a link to {member.linkname}, which is not a file of the image")
            self._left -= source.stat().st_size
            if self._left < 0:
                raise ArchiveError("the image unpacks to more than is allowed")
            _remove(target)
            shutil.copyfile(source, target)
        else:
            raise ArchiveError(f"{member.name} is neither a file, a folder nor a link")

    def _place(self, name: PurePosixPath) -> Path:
        """Where ``name`` goes; its folders are made, and none of them may be a link."""
        place = self._root
        for part in name.parts[:-1]:
            place /= part
            if place.is_symlink() or (place.exists() and not place.is_dir()):
                raise ArchiveError(f"{name} leads through {place.name}, which is not a folder")
            place.mkdir(exist_ok=True)
        return place / name.name

    def _whiteout(self, name: PurePosixPath, written: set[PurePosixPath]) -> None:
        """Lower layers' files are gone; those of this layer stay, in whichever order they come."""
        if name.name == OPAQUE:
            folder = self._place(name).parent
            for path in list(folder.iterdir()):
                if name.parent / path.name not in written:
                    _remove(path)
            return
        hidden = name.parent / name.name.removeprefix(WHITEOUT)
        if hidden.name in ("", ".", ".."):
            raise ArchiveError(f"{name} hides nothing that can be named")
        if hidden not in written:
            _remove(self._place(hidden))


def _link_target(name: PurePosixPath, target: str) -> str:
    """Where a symbolic link at ``name`` leads; ArchiveError for one that leads, or could ever lead, out of the image.

    Its folders are no links, so ``..`` at the start of ``target`` is what it seems to be; after a name, which may be a link,
    it is not.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    ups = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    if target.startswith("/") or "\0" in target or ".." in parts[ups:] or ups > len(name.parts) - 1:
        raise ArchiveError(f"the link {name} to {target!r} leads out of the image")
    return "/".join(parts) or "."


def _inside(name: str) -> PurePosixPath:
    """``name`` without ``.``; ArchiveError for one that leads out of the image."""
    parts: list[str] = []
    for part in name.split("/"):
        if part == ".." and not parts:
            raise ArchiveError(f"{name!r} leads out of the image")
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    if name.startswith("/") or "\0" in name:
        raise ArchiveError(f"{name!r} leads out of the image")
    return PurePosixPath(*parts)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
