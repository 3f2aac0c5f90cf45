"""What people said of faces: verdicts, a JSONL that `likeness review` writes and a build takes as a rule.

    {"image": SHA256, "photo": SHA256, "face_index": 0, "verdict": "refuse", "reviewer": "Ann", "reason": "a statue"}

A verdict is of an image, by its digest; where a crop has other bytes, since code or settings have changed, of that face
of that photograph. Of several of one face the last counts. Not here: the page (`flows.pages.review`), and what becomes
of the faces (`preprocessing.curation.choose`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from storage.digest import json_digest
from storage.errors import ConfigError
from storage.local import check_file

SHA256 = "^[0-9a-f]{64}$"


class Verdict(BaseModel):
    """What one person said of one face; whatever else a row says is ignored."""

    model_config = ConfigDict(frozen=True)

    image: str = Field(pattern=SHA256)
    photo: str | None = Field(None, pattern=SHA256)
    face_index: int | None = Field(None, ge=0)
    verdict: Literal["keep", "refuse"]
    reviewer: str | None = None
    reason: str | None = None

    @property
    def detail(self) -> str | None:
        """Why, and by whom."""
        by = None if self.reviewer is None else f"by {self.reviewer}"
        return ", ".join(part for part in (self.reason, by) if part) or None


@dataclass(frozen=True)
class Verdicts:
    """The verdicts that count: by image, and by photograph and face."""

    by_image: dict[str, Verdict]
    by_face: dict[tuple[str, int], Verdict]

    def of(self, image: str, photo: str, face_index: int) -> Verdict | None:
        """What was said of a face; None where nothing was."""
        return self.by_image.get(image) or self.by_face.get((photo, face_index))

    @property
    def digest(self) -> str:
        """The same for the same verdicts, in whatever order they stand."""
        said = {**self.by_image, **{f"{photo} {index}": one for (photo, index), one in self.by_face.items()}}
        return json_digest({key: [one.verdict, one.detail] for key, one in said.items()})


NO_VERDICTS = Verdicts({}, {})


def read_verdicts(path: Path | None) -> Verdicts:
    """The verdicts of a file; ConfigError where it cannot be read, or a row is none."""
    if path is None:
        return NO_VERDICTS
    path = path.expanduser()
    try:
        check_file(path)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} (curate.reviews) cannot be read: {error}") from error
    by_image: dict[str, Verdict] = {}
    by_face: dict[tuple[str, int], Verdict] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
            verdict = Verdict.model_validate(row)
        except (ValueError, RecursionError) as error:
            what = error.errors()[0] if isinstance(error, ValidationError) else None
            why = f"{'.'.join(map(str, what['loc']))}: {what['msg']}" if what else "it is no JSON"
            raise ConfigError(f"{path}:{number} (curate.reviews) is no verdict: {why}") from error
        by_image[verdict.image] = verdict
        if verdict.photo is not None and verdict.face_index is not None:
            by_face[verdict.photo, verdict.face_index] = verdict
    return Verdicts(by_image, by_face)
