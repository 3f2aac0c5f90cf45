"""storage.local: a file is what it was or what it becomes, and nothing lies beside it."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from storage.lineage.origin import read_provenance, sidecar_path, whole_with_sidecar
from storage.local import link_whole, whole_file, whole_folder, write_whole


def names(folder: Path) -> list[str]:
    """All that lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_reader_sees_one_or_the_other(tmp_path: Path) -> None:
    """Whoever reads a file while it is written again and again finds all of one writing, never parts of two."""
    path = tmp_path / "file"
    write_whole(path, b"a" * 100_000)
    seen: set[bytes] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    for letter in b"bcdefgh" * 5:
        write_whole(path, bytes([letter]) * 100_000, durable=False)
    done.set()
    reader.join()
    assert seen <= {bytes([letter]) * 100_000 for letter in b"abcdefgh"}


@pytest.mark.parametrize(
    "write",
    [whole_file, whole_folder, lambda path: whole_with_sidecar(path, {})],
    ids=["file", "folder", "pair"],
)
@pytest.mark.parametrize("there", [False, True], ids=["new", "in place"])
def test_an_exception_leaves_what_was(
    tmp_path: Path, write: Callable[[Path], AbstractContextManager[Path]], there: bool
) -> None:
    """Of a writing that ends in an exception there is nothing, whatever had been written, and the old file stands."""
    path = tmp_path / "x"
    is_folder = write is whole_folder

    def fill(place: Path, text: str, fails: bool = False) -> None:
        (place / "inside" if is_folder else place).write_text(text)
        if fails:
            raise RuntimeError

    if there:
        with write(path) as partial:
            fill(partial, "old")
    before = {file: file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file()}
    with pytest.raises(RuntimeError), write(path) as partial:
        fill(partial, "half", fails=True)
    assert {file: file.read_bytes() for file in sorted(tmp_path.rglob("*")) if file.is_file()} == before
    with write(path) as partial:
        fill(partial, "new")
    assert (path / "inside" if is_folder else path).read_text() == "new"
    assert not [name for name in names(tmp_path) if name.startswith(".")]


def test_a_file_is_as_others_are(tmp_path: Path) -> None:
    """Folders are made, the mode is that of any new file, and a link leads to the new bytes."""
    path = tmp_path / "a" / "b" / ("n" * 255)
    write_whole(path, b"1")
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    link = tmp_path / "link"
    link.symlink_to(path)
    write_whole(link, b"2")
    assert link.is_symlink()
    assert path.read_bytes() == b"2"


def test_only_files_are_written_over(tmp_path: Path) -> None:
    """A folder or a device is refused and stays."""
    (tmp_path / "pipe").parent.mkdir(exist_ok=True)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(FileExistsError, match="is no file"):
            write_whole(path, b"")
    assert names(tmp_path) == ["pipe"]


def test_a_link_leaves_nothing_beside(tmp_path: Path) -> None:
    """A file is linked, linked again, and linked over another, and holds the source's bytes each time."""
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_bytes(b"data")
    for _ in range(2):
        link_whole(source, target)
    assert target.samefile(source)
    other = tmp_path / "other"
    other.write_bytes(b"other")
    link_whole(other, target)
    assert (target.read_bytes(), source.read_bytes()) == (b"other", b"data")
    assert names(target.parent) == ["target"]


def test_words_and_file_are_of_each_other(tmp_path: Path) -> None:
    """A file and what is said of it beside it change together, over an old pair too."""
    path = tmp_path / "film.mp4"
    for number in range(2):
        with whole_with_sidecar(path, {"number": number}) as partial:
            partial.write_bytes(b"film %d" % number)
        assert read_provenance(path) == {"number": number}
    assert names(tmp_path) == [path.name, sidecar_path(path).name]
