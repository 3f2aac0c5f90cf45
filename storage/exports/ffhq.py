"""FFHQ's own layout: folders of a thousand PNGs, and one JSON with a record of each.

    ffhq-dataset-v2.json
    images1024x1024/00000/00000.png

The keys are those of the dataset's README. What is not known here is null, or left out: there are no thumbnails, no
copies of photographs, no country and no dates. `origin`, which FFHQ does not have, leads back to the photograph.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from storage.exports.archive import MOST_JSON_BYTES, Archive, Described, as_said, landmarks_in_crop
from storage.exports.pictures import ORIGIN, Job, address_of
from storage.exports.sinks import Sink
from storage.records import json_object
from storage.tables import Row

METADATA = "ffhq-dataset-v2.json"
PAGE_KEYS = ("photo_url", "photo_title", "author", "license", "license_url")
CATEGORIES = {"train": "training", "val": "validation", "test": "validation"}
IN_FOLDER = 1000


def write(job: Job, sink: Sink) -> None:
    """All images and the JSON."""
    side = job.resolution

    def made(row: Row, stored: bytes) -> tuple[bytes, dict[str, Any]]:
        data, image = job.as_png(stored)
        about: dict[str, Any] = {
            "file_url": None,
            "file_path": None,
            "file_size": len(data),
            "file_md5": _md5(data),
            "pixel_size": [side, side],
            "pixel_md5": _md5(image.tobytes()),
        }
        if landmarks := landmarks_in_crop(row, side):
            about["face_landmarks"] = landmarks
        return data, record_of(row, about)

    with sink.growing(METADATA) as file:
        for number, (data, record) in enumerate(job.each(made)):
            name = f"images{side}x{side}/{number - number % IN_FOLDER:05d}/{number:05d}.png"
            sink.add(name, data)
            record["image"]["file_path"] = name
            text = json.dumps(record, ensure_ascii=False, separators=(", ", ": "))
            file.write(f'{"{" if number == 0 else ","}\n"{number}": {text}'.encode())
        file.write(b"\n}\n")


def record_of(row: Row, image: dict[str, Any]) -> dict[str, Any]:
    """What the JSON has of one image."""
    ref = row["ref"] or ""
    wild = {
        "file_url": ref if ref.startswith(("https://", "http://")) else None,
        "file_path": None,
        "file_size": row.get("photo_num_bytes"),
        "file_md5": None,
        "pixel_size": _pair(row.get("photo_width_px"), row.get("photo_height_px")),
        "face_rect": None if row.get("box_px") is None else [round(edge) for edge in row["box_px"]],
        "face_landmarks": row.get("landmarks_px"),
        "face_quad": row.get("quad_px"),
    }
    return {
        "category": CATEGORIES.get(row.get("split") or "train", "validation"),
        "metadata": {
            "photo_url": address_of(row),
            "photo_title": row["title"],
            "author": row["author"],
            "country": None,
            "license": row["license"],
            "license_url": row["license_url"],
            "date_uploaded": None,
            "date_crawled": None,
        },
        "image": image,
        "in_the_wild": {name: value for name, value in wild.items() if value is not None},
        "origin": {name: row.get(name) for name in ("key", "image_sha256", "page", "split", *ORIGIN)},
    }


def is_one(archive: Archive) -> bool:
    """Whether it is in this layout."""
    return _metadata(archive) is not None


def read(archive: Archive) -> Iterator[Described]:
    """Every image that the JSON names, the thumbnail where only that is there."""
    name = _metadata(archive)
    assert name is not None
    where = f"{archive.path}: {name}"
    records = json_object(archive.read(name, MOST_JSON_BYTES), where)
    folder = name.removesuffix(METADATA)
    for number, record in records.items():
        at = f"{name}:{number}"
        if not isinstance(record, dict):
            yield Described(at, problem=("bad_metadata", "it is no JSON object"))
            continue
        yield _described(archive, folder, at, record)


def _described(archive: Archive, folder: str, at: str, record: dict[str, Any]) -> Described:
    page, origin, wild = (_object(record, key) for key in ("metadata", "origin", "in_the_wild"))
    images = [_object(record, key) for key in ("image", "thumbnail")]
    named = [image for image in images if isinstance(image.get("file_path"), str)]
    if not named:
        return Described(at, problem=("bad_metadata", "it names no file_path"))
    there = [image for image in named if folder + image["file_path"] in archive.files]
    image = (there or named)[0]
    url, title, author, license_, license_url = (page.get(key) or None for key in PAGE_KEYS)
    facts = {"page": url, "title": title, "author": author, "license": license_, "license_url": license_url}
    md5 = image.get("file_md5")
    said = {key: value for key, value in page.items() if key not in PAGE_KEYS and value}
    if wild := {key: value for key, value in wild.items() if key not in ("face_landmarks",) and value}:
        said["in_the_wild"] = wild
    said |= {key: value for key, value in origin.items() if key != "page" and value is not None}
    if isinstance(record.get("category"), str):
        said["category"] = record["category"]
    size = image.get("pixel_size")
    said |= as_said(image.get("face_landmarks"), size[0] if isinstance(size, list) and size else None)
    if isinstance(md5, str) and re.fullmatch("[0-9a-f]{32}", md5):
        said["file_md5"] = md5
    return Described(folder + image["file_path"], facts, said)


def _metadata(archive: Archive) -> str | None:
    names = [name for name in archive.files if name.rpartition("/")[2] == METADATA]
    return min(names, key=len, default=None)


def _object(record: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = record.get(key)
    return found if isinstance(found, dict) else {}


def _pair(*values: int | None) -> Sequence[int] | None:
    return None if None in values else [int(value or 0) for value in values]


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
