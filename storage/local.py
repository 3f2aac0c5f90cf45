"""Files on this machine's disk, written whole or not at all: a reader finds what was there before, or all that is new.

What is being written lies under a name of its own in the same folder, which no reader asks for, and reaches the disk
before it takes the file's name. An exception leaves nothing of it; a kill leaves one file that ends in `.partial`.

A folder may be the image of a bucket (`storage.mirror`). Then a file reaches the bucket before it takes its name here,
and goes from there before it goes from here.

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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from storage.errors import IntegrityError

PARTIAL = ".partial"
"""How the names of files and folders end that are being written."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What an OSError says where a disk, or a user's share of it, has no room."""
MISPLACED = (
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.ELOOP,
    errno.ENXIO,
    errno.ENAMETOOLONG,
)
"""What it says where a folder is in a file's place, or the other way round, or a link leads nowhere."""
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""What it says where this user may not, or nobody may."""


class Image(Protocol):
    """What is told of each file in a folder that is the image of a bucket."""

    def send(self, path: Path, source: Path) -> None:
        """Have what lies at `source` in the bucket as what is to lie at `path`."""
        ...

    def bring(self, path: Path) -> None:
        """Have the file here that the bucket has, if it has one."""
        ...

    def drop(self, paths: Iterable[Path]) -> None:
        """Have files no more in the bucket."""
        ...

    def drop_folder(self, path: Path) -> None:
        """Have nothing of a folder any more in the bucket, its records sooner than what they name."""
        ...

    def move_folder(self, path: Path, target: Path) -> None:
        """Have all of a folder in another one of the bucket."""
        ...

    def piece(self, path: Path, offset: int, size: int) -> bytes:
        """Some bytes of a file that the bucket has."""
        ...


_kept_within: set[str] = set()


def keep_within(folder: Path) -> None:
    """Have nothing that is written to a folder, whose path is free of links, follow a link that leads out of it."""
    _kept_within.add(os.fspath(folder))


def _target(path: Path) -> Path:
    """The file that a path leads to; IntegrityError where it leads out of a folder of `keep_within`."""
    target = real_path(path)
    for folder in path.parents:
        if os.fspath(folder) in _kept_within and not target.is_relative_to(folder):
            raise IntegrityError(f"{path} leads out of the store {folder}, and nothing is written there")
    return target


_images: dict[str, Image] = {}
"""By their folders; each path ends in a slash."""


def add_image(folder: Path, image: Image) -> None:
    """Have an image told of the files in a folder from now on."""
    _images[f"{folder}/"] = image


def drop_image(folder: Path) -> None:
    """Have the image of a folder told of nothing any more."""
    _images.pop(f"{folder}/", None)


def image_of(path: Path) -> Image | None:
    """The image that a file or folder lies in."""
    place = os.fspath(path)
    return next((image for folder, image in _images.items() if place.startswith(folder)), None)


def real_path(path: Path) -> Path:
    """The absolute path without links; of links that lead round, unlike `Path.resolve`, as far as they lead."""
    return Path(os.path.realpath(path))


def check_file(path: Path) -> None:
    """FileNotFoundError for what might never end, such as a pipe or a device, before it is opened; not for a folder."""
    if not (path.is_file() or path.is_dir()):  # a folder says itself that it is one
        try:
            path.stat()
        except OSError as error:
            raise FileNotFoundError(error.errno, error.strerror, str(path)) from error
        raise FileNotFoundError(errno.ENOENT, "it is no file", str(path))


def file_bytes(path: Path) -> bytes:
    """All of a file that a user names; OSError as of `check_file` and where it cannot be read."""
    check_file(path)
    return path.read_bytes()


def here(path: Path) -> Path:
    """A file that is to be read, brought from the bucket where its folder is an image of one and it is not here yet."""
    if image := image_of(path):
        image.bring(path)
    return path


def send(path: Path) -> None:
    """Have in the bucket, if there is one, what was appended to a file."""
    if (image := image_of(path)) and path.is_file():
        image.send(path, path)


def delete(path: Path) -> None:
    """Delete a file, or a folder with all in it, if it is there."""
    is_folder = path.is_dir() and not path.is_symlink()
    if image := image_of(path):
        image.drop_folder(path) if is_folder else image.drop([path])
    if is_folder:
        gone = path if path.name.endswith(PARTIAL) else partial_beside(path)
        os.replace(path, gone)  # what is left of an interrupted deletion is not what it was
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)


def delete_files(paths: Iterable[Path]) -> None:
    """Delete many files of one store, where they are there."""
    paths = list(paths)
    if paths and (image := image_of(paths[0])):
        image.drop(paths)
    for path in paths:
        path.unlink(missing_ok=True)


def rename_folder(folder: Path, name: str) -> Path:
    """Give a folder another name, beside where it lies."""
    target = folder.with_name(name)
    if image := image_of(folder):
        image.move_folder(folder, target)
    os.replace(folder, target)
    return target


def fail(error: OSError) -> None:
    """Raise it: what a folder holds that may not be listed matters."""
    raise error


def passed_over(error: OSError) -> None:
    """Go on without a folder that may not be listed."""


def listed(folder: Path, pattern: str, refused: Callable[[OSError], None] = fail) -> list[Path]:
    """The paths that a pattern such as `*/run.json` names below a folder, sorted, without what is still being written.

    `Path.glob` takes a folder that may not be listed or entered for an empty one. Here `refused` is told of it.
    """
    found = [folder]
    *above, last = pattern.split("/")
    for part in above:
        found = [path for each in found for path in _named_so(each, part, refused)]
    found = [path for each in found for path in _named_so(each, last, refused)]
    return sorted(found)


def _named_so(folder: Path, pattern: str, refused: Callable[[OSError], None]) -> list[Path]:
    """What is in a folder under a name of a pattern; nothing where it is no folder."""
    try:
        if "*" in pattern or "[" in pattern:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries if fnmatchcase(entry.name, pattern)]
            return [folder / name for name in names if not name.endswith(PARTIAL)]
        os.stat(folder / pattern)
    except OSError as error:
        if error.errno in REFUSED:
            while not os.access(folder, os.F_OK):  # it is one above that may not be entered
                folder = folder.parent
            refused(OSError(error.errno, error.strerror, str(folder)))
        elif error.errno not in (errno.ENOENT, *MISPLACED):
            raise
        return []
    return [folder / pattern]


def _files(folder: Path) -> list[Path]:
    """All files in a folder, records after what they may name."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(files, key=lambda path: (path.suffix == ".json", path))


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
def whole_file(path: Path, *, durable: bool = True, partial: Path | None = None) -> Iterator[Path]:
    """Where to write what becomes the file at `path`, in place of what was there, when the block ends well.

    That is `partial`, a new name beside it, or one of its own. Folders above it are made. With `durable` its bytes and
    its name are on the disk then, whatever happens to the machine. The name to write to has no suffix of a format.
    OSError where `path` is there and is no file.
    """
    target = _target(path)  # a link to a file goes on leading to it
    if target.exists() and not target.is_file():
        raise FileExistsError(errno.EEXIST, "it is there, and is no file", str(path))
    with unnamed_file(target.parent, durable=durable, partial=partial) as file, _named(path, file.partial):
        file.name = target.name
        yield file.partial


@dataclass
class Unnamed:
    """A file that is being written: where, and the name that it is to have, once that is known."""

    partial: Path
    name: str | None = None


@contextmanager
def unnamed_file(folder: Path, *, durable: bool = True, partial: Path | None = None) -> Iterator[Unnamed]:
    """As `whole_file`, of a file that is named after what was written: the block says how."""
    _target(folder / "new")
    image = image_of(folder / "new")
    durable = durable and image is None  # what is in the bucket is safe
    make_folder(folder, durable=durable)
    file = Unnamed(partial or partial_beside(folder / "new"))
    try:
        yield file
        if file.name is None:
            raise ValueError(f"what was written to {folder} was given no name")
        if durable:
            sync(file.partial)
        if image:
            image.send(folder / file.name, file.partial)
        os.replace(file.partial, folder / file.name)
    finally:
        with suppress(OSError):  # a disk that is only read refuses this too: what it refused first is told
            file.partial.unlink()
    if durable:
        sync(folder)


@contextmanager
def whole_folder(path: Path, *, partial: Path | None = None) -> Iterator[Path]:
    """An empty folder to fill, which becomes that at `path`, in place of what was there, when the block ends well.

    That is `partial`, a new name beside it, or one of its own.
    """
    _target(path.parent / "new")
    make_folder(path.parent)
    partial, old = partial or partial_beside(path), partial_beside(path)
    partial.mkdir()
    try:
        with _named(path, partial):
            yield partial
        for written in partial.iterdir():
            sync(written)
        sync(partial)
        if image := image_of(path):
            for written in _files(partial):
                image.send(path / written.relative_to(partial), written)
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def link_whole(source: Path, target: Path, *, durable: bool = True) -> None:
    """Make `target` the same file as `source`, or a copy where the disk has no links; `durable` as of `whole_file`."""
    if target.exists() and target.samefile(source):
        return
    with whole_file(target, durable=durable) as partial:
        try:
            os.link(source, partial)
        except OSError:
            shutil.copyfile(source, partial)


def is_linked(source: Path, target: Path) -> bool:
    """Whether a file has a new name now, where nothing had it: such a link is whole at once.

    Not where its folder is not there, the disk has no links, or `source` is one itself. Whoever asks knows that neither
    folder leads out of a store.
    """
    try:
        if os.path.islink(source):
            return False
        os.link(source, target)
    except OSError:
        return False
    return True


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


def make_way(path: Path) -> None:
    """Have what is no file away that is in the place of one; OSError for a folder with something in it."""
    if path.is_symlink() or path.is_file():
        return
    if path.is_dir():
        os.rmdir(path)
    else:
        path.unlink(missing_ok=True)


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
