"""Files in, crops out: `likeness align`, with neither a store nor a record.

Not here: alignment itself (`preprocessing.faces`), and anything that a dataset needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from preprocessing.faces import FacesConfig, faces_in_photo
from preprocessing.photo.encode import SUFFIX
from preprocessing.records import Face, Rejection
from preprocessing.reject import Reason
from storage.digest import bytes_digest
from storage.errors import ConfigError
from storage.local import write_whole


@dataclass(frozen=True)
class AlignedFile:
    """What became of one photograph: the crops written of it, and what was rejected."""

    photo: Path
    crops: list[tuple[Path, Face]]
    rejections: list[Rejection]

    def as_json(self) -> dict[str, Any]:
        """With a crop's geometry and scores, without its pixels."""
        crops = [
            {"file": str(path), **asdict(face), "scores": dict(face.scores)} for path, face in self.crops
        ]
        for crop in crops:
            del crop["image"]
        rejections = [
            {"reason": rejection.reason.value, "face_index": rejection.face_index, "detail": rejection.detail}
            for rejection in self.rejections
        ]
        return {"photo": str(self.photo), "crops": crops, "rejections": rejections}

    def lines(self, min_quad_px: int) -> Iterator[str]:
        """One line a crop or rejection."""
        for path, face in self.crops:
            yield f"{path}  from {face.quad_side_px:.0f} px of {self.photo}"
        for rejection in self.rejections:
            hint = f"of {min_quad_px} px or more" if rejection.reason is Reason.NO_FACE else rejection.detail
            yield f"{self.photo}: {rejection.reason.value}{f' ({hint})' if hint else ''}"


def check_align(photos: Sequence[Path], config: FacesConfig) -> None:
    """ConfigError for what is no file, for two photographs of one name, and for a model that is not there."""
    config.identity()  # loads the user's models
    _check_names(photos)


def align_files(photos: Sequence[Path], out: Path, config: FacesConfig) -> Iterator[AlignedFile]:
    """Write every face of every photograph to `out` as NAME-FACE.SUFFIX, largest face first, and yield what was done.

    ConfigError, before anything is written, for what is no file, for two photographs of one name, and for a model that
    is not there; and for a crop that would be written over one of the photographs.
    """
    check_align(photos, config)
    originals = {photo.resolve() for photo in photos}
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be made a folder: {error.strerror}") from error
    for photo in photos:
        try:
            data = photo.read_bytes()
        except OSError as error:
            yield AlignedFile(
                photo, [], [Rejection(str(photo), Reason.UNREADABLE_FILE, detail=error.strerror)]
            )
            continue
        results = faces_in_photo(str(photo), bytes_digest(data), data, config)
        crops = []
        for face in results:
            if isinstance(face, Face):
                path = out / f"{photo.stem}-{face.face_index}.{SUFFIX[config.encode.format]}"
                if path.resolve() in originals:
                    raise ConfigError(f"a crop of {photo} would overwrite {path}: choose another --out")
                try:
                    write_whole(path, face.image)
                except OSError as error:
                    raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
                crops.append((path, replace(face, image=b"")))
        yield AlignedFile(photo, crops, [result for result in results if isinstance(result, Rejection)])


def _check_names(photos: Sequence[Path]) -> None:
    names: dict[str, Path] = {}
    for photo in photos:
        try:
            is_file = photo.is_file()
        except OSError as error:
            raise ConfigError(f"{photo}: {error.strerror}") from error
        if not is_file:
            raise ConfigError(
                f"{photo} is not a file" + (": name the photographs in it" if photo.is_dir() else "")
            )
        if (first := names.setdefault(photo.stem, photo)) is not photo:
            raise ConfigError(
                f"{first} and {photo} would both be written as {photo.stem}-0: align them apart"
            )
