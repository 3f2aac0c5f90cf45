"""Croissant 1.1: a plain folder, and a JSON-LD that tells programs what its files and columns are, and where from.

    croissant.json
    facts.parquet                  a row an image, the column `file_name` its name
    images/00000/00000000.png

`mlcroissant` validates it and loads records and pixels by it. Not here: facts that only the whole row has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import IntegrityError
from storage.exports import folder
from storage.exports.archive import MOST_JSON_BYTES, Archive, Described, described
from storage.exports.huggingface import FACTS, facts_file, facts_schema
from storage.exports.pictures import Job, facts_of, licences_of
from storage.exports.sinks import Sink
from storage.records import json_object
from storage.wording import numbered

CARD = "croissant.json"
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "prov": "http://www.w3.org/ns/prov#",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
READ = ("png", "jpg")
"""What `mlcroissant` decodes; a WebP becomes a PNG of the same pixels."""
BARE_NAME = "image_name"
"""The last column: a file's name without its folder, by which `mlcroissant` joins pixels to facts."""
TYPES = {"string": "sc:Text", "int32": "sc:Integer", "int64": "sc:Integer", "double": "sc:Float"}
"""Columns of other types, such as points, are in the Parquet alone."""


def write(job: Job, sink: Sink) -> None:
    """All images, their facts, and what describes them."""
    schema, suffixes = facts_schema(job).append(pa.field(BARE_NAME, pa.string())), set()
    with facts_file(sink, FACTS, schema, "file_name") as add_facts:
        for name, row in folder.write_images(job, sink, READ):
            suffixes.add(name.rpartition(".")[2])
            add_facts(name, facts_of(row) | {BARE_NAME: name.rpartition("/")[2]})
    about = card(job, schema, sink.sums[FACTS], suffixes)
    sink.add(CARD, (json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode())


def card(job: Job, schema: pa.Schema, facts_sha256: str, suffixes: set[str]) -> dict[str, Any]:
    """The JSON-LD."""
    dataset = job.dataset
    links = [row["license_url"] or row["license"] for row in licences_of(dataset)]
    texts = [pa.field("file_name", pa.string()), *schema]
    fields = [_field(column.name, TYPES[str(column.type)]) for column in texts if str(column.type) in TYPES]
    fields[-1]["references"] = {"fileSet": {"@id": "images"}, "extract": {"fileProperty": "filename"}}
    image = {
        "@type": "cr:Field",
        "@id": "faces/image",
        "name": "image",
        "dataType": "sc:ImageObject",
        "source": {"fileSet": {"@id": "images"}, "extract": {"fileProperty": "content"}},
    }
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": dataset.name,
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "description": f"{numbered(dataset.num_images, 'aligned face')} of {job.resolution} px: {dataset.reference}.",
        "citeAs": f"{dataset.reference}; its photographs are by those whom ATTRIBUTION.txt names",
        "version": f"1.0.0+{dataset.version}",
        "license": sorted({link for link in links if link}) or "not said",
        "url": f"urn:sha256:{dataset.manifest_sha256}",
        "prov:wasDerivedFrom": {"@id": f"urn:sha256:{dataset.manifest_sha256}"},
        "prov:wasGeneratedBy": {"@type": "prov:Activity", "name": "likeness export-dataset"},
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "facts",
                "name": "facts",
                "contentUrl": FACTS,
                "encodingFormat": "application/x-parquet",
                "sha256": facts_sha256,
            },
            {
                "@type": "cr:FileSet",
                "@id": "images",
                "name": "images",
                "encodingFormat": f"image/{'jpeg' if 'jpg' in suffixes else min(suffixes)}",
                "includes": [f"images/*/*.{suffix}" for suffix in sorted(suffixes)],
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "faces",
                "name": "faces",
                "key": {"@id": "faces/file_name"},
                "field": [*fields, image],
            }
        ],
    }


def _field(name: str, kind: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"faces/{name}",
        "name": name,
        "dataType": kind,
        "source": {"fileObject": {"@id": "facts"}, "extract": {"column": name}},
    }


def is_one(archive: Archive) -> bool:
    """Whether it is in this layout."""
    return CARD in archive.files or "metadata.json" in archive.files


def read(archive: Archive) -> Iterator[Described]:
    """Every image of the folder, with the row that the table beside the JSON-LD has for its name."""
    name = CARD if CARD in archive.files else "metadata.json"
    about = json_object(archive.read(name, MOST_JSON_BYTES), f"{archive.path}: {name}")
    rows: dict[str, dict[str, Any]] = {}
    for table in _tables(about):
        if table in archive.files:
            rows |= _rows(archive, table)
    for image in folder.images_of(archive):
        yield described(image, rows.get(image, {}))


def _tables(about: dict[str, Any]) -> Iterator[str]:
    """The files of Parquet that it names."""
    there = about.get("distribution")
    for one in there if isinstance(there, list) else ():
        url = one.get("contentUrl") if isinstance(one, dict) else None
        if isinstance(url, str) and url.endswith(".parquet"):
            yield url


def _rows(archive: Archive, name: str) -> dict[str, dict[str, Any]]:
    try:
        table = pq.read_table(pa.BufferReader(archive.read(name, MOST_JSON_BYTES)), use_threads=False)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(f"{archive.path}: {name} cannot be read as Parquet: {error}") from error
    if "file_name" not in table.column_names:
        return {}
    return {row["file_name"]: row for row in table.to_pylist() if isinstance(row["file_name"], str)}
