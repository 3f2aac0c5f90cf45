"""Files in, crops out: `likeness align`, with neither a store nor a record.

    for result in workers.map(partial(align_file, config=config), jobs(photos, out)):

Crops lie below `out` as their photographs lie below the folder that holds them all, under the photograph's whole name,
so that no two have one name: `out/2024/party.jpg-0.webp` is the largest face of `2024/party.jpg`. Not here: alignment
itself (`preprocessing.faces`), and anything that a dataset needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from preprocessing.faces import FacesConfig, faces_in_photo
from preprocessing.photo.encode import SUFFIX
from preprocessing.records import Face, Rejection
from preprocessing.reject import Reason
from preprocessing.sources.folder import FolderSource
from storage.digest import bytes_digest
from storage.errors import ConfigError
from storage.local import file_bytes, real_path, write_whole


@dataclass(frozen=True)
class Job:
    """A photograph to align, what its crops are called but for the face's number, and why it cannot be read, if so.

    `photographs` are those that lie where crops go.
    """

    photo: Path
    crop: Path
    problem: str | None
    photographs: tuple[Path, ...]


@dataclass(frozen=True)
class AlignedFile:
    """What became of one photograph: the crops written of it, and what was rejected.

    `problem` says why it was not read, or why a crop of it was not written.
    """

    photo: Path
    crops: list[tuple[Path, Face]]
    rejections: list[Rejection]
    problem: str | None = None

    def as_json(self) -> dict[str, Any]:
        """With a crop's geometry and scores, without its pixels."""
        crops = [
            {"file": printable(path), **asdict(face), "scores": dict(face.scores)}
            for path, face in self.crops
        ]
        for crop in crops:
            del crop["image"]
        rejections = [
            {"reason": rejection.reason.value, "face_index": rejection.face_index, "detail": rejection.detail}
            for rejection in self.rejections
        ]
        return {
            "photo": printable(self.photo),
            "crops": crops,
            "rejections": rejections,
            "problem": self.problem,
        }

    def lines(self, min_quad_px: int) -> Iterator[str]:
        """One line a crop, rejection or problem."""
        photo = printable(self.photo)
        for path, face in self.crops:
            yield f"{printable(path)}  from {face.quad_side_px:.0f} px of {photo}"
        for rejection in self.rejections:
            detail = rejection.detail
            if rejection.reason is Reason.NO_FACE and detail is None:
                detail = f"of {min_quad_px} px or more"
            yield f"{photo}: {rejection.reason.value}{f' ({detail})' if detail else ''}"
        if self.problem is not None:
            yield f"{photo}: {self.problem}"


def check_align(photos: Sequence[Path], out: Path, config: FacesConfig) -> None:
    """ConfigError for a model that is not there, and where crops would lie among the photographs of a folder."""
    config.identity()  # loads the user's models
    for photo in photos:
        if _is_folder(photo) and real_path(photo) == real_path(out):
            raise ConfigError(
                f"--out {out} is a folder of photographs, and its crops would be taken for some"
            )


def jobs(photos: Sequence[Path], out: Path) -> list[Job]:
    """Every photograph that files and folders name, each once; what lies in `out` below a folder is none."""
    inside = _absolute(out)
    found: dict[Path, tuple[Path, str | None]] = {}
    roots = []
    for given in photos:
        photo = _absolute(given)
        if not _is_folder(photo):
            found.setdefault(photo, (given, None))
            roots.append(photo.parent)
            continue
        roots.append(photo)
        paths, unreadable = FolderSource.open(str(photo)).files()
        why = dict.fromkeys(paths) | {
            path: f"cannot be read: {reason}" for path, reason in unreadable.items()
        }
        for path, problem in why.items():
            if not (inside.is_relative_to(photo) and path.is_relative_to(inside)):
                found.setdefault(path, (given / path.relative_to(photo), problem))
    root = os.path.commonpath(roots)
    within = tuple(path for path in found if path.is_relative_to(inside))
    return [
        Job(given, out / path.relative_to(root), problem, within) for path, (given, problem) in found.items()
    ]


def unreadable(found: Sequence[Job]) -> list[AlignedFile]:
    """Those that cannot be read, as aligning would tell them."""
    results = []
    for job in found:
        problem = job.problem
        if problem is None:
            try:
                os.close(os.open(job.photo, os.O_RDONLY | os.O_NONBLOCK))  # a pipe is not waited for
            except OSError as error:
                problem = f"cannot be read: {error.strerror}"
        if problem is not None:
            results.append(AlignedFile(job.photo, [], [], problem))
    return results


def align_file(job: Job, config: FacesConfig) -> AlignedFile:
    """Write every face of a photograph, the largest first; nothing that is wrong with it is an exception."""
    if job.problem is not None:
        return AlignedFile(job.photo, [], [], job.problem)
    try:
        data = file_bytes(job.photo)
    except OSError as error:
        return AlignedFile(job.photo, [], [], f"cannot be read: {error.strerror}")
    results = faces_in_photo(printable(job.photo), bytes_digest(data), data, config)
    rejections = [result for result in results if isinstance(result, Rejection)]
    crops: list[tuple[Path, Face]] = []
    for face in results:
        if isinstance(face, Face):
            path = job.crop.with_name(f"{job.crop.name}-{face.face_index}.{SUFFIX[config.encode.format]}")
            try:
                if _absolute(path) in job.photographs:
                    raise FileExistsError(0, "it is one of the photographs")
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, face.image)
            except OSError as error:
                problem = f"{printable(path)} cannot be written: {error.strerror}"
                return AlignedFile(job.photo, crops, rejections, problem)
            crops.append((path, replace(face, image=b"")))
    return AlignedFile(job.photo, crops, rejections)


def printable(path: Path) -> str:
    """A path as text that can be shown: bytes that are no UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
