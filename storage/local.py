"""Files on this machine's disk, written whole or not at all: a reader finds what was there before, or all that is new.

What is being written lies under a name of its own in the same folder, which no reader asks for, and reaches the disk
before it takes the file's name. An exception leaves nothing of it; a kill leaves one file that ends in `.partial`.

    write_whole(Path("result.json"), data)
    with whole_file(Path("grid.png")) as partial:
        image.save(partial, "PNG")
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"
"""How the names of files and folders end that are being written."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What an OSError says where a disk, or a user's share of it, has no room."""
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""What it says where this user may not, or nobody may."""


@contextmanager
def _named(path: Path, partial: Path) -> Iterator[None]:
    """Have an OSError of what is being written, or of no file, as one of a full disk, name what it is to become."""
    try:
        yield
    except OSError as error:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        if error.errno is None or (names and not any(name.startswith(str(partial)) for name in names)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_whole(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file, whole or not at all; `durable` as of `whole_file`."""
    with whole_file(path, durable=durable) as partial:
        partial.write_bytes(data)


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Where to write what becomes the file at `path`, in place of what was there, when the block ends well.

    Folders above it are made. With `durable` its bytes and its name are on the disk then, whatever happens to the
    machine. The name to write to has no suffix of a format. OSError where `path` is there and is no file.
    """
    target = Path(os.path.realpath(path))  # a link to a file goes on leading to it
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "it is there, and is no file", str(path))
    make_folder(target.parent, durable=durable)
    partial = partial_beside(target)
    try:
        with _named(path, partial):
            yield partial
        if durable:
            sync(partial)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    if durable:
        sync(target.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes that at `path`, in place of what was there, when the block ends well."""
    make_folder(path.parent)
    partial, old = partial_beside(path), partial_beside(path)
    partial.mkdir()
    try:
        with _named(path, partial):
            yield partial
        for written in partial.iterdir():
            sync(written)
        sync(partial)
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def link_whole(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the disk has no links; it is on the disk then."""
    if target.exists() and target.samefile(source):
        return
    with whole_file(target) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def make_folder(folder: Path, *, durable: bool = True) -> None:
    """Make a folder and those above it, where they are not there; with `durable` their names are on the disk then."""
    if folder.is_dir():
        return
    make_folder(folder.parent, durable=durable)
    folder.mkdir(exist_ok=True)
    if durable:
        sync(folder.parent)


def partial_beside(path: Path) -> Path:
    """A new name in the folder of `path`, short whatever the name of that."""
    return path.with_name(f".{secrets.token_hex(8)}{PARTIAL}")


def sync(path: Path) -> None:
    """Have the bytes of a file, or the names in a folder, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Have all that was written to the disk that a folder lies on reach it: many files in one call."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _syncfs is None:
            os.sync()
        elif _syncfs(descriptor):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
    finally:
        os.close(descriptor)


_syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
"""Of Linux; elsewhere all disks are synced."""
