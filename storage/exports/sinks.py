"""Where an export is written: a folder or a ZIP, whole or not at all, and the sha256 of every file in it.

    with open_sink(Path("faces.zip")) as sink:
        sink.add("00000/img00000000.png", data)

The bytes depend on the names and the bytes alone: no times, owners or modes of this machine. Not here: what is written.
"""

from __future__ import annotations

import hashlib
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from storage.digest import file_digest
from storage.local import sync_all, whole_file, whole_folder

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first moment that a ZIP can say."""
BLOCK = 1 << 20


class Sink(ABC):
    """Takes files by their names; `sums` has the sha256 of each."""

    def __init__(self) -> None:
        self.sums: dict[str, str] = {}
        self.num_bytes = 0

    def add(self, name: str, data: bytes) -> None:
        """A file of these bytes."""
        self._note(name, hashlib.sha256(data).hexdigest(), len(data))
        self._write(name, data)

    @contextmanager
    def growing(self, name: str) -> Iterator[BinaryIO]:
        """A file that is written while others are added."""
        with self._open(name) as file:
            yield file
            file.seek(0)
            digest = hashlib.sha256()
            while block := file.read(BLOCK):
                digest.update(block)
            self._note(name, digest.hexdigest(), file.tell())
            self._close(name, file)

    def _note(self, name: str, sha256: str, size: int) -> None:
        if name in self.sums:
            raise ValueError(f"{name} is added twice")
        self.sums[name] = sha256
        self.num_bytes += size

    @abstractmethod
    def _write(self, name: str, data: bytes) -> None: ...

    @abstractmethod
    def _open(self, name: str) -> BinaryIO: ...

    @abstractmethod
    def _close(self, name: str, file: BinaryIO) -> None: ...


class FolderSink(Sink):
    """Files below a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._made: set[Path] = set()

    def _write(self, name: str, data: bytes) -> None:
        self._path(name).write_bytes(data)

    def _open(self, name: str) -> BinaryIO:
        return self._path(name).open("w+b")

    def _close(self, name: str, file: BinaryIO) -> None:
        """It is in its place."""

    def _path(self, name: str) -> Path:
        path = self._folder / name
        if path.parent not in self._made:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(path.parent)
        return path


class ZipSink(Sink):
    """Files in a ZIP, stored as they are, without compression."""

    def __init__(self, zipped: zipfile.ZipFile, folder: Path) -> None:
        super().__init__()
        self._zip, self._folder = zipped, folder

    def _write(self, name: str, data: bytes) -> None:
        self._zip.writestr(_member(name), data)

    def _open(self, name: str) -> BinaryIO:
        return cast(BinaryIO, tempfile.TemporaryFile(dir=self._folder))  # a ZIP takes one file at a time

    def _close(self, name: str, file: BinaryIO) -> None:
        file.seek(0)
        with self._zip.open(_member(name), "w", force_zip64=True) as target:
            while block := file.read(BLOCK):
                target.write(block)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, EPOCH)
    info.create_system = 3
    info.external_attr = 0o100644 << 16
    info.compress_type = zipfile.ZIP_STORED
    return info


@contextmanager
def open_sink(
    out: Path,
    *,
    is_zip: bool,
    partial: Path | None = None,
    ready: Callable[[Sink, Path], None] = lambda sink, whole: None,
) -> Iterator[Sink]:
    """What becomes the folder or the ZIP at `out` when the block ends well; then it is on the disk.

    Until then it is `partial`, a new name beside it, of which `ready` is told when it is whole.
    """
    if is_zip:
        with whole_file(out, partial=partial) as file:
            with zipfile.ZipFile(file, "w") as zipped:
                sink: Sink = ZipSink(zipped, file.parent)
                yield sink
            ready(sink, file)
    else:
        with whole_folder(out, partial=partial) as folder:
            sink = FolderSink(folder)
            yield sink
            sync_all(folder)
            ready(sink, folder)


def sink_digest(out: Path, record: str) -> str:
    """The sha256 that stands for an export: of its record in a folder, of the whole of a ZIP."""
    return file_digest(out if out.is_file() else out / record)
