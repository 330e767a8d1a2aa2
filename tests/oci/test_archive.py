"""Layers: the same bytes for the same files, and nothing of a stranger's archive outside the directory."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaito.oci import ArchiveError
from kaito.oci.archive import Unpacker, build_layer

LIMIT = 1 << 20


def entry(
    name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "", size: int | None = None
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data) if size is None else size
    return info, data


def layer(tmp_path: Path, *entries: tuple[tarfile.TarInfo, bytes], name: str = "layer") -> Path:
    path = tmp_path / name
    with tarfile.open(path, "w:gz") as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path


def unpacked(tmp_path: Path, *layers: Path, limit: int = LIMIT) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    unpacker = Unpacker(root, limit=limit)
    for each in layers:
        unpacker.unpack(each)
    return root


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_equal_files_are_equal_layers_whenever_and_wherever(tmp_path: Path) -> None:
    made = []
    for number, order in enumerate((["b", "a/c"], ["a/c", "b"])):
        source = tmp_path / str(number)
        for name in order:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(name.encode())
            os.utime(source / name, (number, number))
            (source / name).chmod(0o600 + number)
        made.append(build_layer(source, tmp_path / f"layer{number}"))
    assert (made[0].digest, made[0].diff_id) == (made[1].digest, made[1].diff_id)
    assert files(unpacked(tmp_path, made[0].path)) == {"data/a/c": b"a/c", "data/b": b"b"}


def test_what_is_no_file_is_not_pushed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with pytest.raises(ArchiveError, match="no files"):
        build_layer(source, tmp_path / "layer")
    (source / "link").symlink_to("/etc/passwd")
    with pytest.raises(ArchiveError, match="neither a file nor a folder"):
        build_layer(source, tmp_path / "layer")
    with pytest.raises(ArchiveError, match="not a directory"):
        build_layer(tmp_path / "missing", tmp_path / "layer")


@pytest.mark.parametrize(
    "entries",
    [
        [entry("../evil", b"x")],
        [entry("a/../../evil", b"x")],
        [entry("/evil", b"x")],
        [entry("link", kind=tarfile.SYMTYPE, link="/etc")],
        [entry("link", kind=tarfile.SYMTYPE, link="../outside")],
        [entry("d", kind=tarfile.SYMTYPE, link="."), entry("d/evil", b"x")],
        [entry("d", kind=tarfile.DIRTYPE), entry("d/up", kind=tarfile.SYMTYPE, link="../.."), entry("d/up/evil", b"x")],
        [entry("here", kind=tarfile.SYMTYPE, link="."), entry("up", kind=tarfile.SYMTYPE, link="here/../etc")],
        [entry("hard", kind=tarfile.LNKTYPE, link="../../etc/passwd")],
        [entry("soft", kind=tarfile.SYMTYPE, link="x"), entry("hard", kind=tarfile.LNKTYPE, link="soft")],
        [entry("device", kind=tarfile.CHRTYPE)],
        [entry("pipe", kind=tarfile.FIFOTYPE)],
        [entry(".wh..", b"")],
        [entry("../.wh.evil", b"")],
        [entry("a", b"x"), entry("a/b", b"x")],
    ],
    ids=lambda entries: "+".join(f"{info.name}>{info.linkname}" for info, _ in entries),
)
def test_an_archive_that_leads_outside_is_refused(tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    outside = set(tmp_path.iterdir())
    archive = layer(tmp_path, *entries)
    with pytest.raises(ArchiveError):
        unpacked(tmp_path, archive)
    assert {path.name for path in set(tmp_path.iterdir()) - outside} == {"layer", "root"}


def test_layers_lie_on_each_other(tmp_path: Path) -> None:
    lower = layer(
        tmp_path,
        entry("data/old", b"1"),
        entry("data/kept", b"1"),
        entry("data/deep/x", b"1"),
        entry("data/hidden/y", b"1"),
    )
    upper = layer(
        tmp_path,
        entry("data/.wh.old"),
        entry("data/kept", b"2"),
        entry("data/deep/new", b"2"),
        entry("data/deep/.wh..wh..opq"),
        entry("data/.wh.hidden"),
        entry("data/.wh.never-there"),
        entry("data/again", kind=tarfile.LNKTYPE, link="data/kept"),
        entry("data/soft", kind=tarfile.SYMTYPE, link="kept"),
        name="upper",
    )
    assert files(unpacked(tmp_path, lower, upper)) == {
        "data/kept": b"2",
        "data/deep/new": b"2",
        "data/again": b"2",
        "data/soft": b"2",
    }


def test_a_bomb_is_stopped_and_what_is_broken_is_said(tmp_path: Path) -> None:
    bomb = layer(tmp_path, entry("a", b"0" * 600), entry("b", b"0" * 600))
    with pytest.raises(ArchiveError, match="more than is allowed"):
        unpacked(tmp_path, bomb, limit=1000)
    for number, content in enumerate((b"", b"not an archive", bomb.read_bytes()[:60])):
        broken = tmp_path / f"broken{number}"
        broken.write_bytes(content)
        with pytest.raises(ArchiveError):
            Unpacker(tmp_path / "root", limit=LIMIT).unpack(broken)


names = st.lists(st.sampled_from(["a", "b", "..", ".", "", "c"]), min_size=1, max_size=4).map("/".join)


@settings(max_examples=400, deadline=None)
@given(
    entries=st.lists(
        st.tuples(names, st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]), names),
        max_size=8,
    )
)
def test_whatever_is_in_an_archive_nothing_is_written_outside(
    entries: list[tuple[str, bytes, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    tmp_path = tmp_path_factory.mktemp("any")
    archive = layer(
        tmp_path,
        *(entry(name, b"x" if kind == tarfile.REGTYPE else b"", kind=kind, link=link) for name, kind, link in entries),
    )
    root = tmp_path / "in" / "root"
    root.mkdir(parents=True)
    with contextlib.suppress(ArchiveError):
        Unpacker(root, limit=LIMIT).unpack(archive)
    assert {path.name for path in tmp_path.iterdir()} == {"layer", "in"}
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"root"}
    for path in root.rglob("*"):
        with contextlib.suppress(OSError, RuntimeError):  # a link that leads nowhere, or to itself
            assert path.resolve(strict=True).is_relative_to(root.resolve())
