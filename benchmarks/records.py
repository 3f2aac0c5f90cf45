"""What records cost, apart from pixels: reuse of what was aligned, a build's memory, a question to a version,
and what differs between two.

    python benchmarks/records.py [--faces 80000] [--most 1000000] [--parts reuse memory trace open diff forget]
        [--versions 10] [--bare]
    python benchmarks/records.py publish [--faces 1000000]

`--parts` may have duplicates too: the search among random PDQ hashes. `publish` measures the stage of that name alone,
of so many images and a quarter as many rejections.

Photographs, faces and crops are drawn by lot: no pixel is decoded, and a crop is a few bytes. The stages are those of
a build, but for workers that write chunks of such faces. Each line is measured in a process of its own; seconds are of
CPU, and memory is the largest that the process held, above what it held before. Stores go to a temporary folder (about
1.5 kB a face).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import flows.build
from flows.build import run_with, timed
from flows.forget import forget
from flows.options import BuildOptions
from flows.pages.report import write_report
from flows.stages.align import Aligned, align
from flows.stages.crawl import Crawled, crawl
from flows.stages.curate import curate
from flows.stages.publish import publish
from flows.stages.shard import Sharded, shard
from flows.stages.work import Context, Progress
from preprocessing.asked import Asked
from preprocessing.columns import (
    FACE_FIELDS,
    IMAGE_SCHEMA,
    ITEM_SCHEMA,
    PHOTO_SCHEMA,
    REJECTED_SCHEMA,
    REJECTION_SCHEMA,
)
from preprocessing.config import BuildConfig
from preprocessing.crawl.ledger import Ledger
from preprocessing.crawl.rows import KEPT, PARTITIONS, Entry, timestamp
from preprocessing.crawl.standing import Rule
from preprocessing.crawl.urls import host_of, web_address
from preprocessing.curation.choose import columns_to_judge
from preprocessing.curation.duplicates import group_hashes
from preprocessing.forgetting import find
from preprocessing.records import SOURCE_COLUMNS
from storage import shards
from storage.cut import keys_of, leaves
from storage.datasets import manifest
from storage.datasets.dataset import all_versions
from storage.datasets.diff import diff
from storage.datasets.lookup import write_lookup
from storage.digest import bytes_digest, file_digest, json_digest
from storage.gathered import Gathered
from storage.lineage.trace import trace
from storage.store import Store, original_key
from storage.tables import fitted, write_table
from training.data import image_places

IN_SHARD = 100
"""Images, as in a build by default, about."""
CHUNK = 256
"""Photographs in a chunk, as in a build by default."""
CONFIG = BuildConfig.model_validate(
    {
        "source": "urls:list.jsonl",
        "curate": {"preset": "ffhq", "min_quad_px": 128},
        "fetch": {"user_agent": "benchmark/1 (+https://benchmark.example)"},
        "licenses": {"assume": "CC0-1.0", "assume_author": "Somebody"},
    }
)
SIGNALS = '{"looked_at":["robots.txt","x-robots-tag","tdm-reservation","c2pa-training","synthetic"]}'
"""What an address said about its photograph's use: nothing against it."""

COMMAND = (
    "import re, sys; from flows.cli.main import main\n"
    "try: main(sys.argv[1:])\n"
    "finally: print(re.findall('VmHWM:[^0-9]*([0-9]+)', open('/proc/self/status').read())[0], file=sys.stderr)"
)
"""The command `likeness`, which says at its end how much memory it held."""


def silent(_: Progress) -> None:
    """A report to nobody."""


def digests(prefix: str, numbers: Iterable[int]) -> list[str]:
    """A sha256 for each number."""
    return [bytes_digest(f"{prefix} {number}".encode()) for number in numbers]


def drawn(field: pa.Field, num: int, rng: np.random.Generator) -> pa.Array:
    """A column of a face: points within a photograph, numbers of 0 to 1, or hashes."""
    if pa.types.is_floating(field.type):
        return pa.array(rng.random(num))
    if pa.types.is_integer(field.type):
        return pa.array(rng.integers(0, 100, num), field.type)
    if field.name == "embedding":
        return pa.nulls(num, field.type)
    if pa.types.is_string(field.type):
        data = rng.bytes(32 * num).hex()
        return pa.array([data[64 * row : 64 * row + 64] for row in range(num)])
    inner, width = (field.type.value_type, {"landmarks_px": 68, "quad_px": 4}.get(field.name, 4))
    values = pa.array(rng.random(num * width * 2) * 1000)
    if not pa.types.is_list(inner):
        return pa.ListArray.from_arrays(
            pa.array(np.arange(num + 1) * width, pa.int32()), values[: num * width]
        )
    pairs = pa.ListArray.from_arrays(pa.array(np.arange(num * width + 1) * 2, pa.int32()), values)
    return pa.ListArray.from_arrays(pa.array(np.arange(num + 1) * width, pa.int32()), pairs)


def faces_of(sha256s: Sequence[str], images: Sequence[bytes], seed: int) -> pa.Table:
    """A face of each photograph, most of which pass the rules, as a chunk has them but for their crops' places."""
    rng = np.random.default_rng(seed)
    columns = {field.name: drawn(field, len(sha256s), rng) for field in FACE_FIELDS}
    num = len(sha256s)
    columns |= {
        "photo_sha256": pa.array(sha256s),
        "face_index": pa.array(np.zeros(num, np.int32)),
        "image_sha256": pa.array([bytes_digest(image) for image in images]),
        "quad_side_px": pa.array(rng.integers(110, 900, num).astype(float)),
        "filter_score": pa.nulls(num, pa.float64()),
        "sharpness": pa.array(0.35 + rng.random(num) / 2),
        "brightness": pa.array(0.3 + rng.random(num) / 2),
    }
    for name in ("padding_fraction", "clipped_fraction", "landmark_error"):
        columns[name] = pa.array(rng.random(num) / 12)
    return pa.table(columns)


class Drawing:
    """Workers that write chunks of such faces; whatever else they are asked for is done as it is."""

    num = 1

    def map(self, work: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterator[Any]:
        """As `flows.stages.work.Workers`."""
        given = work.keywords if isinstance(work, partial) else {}
        if "prefix" not in given or "schema" not in given:
            yield from map(work, jobs)
            return
        for photos in jobs:
            sha256s = [sha256 for sha256, _ in photos]
            seed = int(sha256s[0][:8], 16)
            images = [b"crop of " + sha256.encode() for sha256 in sha256s]
            table = faces_of(sha256s, images, seed)
            size = len(images[0])
            table = table.append_column("offset", pa.array(np.arange(len(images)) * size))
            table = table.append_column("size", pa.array(np.full(len(images), size)))
            for name in ("reason", "detail"):
                table = table.append_column(name, pa.nulls(len(images), pa.string()))
            store, key = given["store"], f"{given['prefix']}/{json_digest(list(sha256s))}"
            store.put(f"{key}.images", b"".join(images))
            path = store.root / f"drawn-{os.getpid()}.parquet"
            pq.write_table(fitted(table, given["schema"]), path, compression="zstd")
            store.put(f"{key}.parquet", path)
            path.unlink()
            yield len(sha256s), {"faces": len(sha256s)}


def context(store: Store) -> Context:
    """Work in this process."""
    return Context(store, Drawing(), CHUNK, refetch=False, gathered=Gathered)


def photos_of(num: int, more: int = 0) -> pa.Table:
    """Photographs as the stage `align` is given them, and some `more` that are others."""
    sha256s = [*digests("photo", range(num)), *digests("another", range(more))]
    refs = [f"https://photos.example/{number:09d}.jpg" for number in range(num + more)]
    number = np.arange(num + more)
    columns = [refs, sha256s, np.full(num + more, 9), np.zeros(num + more, bool), number]
    return pa.table([pa.array(column) for column in columns], schema=PHOTO_SCHEMA)


def aligned_of(store: Store, photos: pa.Table) -> Aligned:
    """The stage `align`."""
    return align(context(store), silent, CONFIG, photos, FACE_FIELDS, columns_to_judge(CONFIG.curation))


def listed(store: Store, num: int, bare: bool) -> Path:
    """A list of so many URLs that a build has fetched before, `bare` or with what is known of each; its file."""
    path = store.root / f"list-{num}.jsonl"
    config = CONFIG.model_copy(update={"source": f"urls:{path}"})
    sha256s = digests("photo", range(num))
    refs = [f"https://photos.example/{number:09d}/original.jpg" for number in range(num)]
    with path.open("w") as file:
        for number, ref in enumerate(refs):
            item = {"url": ref}
            if not bare:
                item |= {"page": f"https://photos.example/people/{number}", "author": f"Author {number}",
                         "license": "CC BY 2.0", "license_url": "https://creativecommons.org/licenses/by/2.0/",
                         "title": f"A face, the {number}th of those that were photographed"}  # fmt: skip
            file.write(json.dumps(item) + "\n")
    at = timestamp(datetime.now(UTC))
    said: dict[str, Any] = {
        "status": 200,
        "rule": Rule.of(config.fetch).model_dump_json(exclude_defaults=True),
        "signals": SIGNALS,
    }
    with Ledger(store).held(range(PARTITIONS)) as held:
        for start in range(0, num, 10_000):
            rows = []
            for number in range(start, min(start + 10_000, num)):
                address = web_address(refs[number])
                given = {
                    **said,
                    "sha256": sha256s[number],
                    "num_bytes": 9,
                    "asked_at": at,
                    "first_asked_at": at,
                }
                rows.append(Entry(address.key, host_of(address), KEPT, attempts=1, **given))
            held.put(rows)
    (store.root / "original").write_bytes(b"")
    for sha256 in sha256s:
        link = store.path(original_key(sha256))
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(store.root / "original")
    return path


def reuse(folder: Path, num: int, more: int = 0) -> dict[str, float]:
    """Align where all but `more` photographs were aligned before."""
    store, photos = Store(folder), photos_of(num, more)
    clock = cpu()
    aligned = aligned_of(store, photos)
    seconds = cpu() - clock
    assert (aligned.reused, aligned.faces.num_rows) == (num, num + more)
    return {"seconds": seconds}


def build(folder: Path, num: int, verbose: bool = False) -> dict[str, float]:
    """All stages of a build of listed photographs, the report among them; whatever was made before is found."""
    store = Store(folder)
    config = CONFIG.model_copy(update={"source": f"urls:{folder / f'list-{num}.jsonl'}"})
    here = context(store)
    before = peak_kb()
    clock = cpu()
    seconds = {}

    def note(stage: str) -> None:
        nonlocal clock
        pa.default_memory_pool().release_unused()  # as `flows.build` does
        seconds[stage] = cpu() - clock
        clock = cpu()
        if verbose:
            held = f"now {status('VmRSS') / 1024:6.0f} MB  peak {peak_kb() / 1024:6.0f} MB"
            print(f"{stage:8} {seconds[stage]:7.2f} s  {held}", file=sys.stderr)

    crawled: Crawled = crawl(here, silent, config)
    note("crawl")
    aligned = align(here, silent, config, crawled.photos, FACE_FIELDS, columns_to_judge(config.curation))
    note("align")
    curated = curate(silent, config, crawled.photos, aligned)
    note("curate")
    sharded = shard(here, silent, config, crawled, aligned, curated)
    note("shard")
    rejections = pa.concat_tables(
        [fitted(stage.rejections, REJECTED_SCHEMA) for stage in (crawled, aligned, curated)]
    )
    dataset = publish(store, silent, config, crawled, rejections, sharded)
    note("publish")
    record = {"config": config.resolved(), "finished_at": "2026-01-02T03:04:05+00:00", "seconds": 1.0,
              "unchanged": False, "stages": {"align": {"reused": 0}}, "timings": {}}  # fmt: skip
    write_report(dataset, record, crawled, aligned, curated, rejections)
    note("report")
    return {"kb": peak_kb() - before, "kept": len(curated.kept), **seconds}


def version_of(store: Store, num: int, first: int = 0, author: str = "Author") -> None:
    """Publish a version of so many images, of photographs from the one with the number `first`."""
    sha256s = sorted(digests("image", range(first, first + num)))
    photos = digests("photo", range(first, first + num))

    def parts() -> Iterator[pa.Table]:
        for start in range(0, num, 1 << 14):
            images = sha256s[start : start + (1 << 14)]
            many = len(images)
            table = faces_of(photos[start : start + many], [b""] * many, start)
            table = table.set_column(
                table.column_names.index("image_sha256"), "image_sha256", pa.array(images)
            )
            rest: dict[str, Any] = {
                "key": [sha256[:16] for sha256 in images],
                "shard": ["shards/00000.tar"] * many,
                "offset": np.arange(many),
                "size": np.full(many, 9),
                "photo_num_bytes": np.full(many, 9),
                "ref": [f"https://photos.example/{start + number:09d}.jpg" for number in range(many)],
                "author": [f"{author} {start + number}" for number in range(many)],
                "page": [None] * many, "license": ["CC BY 2.0"] * many, "license_url": [None] * many,
                "title": [f"Title {number}" for number in range(many)],
            }  # fmt: skip
            for name, values in rest.items():
                table = table.append_column(name, pa.array(values, IMAGE_SCHEMA.field(name).type))
            for field in IMAGE_SCHEMA:
                if field.name not in table.column_names:
                    table = table.append_column(field.name, pa.nulls(many, field.type))
            yield fitted(table, IMAGE_SCHEMA)

    dataset = manifest.publish(
        store, f"faces{num}", settings={"resolution": 128, "source": {}}, images=parts(), image_schema=IMAGE_SCHEMA,
        rejections=[], rejection_schema=REJECTION_SCHEMA, shards=[], num_photos=num,
    )  # fmt: skip
    store.put(f"datasets/{dataset.name}/latest.json", json.dumps({"version": dataset.version}).encode())
    write_lookup(dataset)
    if not first:
        (store.root / "key").write_text(bytes_digest(f"image {num // 3}".encode())[:16])


def traced(folder: Path, num: int) -> dict[str, float]:
    """Trace one image that all versions have."""
    store = Store(folder)
    key = (folder / "key").read_text()
    before, clock = peak_kb(), cpu()
    chain = trace(store, key)
    seconds = cpu() - clock
    assert {row["key"] for row in chain.images} == {key}
    return {"seconds": seconds, "kb": peak_kb() - before}


def differing(folder: Path, num: int) -> dict[str, float]:
    """Compare the two versions that there are, and print it all."""
    store = Store(folder)
    before, clock = peak_kb(), cpu()
    first, second = all_versions(store)
    difference = diff(first, second)
    lines = list(difference.lines(10))
    seconds = cpu() - clock
    assert difference.images.added.num_rows == difference.images.removed.num_rows == num // 10, lines
    assert difference.facts["author"][0] == num - num // 10
    return {"seconds": seconds, "kb": peak_kb() - before}


def stubbed() -> None:
    """Have builds of this process draw faces, and no contact sheet of crops that are no pictures."""
    flows.build.open_workers = lambda *_: nullcontext(Drawing())  # type: ignore[assignment, attr-defined]
    flows.build.write_contact_sheet = lambda dataset: dataset.folder / "contact-sheet.jpg"  # type: ignore[attr-defined]


def forgetting(folder: Path, num: int) -> dict[str, float]:
    """Forget the photographs of three authors, in a store with a build of so many; seconds of each step."""
    stubbed()
    store, seconds = Store(folder), {}
    asked = Asked(author=tuple(f"Author {number}" for number in (7, num // 2, num - 1)))
    before, clock = peak_kb(), time.perf_counter()
    found = find(store, asked)
    seconds["find"] = time.perf_counter() - clock
    assert len(found.photos) == 3
    stages: dict[str, float] = {}
    clock = time.perf_counter()
    done = forget(store, found, BuildOptions(store=folder), timed(run_with(silent), stages))
    seconds["forget"] = time.perf_counter() - clock
    [after] = done.certificate.published
    shards = {"shards": after.shards, "shards_written": after.shards_written}
    return {**seconds, **stages, **shards, "kb": peak_kb() - before}


def packed(store: Store, num: int) -> None:
    """What the stage `publish` is given of so many images: packed shards, whose tars are empty; items and rejections.

    Each image is of a photograph of its own, and a quarter as many photographs were rejected.
    """
    sha256s = sorted(digests("image", range(num)))
    keys = keys_of(pa.array(sha256s))
    photos = digests("photo", range(num))
    names = [field.name for field in IMAGE_SCHEMA if field.name not in (*SOURCE_COLUMNS, "shard")]
    rows = []
    for number, leaf in enumerate(leaves(keys, CONFIG.shard.images_per_shard)):
        mine = slice(leaf.start, leaf.stop)
        many = leaf.stop - leaf.start
        table = faces_of(photos[mine], [b""] * many, number)
        column = table.column_names.index("image_sha256")
        table = table.set_column(column, "image_sha256", pa.array(sha256s[mine]))
        table = table.append_column("key", pa.array([sha256[:16] for sha256 in sha256s[mine]]))
        for name in ("offset", "size", "photo_num_bytes"):
            table = table.append_column(name, pa.array(np.arange(many), pa.int64()))
        sha256 = bytes_digest(leaf.name.encode())
        path = store.path(f"chunks/shard/{sha256}.parquet")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, fitted(table, pa.schema([IMAGE_SCHEMA.field(name) for name in names])))
        for name in (f"{sha256}.tar", shards.index_name(f"{sha256}.tar")):
            path.with_name(name).write_bytes(b"")
        rows.append(
            {"object": f"chunks/shard/{sha256}.tar", "file": f"shards/{leaf.name}-{sha256[:16]}.tar",
             "sha256": sha256, "size": 0, "images": many, "index_sha256": sha256}
        )  # fmt: skip
    (store.root / "shards.json").write_text(json.dumps(rows))
    refs = [f"https://photos.example/{number:09d}/original.jpg" for number in range(num + num // 4)]
    known: dict[str, Any] = {
        "ref": refs,
        "page": [f"https://photos.example/people/{number}" for number in range(len(refs))],
        "author": [f"Author {number}" for number in range(len(refs))],
        "license": ["CC BY 2.0"] * len(refs),
        "license_url": ["https://creativecommons.org/licenses/by/2.0/"] * len(refs),
        "title": [f"A face, the {number}th of those that were photographed" for number in range(len(refs))],
    }
    missing = {name: [None] * len(refs) for name in ITEM_SCHEMA.names if name not in known}
    pq.write_table(pa.table({**known, **missing}, schema=ITEM_SCHEMA), store.root / "items.parquet")
    refused = {field.name: pa.nulls(num // 4, field.type) for field in REJECTED_SCHEMA}
    refused |= {
        "ref": pa.array(refs[num:]),
        "reason": pa.array(["no_face", "too_small", "blurred"] * (num // 12) + ["no_face"] * (num // 4 % 3)),
        "photo_sha256": pa.array(digests("another", range(num // 4))),
    }
    pq.write_table(pa.table(refused, schema=REJECTED_SCHEMA), store.root / "rejections.parquet")


def publishing(folder: Path, num: int) -> dict[str, float]:
    """Publish a version of what was packed."""
    store = Store(folder)
    items, rejections = (pq.read_table(folder / f"{name}.parquet") for name in ("items", "rejections"))
    images = sorted(digests("image", range(num)))
    sharded = Sharded(
        json.loads((folder / "shards.json").read_bytes()),
        keys_of(pa.array(images)),
        np.arange(num, dtype=np.int32),
        0,
    )
    del images
    crawled = Crawled({"kind": "urls"}, items, items.slice(0, 0), rejections.slice(0, 0), 0)
    pa.default_memory_pool().release_unused()
    before, clock, used = peak_kb(), time.perf_counter(), cpu()
    dataset = publish(store, silent, CONFIG, crawled, rejections, sharded)
    wall, seconds = time.perf_counter() - clock, cpu() - used
    counts = dataset.manifest.counts
    assert (counts.images, counts.photos, sum(counts.rejected.values())) == (num, num + num // 4, num // 4)
    return {"wall": wall, "seconds": seconds, "kb": peak_kb() - before, "peak_kb": peak_kb()}


def indexed(store: Store, num: int) -> None:
    """The indices of shards, beside tars that are empty."""
    for first in range(0, num, IN_SHARD):
        entries = []
        for number, sha256 in enumerate(digests(f"image {first}", range(min(IN_SHARD, num - first)))):
            for suffix in ("webp", "json"):
                entries.append(shards.Entry(f"{sha256[:16]}.{suffix}", 4096 * number, 3000, sha256))
        store.put(f"shards/{first // IN_SHARD:05d}.tar", b"", durable=False)
        store.put(
            f"shards/{first // IN_SHARD:05d}.index.json",
            shards.index_json(shards.Index("0" * 64, entries)),
            durable=False,
        )


def opened(folder: Path, num: int) -> dict[str, float]:
    """Check the indices of a version, and find where each image lies, as training does before its first image."""
    paths = sorted(folder.glob("shards/*.tar"))
    sha256s = [file_digest(path.with_suffix(".index.json")) for path in paths]
    before, clock = peak_kb(), cpu()
    image_places(paths, sha256s, num)
    return {"seconds": cpu() - clock, "kb": peak_kb() - before}


def cpu() -> float:
    """Seconds of CPU that this process took, its own and the system's for it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def status(name: str) -> int:
    """A line of what the kernel says of this process, kB."""
    [kb] = re.findall(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return int(kb)


def peak_kb() -> int:
    """The most memory that this process ever held."""
    return status("VmHWM")


def grouping(folder: Path, num: int) -> dict[str, float]:
    """Search random PDQ hashes for near-duplicates, by the bits of a build's default."""
    hashes = np.random.default_rng(0).integers(0, 256, (num, 32), dtype=np.uint8)
    clock = cpu()
    group_hashes(hashes, 36)
    return {"seconds": cpu() - clock}


def measured(what: str, folder: Path, *numbers: int) -> dict[str, float]:
    """What a function of this file gives in a process of its own."""
    command = [sys.executable, __file__, "--measure", json.dumps([what, str(folder), *numbers])]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("part", nargs="?", choices=PARTS, help="one part alone, of --faces and no fewer")
    parser.add_argument("--faces", type=int, default=80_000)
    parser.add_argument(
        "--most", type=int, default=0, help="and so many more, to see that cost grows in proportion"
    )
    parser.add_argument("--parts", nargs="+", default=["reuse", "memory", "trace", "open"])
    parser.add_argument("--versions", type=int, default=1, help="that a trace looks through")
    parser.add_argument("--bare", action="store_true", help="nothing is known of a photograph but its URL")
    parser.add_argument("--verbose", action="store_true", help="each stage of a build as it ends")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        what, folder, *numbers = json.loads(arguments.measure)
        print(json.dumps(MEASURES[what](Path(folder), *numbers)))
        return
    sizes = [num for num in (arguments.faces // 4, arguments.faces, arguments.most) if num]
    if arguments.part:
        arguments.parts, sizes = [arguments.part], [arguments.faces]
    for part in arguments.parts:
        for num in sizes:
            with tempfile.TemporaryDirectory() as folder:
                clock = time.perf_counter()
                line = PARTS[part](Path(folder), num, arguments)
                print(f"{num:>9} {line} ({time.perf_counter() - clock:.0f} s in all)", flush=True)


def _reuse(folder: Path, num: int, arguments: argparse.Namespace) -> str:
    aligned_of(Store(folder), photos_of(num))
    again, one = measured("reuse", folder, num), measured("reuse", folder, num, 1)
    return f"photographs: align with everything reused {again['seconds']:.2f} CPU s, with one new {one['seconds']:.2f}"


def _memory(folder: Path, num: int, arguments: argparse.Namespace) -> str:
    listed(Store(folder), num, arguments.bare)
    first, again = (measured("build", folder, num, arguments.verbose) for _ in range(2))
    return (
        f"photographs: a build's driver holds {first['kb'] / 1024:.0f} MB more than at its start, "
        f"{again['kb'] / 1024:.0f} MB where all is found"
    )


def _trace(folder: Path, num: int, arguments: argparse.Namespace) -> str:
    for first in range(arguments.versions):
        version_of(Store(folder), num, first)
    found = measured("trace", folder, num)
    command = [sys.executable, "-c", COMMAND, "trace", (folder / "key").read_text(), "--store", str(folder)]
    clock = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall, kb = time.perf_counter() - clock, int(done.stderr)
    return (
        f"images in each of {arguments.versions}: trace of one {found['seconds']:.3f} CPU s, "
        f"{found['kb'] / 1024:.0f} MB more; the command {wall:.2f} s and {kb / 1024:.0f} MB in all"
    )


def _open(folder: Path, num: int, arguments: argparse.Namespace) -> str:
    indexed(Store(folder), num)
    found = measured("open", folder, num)
    return f"images: training opens them in {found['seconds']:.2f} CPU s, {found['kb'] / 1024:.0f} MB more"


def _publish(folder: Path, num: int, arguments: argparse.Namespace) -> str:
    packed(Store(folder), num)
    found = measured("publish", folder, num)
    return (
        f"images and {num // 4} rejections: publish takes {found['wall']:.1f} s, {found['seconds']:.1f} of CPU, and "
        f"holds {found['kb'] / 1024:.0f} MB more than at its start, {found['peak_kb'] / 1024:.0f} MB in all"
    )


def _diff(folder: Path, num: int, arguments: argparse.Namespace) -> str:
    version_of(Store(folder), num)
    version_of(Store(folder), num, num // 10, "Another author")
    found = measured("diff", folder, num)
    return (
        f"images: diff with as many, a tenth of them others, {found['seconds']:.2f} CPU s, "
        f"{found['kb'] / 1024:.0f} MB more"
    )


def _forget(folder: Path, num: int, arguments: argparse.Namespace) -> str:
    stubbed()
    path = listed(Store(folder), num, arguments.bare)
    config = CONFIG.model_copy(update={"source": f"urls:{path}"})
    flows.build.build(config, BuildOptions(store=folder), run_with(silent))
    found = measured("forget", folder, num)
    packed = found["shard"] + found["publish"]
    return (
        f"photographs: three are found in {found['find']:.1f} s and forgotten in {found['forget']:.1f} s, of which "
        f"{packed:.1f} s are shards and tables ({found['shards_written']} of {found['shards']} shards written), "
        f"{found['kb'] / 1024:.0f} MB more"
    )


def _duplicates(folder: Path, num: int, arguments: argparse.Namespace) -> str:
    return f"hashes: near-duplicates are looked for in {measured('duplicates', folder, num)['seconds']:.1f} CPU s"


MEASURES = {
    "reuse": reuse,
    "build": build,
    "trace": traced,
    "open": opened,
    "publish": publishing,
    "diff": differing,
    "forget": forgetting,
    "duplicates": grouping,
}
PARTS = {
    "reuse": _reuse,
    "memory": _memory,
    "trace": _trace,
    "open": _open,
    "publish": _publish,
    "diff": _diff,
    "forget": _forget,
    "duplicates": _duplicates,
}

if __name__ == "__main__":
    main()
