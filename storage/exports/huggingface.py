"""A repository of Hugging Face: webdataset shards, one Parquet of all facts, and a card that says how both are loaded.

    README.md
    data/train-00000.tar           0123456789abcdef.webp and .json, an image and its facts
    facts.parquet                  a row an image; the column `file` says where it is

`datasets.load_dataset` takes the folder as it is. Not here: uploading.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import IntegrityError, SourceError
from storage.exports.archive import (
    IMAGES,
    Archive,
    Described,
    Listed,
    TarArchive,
    described,
)
from storage.exports.pictures import NOT_EXPORTED, Job, facts_of, licences_of
from storage.exports.sinks import Sink
from storage.records import json_object
from storage.tables import BATCH_ROWS, Row
from storage.wording import numbered

CARD, FACTS = "README.md", "facts.parquet"
IN_SHARD = 1000
MOST_ROW_BYTES = 1 << 20
LICENSES = {
    "CC0-1.0": "cc0-1.0",
    "CC-BY-2.0": "cc-by-2.0",
    "CC-BY-2.5": "cc-by-2.5",
    "CC-BY-3.0": "cc-by-3.0",
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-SA-3.0": "cc-by-sa-3.0",
    "CC-BY-SA-4.0": "cc-by-sa-4.0",
    "CC-BY-NC-2.0": "cc-by-nc-2.0",
    "CC-BY-NC-3.0": "cc-by-nc-3.0",
    "CC-BY-NC-4.0": "cc-by-nc-4.0",
    "CC-BY-NC-SA-2.0": "cc-by-nc-sa-2.0",
    "CC-BY-NC-SA-3.0": "cc-by-nc-sa-3.0",
    "CC-BY-NC-SA-4.0": "cc-by-nc-sa-4.0",
}
"""As Hugging Face calls them; any other is `other`."""
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write(job: Job, sink: Sink) -> None:
    """All images, their facts and the card."""
    schema = facts_schema(job)
    shards: dict[str, _Shard] = {}
    counts: dict[str, int] = {}
    suffixes: set[str] = set()

    def made(row: Row, stored: bytes) -> tuple[Row, bytes, str]:
        return row, *job.as_file(stored)

    with facts_file(sink, FACTS, schema, "file") as add_facts:
        for row, data, suffix in job.each(made):
            split = row.get("split") or "train"
            number = counts.get(split, 0)
            counts[split] = number + 1
            suffixes.add(suffix)
            name = f"data/{split}-{number // IN_SHARD:05d}.tar"
            if split in shards and shards[split].name != name:
                shards.pop(split).close(sink)
            shard = shards.setdefault(split, _Shard(name))
            facts = facts_of(row)
            shard.add(f"{row['key']}.{suffix}", data)
            shard.add(f"{row['key']}.json", json.dumps(facts, ensure_ascii=False, sort_keys=True).encode())
            add_facts(f"{name}/{row['key']}.{suffix}", facts)
        for _, shard in sorted(shards.items()):
            shard.close(sink)
    sink.add(CARD, card(job, counts, sorted(suffixes), schema).encode())


class _Shard:
    """A tar that is being written, in memory: some 1,000 images."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(self, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))

    def close(self, sink: Sink) -> None:
        self._tar.close()
        sink.add(self.name, self._buffer.getvalue())


@contextmanager
def facts_file(sink: Sink, name: str, schema: pa.Schema, place: str) -> Iterator[Callable[[str, Row], None]]:
    """Takes images' facts as a Parquet file of an export, beside the column `place`, which says where each is."""
    schema = pa.schema([pa.field(place, pa.string()), *schema])
    rows: list[Row] = []
    with sink.growing(name) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:

        def write() -> None:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            rows.clear()

        def add(where: str, facts: Row) -> None:
            rows.append({place: where, **facts})
            if len(rows) == BATCH_ROWS:
                write()

        yield add
        write()


def facts_schema(job: Job) -> pa.Schema:
    """The columns that are handed on."""
    schema = job.dataset.table("images").schema
    return pa.schema([field for field in schema if field.name not in NOT_EXPORTED])


def card(job: Job, counts: Mapping[str, int], suffixes: list[str], schema: pa.Schema) -> str:
    """The card: YAML that Hugging Face reads, then a text for people."""
    num_images = sum(counts.values())
    files = [
        line for split in counts for line in (f"  - split: {_split(split)}", f"    path: data/{split}-*.tar")
    ]
    features = [
        *(line for suffix in suffixes for line in (f"  - name: {suffix}", "    dtype: image")),
        "  - name: json",
        "    struct:",
        *(line for field in schema for line in _feature(field.name, field.type, "    ")),
        "  - name: __key__",
        "    dtype: string",
        "  - name: __url__",
        "    dtype: string",
    ]
    size = next((name for limit, name in SIZES if num_images < limit), "n>1M")
    yaml = [
        "---",
        f"pretty_name: {job.dataset.name}",
        *_licence_lines(job),
        "task_categories:",
        "- unconditional-image-generation",
        "tags:",
        "- faces",
        "- webdataset",
        "size_categories:",
        f"- {size}",
        "configs:",
        "- config_name: default",
        "  data_files:",
        *files,
        "dataset_info:",
        "  config_name: default",
        "  features:",
        *features,
        "---",
    ]
    licences = (f"- {row['license'] or 'not said'}: {row['ref_count']}" for row in licences_of(job.dataset))
    text = [
        "",
        f"# {job.dataset.name}",
        "",
        f"{numbered(num_images, 'aligned face')} of {job.resolution} px: `{job.dataset.reference}`, made by likeness.",
        "",
        "Each image is under the licence of the photograph that it was cut from. `ATTRIBUTION.txt` names author, page",
        "and licence of each photograph; `json` and `facts.parquet` name them for each image. Images by licence:",
        "",
        *licences,
        "",
        "```python",
        "from datasets import load_dataset",
        'images = load_dataset("PATH", split="train")',
        "```",
        "",
    ]
    return "\n".join([*yaml, *text])


def _split(name: str) -> str:
    return {"val": "validation"}.get(name, name)


def _licence_lines(job: Job) -> list[str]:
    found = {row["license"] for row in licences_of(job.dataset)}
    if len(found) == 1 and (known := LICENSES.get(next(iter(found)) or "")):
        return [f"license: {known}"]
    return ["license: other", "license_name: of-each-image", "license_link: LICENSES.txt"]


def _feature(name: str, kind: pa.DataType, indent: str) -> Iterator[str]:
    yield f"{indent}- name: {name}"
    if pa.types.is_list(kind):
        yield from _list(kind.value_type, f"{indent}  ")
    else:
        yield f"{indent}  dtype: {_dtype(kind)}"


def _list(kind: pa.DataType, indent: str) -> Iterator[str]:
    if pa.types.is_list(kind):
        yield f"{indent}list:"
        yield from _list(kind.value_type, f"{indent}  ")
    else:
        yield f"{indent}list: {_dtype(kind)}"


def _dtype(kind: pa.DataType) -> str:
    return {"double": "float64", "float": "float32"}.get(str(kind), str(kind))


class Shards(Archive):
    """A folder of such shards as one archive: `data/train-00000.tar/0123456789abcdef.webp` is a file in it."""

    def __init__(self, folder: Archive) -> None:
        super().__init__(folder.path)
        self._folder = folder
        self._tars: dict[str, TarArchive] = {}

    def _opened(self, name: str) -> BinaryIO:
        tar = name[: name.index(".tar/") + len(".tar")]
        return self._tars[tar]._opened(name[len(tar) + 1 :])

    def _list(self) -> Listed:
        files: dict[str, int] = {}
        refused = dict(self._folder.refused)
        for tar in tars_of(self._folder):
            shard = TarArchive(self.path / tar)
            try:
                files |= {f"{tar}/{name}": size for name, size in shard.files.items()}
            except SourceError as error:
                refused[tar] = ("unreadable_file", str(error).rpartition(": ")[2])
            else:
                refused |= {f"{tar}/{name}": problem for name, problem in shard.refused.items()}
                self._tars[tar] = shard
        return files, refused


def tars_of(archive: Archive) -> list[str]:
    """The names of its shards, sorted."""
    return sorted(name for name in archive.files if name.endswith(".tar") and ".tar/" not in name)


def is_one(archive: Archive) -> bool:
    """Whether it is in this layout."""
    return archive.path.is_dir() and bool(tars_of(archive))


def read(archive: Archive) -> Iterator[Described]:
    """Every image of the shards, with the JSON of its sample."""
    files = archive.files
    for name in sorted(name for name in files if name.lower().endswith(IMAGES)):
        beside = f"{name.rpartition('.')[0]}.json"
        try:
            row = json_object(archive.read(beside, MOST_ROW_BYTES), beside) if beside in files else {}
        except (IntegrityError, SourceError) as error:
            yield Described(name, problem=("bad_metadata", str(error)))
        else:
            yield described(name, row)
