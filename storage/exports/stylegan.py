"""StyleGAN's ZIP, as its `dataset_tool.py` writes it: square PNGs, stored without compression, and their labels.

    faces.zip: 00000/img00000000.png   dataset.json   metadata.jsonl

`dataset.json` holds {"labels": [[name, number], ...]}, or null. `metadata.jsonl`, which that reader passes over, says
where each image comes from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from storage.exports import folder
from storage.exports.archive import MOST_JSON_BYTES, Archive, Described
from storage.exports.pictures import Job, facts_of
from storage.exports.sinks import Sink
from storage.records import json_object
from storage.tables import Row

LABELS = "dataset.json"


def write(job: Job, sink: Sink) -> None:
    """All images, their labels and their facts."""
    labels: list[tuple[str, int]] = []

    def made(row: Row, stored: bytes) -> tuple[Row, bytes]:
        return row, job.as_png(stored)[0]

    with sink.growing(folder.METADATA) as file:
        for number, (row, data) in enumerate(job.each(made)):
            name = f"{number // 1000:05d}/img{number:08d}.png"
            sink.add(name, data)
            folder.write_row(file, name, facts_of(row))
            if job.label is not None and job.labels is not None:
                labels.append((name, job.labels[row[job.label]]))
    sink.add(LABELS, json.dumps({"labels": None if job.labels is None else labels}).encode())


def is_one(archive: Archive) -> bool:
    """Whether it is in this layout."""
    return LABELS in archive.files


def read(archive: Archive) -> Iterator[Described]:
    """Every image, with its label and what the file of ours says of it."""
    said = json_object(archive.read(LABELS, MOST_JSON_BYTES), f"{archive.path}: {LABELS}").get("labels")
    labels = {}
    for pair in said if isinstance(said, list) else ():
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str):
            labels[pair[0]] = pair[1]
    for described in folder.read(archive):
        if described.name in labels:
            described.said["label"] = labels[described.name]
        yield described
