"""Other people's folders, ZIPs and tars, read as what they are: strangers' files.

    with open_archive(Path("faces.zip")) as archive: archive.read("00000/img00000000.png", 1 << 26)

Only what the archive itself lists is ever read, so that no name that a JSON gives leads anywhere else. A name that
leads out, one that is there twice, a link, a device, and a file that is larger than an image can be are refused, and
counted. Nothing is unpacked to the disk. Not here: what the files mean.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import stat
import sys
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeGuard, cast

from storage.digest import file_digest
from storage.errors import SourceError

IMAGES = (".png", ".webp", ".jpg", ".jpeg")
MOST_IMAGE_BYTES = 1 << 26
"""More than a PNG of 1,024 px takes without compression, sixteen times over."""
MOST_JSON_BYTES = 1 << 30
"""FFHQ's own has 255 MB."""
PAGE = ("page", "author", "license", "license_url", "title")
NOT_SAID = (*PAGE, "file_name", "landmarks_px", "box_px")

LANDMARKS = "landmarks_in_sides"
"""What an image's landmarks are called in what is said of it: shares of its side, where its row may have others."""
NUM_LANDMARKS = 68
BLOCK = 1 << 20
UNREADABLE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, NotImplementedError, RuntimeError,
)  # fmt: skip
"""What the standard library raises of a damaged file, a ZIP of an unknown kind among them."""
TWICE = ("bad_metadata", "its name is there twice")

Problem = tuple[str, str]
"""A reason, as `preprocessing.reject` has them, and what is wrong."""


@dataclass(frozen=True)
class Described:
    """One image by its name in the archive; what is said of its photograph; whatever else is said."""

    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    said: dict[str, Any] = field(default_factory=dict)
    problem: Problem | None = None


def described(name: str, row: Mapping[str, Any]) -> Described:
    """An image and a row about it, by the names of our own columns."""
    facts = {key: row.get(key) for key in PAGE}
    said = {key: value for key, value in row.items() if key not in NOT_SAID and value is not None}
    try:
        points = landmarks_in_crop(row, 1)
    except (
        TypeError,
        ValueError,
        IndexError,
        ZeroDivisionError,
        OverflowError,
    ):  # as no export of ours has them
        points = None
    return Described(name, facts, said | as_said(points, 1))


def landmarks_in_crop(row: Mapping[str, Any], side: int) -> list[list[float]] | None:
    """The landmarks in pixels of the crop, which its quad leads to; None where either is not known."""
    quad, points = row.get("quad_px"), row.get("landmarks_px")
    if not quad or not points:
        return None
    (x0, y0), down, _, across = quad
    found = []
    for x, y in points:
        along = [
            ((x - x0) * (corner[0] - x0) + (y - y0) * (corner[1] - y0))
            / ((corner[0] - x0) ** 2 + (corner[1] - y0) ** 2)
            for corner in (across, down)
        ]
        found.append([part * side - 0.5 for part in along])
    return found


def as_said(points: Any, side: Any) -> dict[str, Any]:
    """Landmarks in pixels of an image as shares of its side, so that an image of any size has them; or nothing."""
    try:
        shares = [[round((float(part) + 0.5) / side, 6) for part in point] for point in points]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return {}
    return {LANDMARKS: shares} if are_landmarks(shares) else {}


def are_landmarks(found: object) -> TypeGuard[list[list[float]]]:
    """Whether these are as many points as a face has, each of two finite numbers."""
    return (
        isinstance(found, list)
        and len(found) == NUM_LANDMARKS
        and all(isinstance(point, list) and len(point) == 2 for point in found)
        and all(is_finite(part) for point in found for part in point)
    )


def is_finite(found: object) -> bool:
    """Whether a value of JSON is a number that a float holds: whole ones may be of any length there."""
    return isinstance(found, int | float) and not isinstance(found, bool) and abs(found) <= sys.float_info.max


Listed = tuple[dict[str, int], dict[str, Problem]]


class Archive(ABC):
    """A folder or a file that holds files, listed when it is first asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def files(self) -> Mapping[str, int]:
        """Every file that can be read: its POSIX path in the archive, and its size in bytes."""
        return self._listed[0]

    @property
    def refused(self) -> Mapping[str, Problem]:
        """Every other entry."""
        return self._listed[1]

    def read(self, name: str, most: int) -> bytes:
        """The bytes of a file of `files`; SourceError where it cannot be read, or is larger than `most`."""
        size = self.files.get(name, 0)
        if size > most:
            raise SourceError(f"{self.path}: {name} has {size} bytes, and {most} are read at most")
        with self._readable(name) as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise SourceError(f"{self.path}: {name} has more bytes than it says, and {most} are read at most")
        return data

    def digest(self, name: str) -> str:
        """The sha256 of a file of `files`, whatever its size; SourceError where it cannot be read."""
        digest = hashlib.sha256()
        with self._readable(name) as file:
            while block := file.read(BLOCK):
                digest.update(block)
        return digest.hexdigest()

    @contextmanager
    def _readable(self, name: str) -> Iterator[BinaryIO]:
        if name not in self.files:
            raise SourceError(f"{self.path}: {_printable(name)} is not there")
        try:
            with self._opened(name) as file:
                yield file
        except UNREADABLE as error:
            why = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise SourceError(f"{self.path}: {name} cannot be read: {why}") from error

    @cached_property
    def _listed(self) -> Listed:
        return self._list()

    @abstractmethod
    def _list(self) -> Listed:
        """What it holds, and what of it is refused; SourceError where it cannot be listed."""

    @abstractmethod
    def _opened(self, name: str) -> BinaryIO:
        """A file that was listed."""


class FolderArchive(Archive):
    """A folder; links in it are not followed."""

    def _opened(self, name: str) -> BinaryIO:
        return open(os.open(self.path / name, os.O_RDONLY | os.O_NOFOLLOW), "rb")

    def _list(self) -> Listed:
        files: dict[str, int] = {}
        refused: dict[str, Problem] = {}
        waiting = [self.path]
        while waiting:
            folder = waiting.pop()
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                if folder == self.path:
                    raise SourceError(f"{self.path} cannot be read: {error.strerror}") from error
                refused[_name(folder, self.path)] = ("unreadable_file", type(error).__name__)
                continue
            for entry in entries:
                name = _name(Path(entry.path), self.path)
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    refused[name] = ("unreadable_file", "it is a link")
                elif entry.is_dir():
                    waiting.append(Path(entry.path))
                elif not entry.is_file() or not _is_text(entry.name):
                    refused[name] = ("unreadable_file", "it is no file, or its name is no text")
                else:
                    files[name] = entry.stat().st_size
        return files, refused


class ZipArchive(Archive):
    """A ZIP, of which nothing is unpacked."""

    def _opened(self, name: str) -> BinaryIO:
        return cast(BinaryIO, self._zip.open(self._entries[name]))

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except UNREADABLE as error:
            raise SourceError(f"{self.path} cannot be read as a ZIP: {error}") from error

    @cached_property
    def _entries(self) -> dict[str, zipfile.ZipInfo]:
        """The first entry of each name."""
        return {info.filename: info for info in reversed(self._zip.infolist())}

    def _list(self) -> Listed:
        files: dict[str, int] = {}
        refused: dict[str, Problem] = {}
        for info in self._zip.infolist():
            name, kind = info.filename, stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                continue
            if problem := problem_of_name(name):
                refused[_printable(name)] = problem
            elif kind not in (0, stat.S_IFREG):
                refused[name] = ("unreadable_file", "it is a link, or no file")
            elif info.flag_bits & 1:
                refused[name] = ("unreadable_file", "it is encrypted")
            elif name in files:
                refused[f"{name}#{info.header_offset}"] = TWICE
            else:
                files[name] = info.file_size
        return files, refused


class TarArchive(Archive):
    """A tar without compression, of which nothing is unpacked."""

    def _opened(self, name: str) -> BinaryIO:
        with self.path.open("rb") as file:
            file.seek(self._offsets[name])
            data = file.read(self.files[name])
        if len(data) < self.files[name]:
            raise EOFError("it is cut off")
        return io.BytesIO(data)

    @cached_property
    def _offsets(self) -> dict[str, int]:
        return {}

    def _list(self) -> Listed:
        files: dict[str, int] = {}
        refused: dict[str, Problem] = {}
        try:
            with tarfile.open(self.path, "r:") as tar:
                for member in tar:
                    name = member.name
                    if member.isdir():
                        continue
                    if problem := problem_of_name(name):
                        refused[_printable(name)] = problem
                    elif not member.isreg() or member.issparse():
                        refused[name] = ("unreadable_file", "it is a link, or no plain file")
                    elif name in files:
                        refused[f"{name}#{member.offset}"] = TWICE
                    else:
                        files[name], self._offsets[name] = member.size, member.offset_data
        except (tarfile.TarError, *UNREADABLE) as error:
            raise SourceError(f"{self.path} cannot be read as a tar: {error}") from error
        return files, refused


def open_archive(path: Path) -> Archive:
    """The folder or the ZIP at `path`; SourceError where there is none."""
    if path.is_dir():
        return FolderArchive(path)
    if not path.is_file():
        raise SourceError(f"{path} is not there" if not path.exists() else f"{path} is no file and no folder")
    return ZipArchive(path)


def digest_of(archive: Archive, names: Iterator[str]) -> str:
    """What an archive is known by: the sha256 of a ZIP, of a folder that of the first of `names` that it has."""
    if archive.path.is_file():
        return file_digest(archive.path)
    name = next(name for name in names if name in archive.files)
    return file_digest(archive.path / name)


def problem_of_name(name: str) -> Problem | None:
    """Why a name is refused; None where it names something in the archive."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name.partition("/")[0]:
        return ("unreadable_file", "its name leads out of the archive")
    if not name.isprintable() or not _is_text(name) or str(path) != name:
        return ("unreadable_file", "its name is no plain path")
    return None


def _name(path: Path, root: Path) -> str:
    return _printable(path.relative_to(root).as_posix())


def _printable(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace") if not _is_text(name) else repr(name)[1:-1]


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
