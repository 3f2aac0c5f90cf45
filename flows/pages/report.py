"""The HTML report of a build, for a person who decides on thresholds.

    report/index.html     what became of every photograph, each stage's speed, crops that were kept; and for every
                          score its histogram, its thresholds, and the crops nearest to them on either side
    report/REASON.html    what one reason rejected; more of it in REASON-2.html and so on

Each page is one file that needs no other and no network: thumbnails are data URIs, histograms inline SVG, and there
is no script. Not here: any fact that is not in the stages' results or the build record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flows.pages.histogram import Histogram, Limits, Values, evenly, histogram, samples
from flows.pages.rendered import rendered
from flows.pages.thumbnails import Thumbnails
from flows.stages.align import Aligned, Crop
from flows.stages.crawl import Crawled
from flows.stages.curate import Curated
from preprocessing.columns import rejections_of, values_of
from preprocessing.curation.rules import Rule, rules
from preprocessing.curation.settings import PRESETS, CurateConfig
from preprocessing.photo.decode import DecodeConfig
from preprocessing.records import Item, Rejection
from preprocessing.reject import Reason, in_order
from preprocessing.scores.catalogue import NUMBERS, Score
from storage.datasets.dataset import Dataset
from storage.shards import KEY_DIGITS
from storage.tables import (
    Row,
    arrow,
    column_of,
    filled,
    groups,
    leaders,
    numbers,
    rows_by_value,
    rows_holding,
    texts,
)

KEPT_SHOWN, REJECTED_SHOWN = 96, 200
PHOTOS_SHOWN = 40
"""Photographs without a crop on one page: each must be decoded."""
MAX_PAGES = 25
"""Pages of one reason; of what would fill more, as many are shown, taken evenly from all."""
LICENSES_SHOWN = 100
HOSTS_SHOWN = 100
THUMBNAIL_PX = 96
SAMPLE_PX = 192
"""Beside a threshold, where sharpness must show."""
FACELESS = frozenset({Reason.NO_FACE, Reason.BAD_GEOMETRY})
"""Reasons that leave a photograph to show and no crop of it."""


def write_report(
    dataset: Dataset,
    record: Mapping[str, Any],
    crawled: Crawled,
    aligned: Aligned,
    curated: Curated,
    rejections: pa.Table,
) -> Path:
    """Write the pages into the version's folder, beside what the manifest names, and return the path of the first.

    `rejections` are those of all stages.
    """
    pages = _Pages(dataset, record, crawled, aligned, curated, rejections)
    common = {"reference": dataset.reference, "record": record, "reasons": pages.reasons()}

    def write(name: str, template: str, values: Mapping[str, Any]) -> Path:
        key = f"{dataset.key}/report/{name}.html"
        dataset.store.put(key, rendered(template, **common, **values).encode())
        return dataset.store.path(key)

    for reason in pages.rejected:
        for number, page in enumerate(pages.of_reason(reason), start=1):
            write(page_name(reason, number), "reason.html", page)
    return write("index", "index.html", pages.index())


@dataclass(frozen=True)
class Picture:
    """A crop or photograph as a page shows it: text that is not yet escaped, and a data URI or None."""

    data: str | None
    name: str
    note: str | None
    tip: str
    link: str | None
    is_photo: bool = False
    reason: Reason | None = None
    twin: Picture | None = None


@dataclass(frozen=True)
class ScoreRow:
    """One score of the index."""

    score: Score
    limits: str | None
    settings: list[str]
    reasons: list[str]
    num_faces: int
    num_outside: int
    num_alone: int
    num_unknown: int
    quantiles: list[str]
    histogram: Histogram
    samples: list[tuple[str, bool, list[Picture]]]


@dataclass(frozen=True, eq=False)
class _Pages:
    """What the templates are given, in an order that chunks and workers do not change.

    A face goes by its number in `aligned.faces`, a rejection by its number in `rejections`.
    """

    dataset: Dataset
    record: Mapping[str, Any]
    crawled: Crawled
    aligned: Aligned
    curated: Curated
    rejections: pa.Table

    @cached_property
    def items_of_faces(self) -> NDArray[np.int64]:
        """For each face the number of the item that stands for its photograph: that of the least rank."""
        photo: NDArray[np.int64] = numbers(self.aligned.faces["photo"])
        return rows_holding(self.crawled.items["ref"], self.crawled.photos["ref"])[photo].astype(np.int64)

    @cached_property
    def faces(self) -> NDArray[np.int64]:
        """Every face found, ordered by ref and face index."""
        ranks = numbers(pc.rank(self.crawled.items["ref"].combine_chunks(), tiebreaker="dense"))
        return np.lexsort((numbers(self.aligned.faces["face_index"]), ranks[self.items_of_faces]))

    @cached_property
    def rejected(self) -> dict[Reason, NDArray[np.int64]]:
        """The rejections of each reason, in the order of the pipeline and of the refs."""
        face = filled(self.rejections["face_index"], -1)
        keys = pa.table({"ref": self.rejections["ref"], "face": face})
        order = numbers(pc.sort_indices(keys, [("ref", "ascending"), ("face", "ascending")])).astype(np.int64)
        there = rows_by_value(self.rejections["reason"].take(arrow(order)))
        found = {Reason(str(reason)): order[rows] for reason, rows in there.items()}
        return {reason: found[reason] for reason in in_order(found)}

    @cached_property
    def faces_of_rejections(self) -> NDArray[np.int64]:
        """For each rejection the number of the rejected face, of a photograph that of its largest; -1 for none."""
        photos, faces = self.crawled.photos, self.aligned.faces
        photo = rows_holding(photos["sha256"], self.rejections["photo_sha256"]).astype(np.int64)
        photo = np.where(photo < 0, photo, leaders(photos["sha256"], photos["rank"])[photo])
        wanted = photo << 32 | numbers(filled(self.rejections["face_index"], 0))
        there = numbers(faces["photo"]).astype(np.int64) << 32 | numbers(faces["face_index"])
        order = np.argsort(there)
        nearest = order[np.searchsorted(there, wanted, sorter=order).clip(max=len(there) - 1)]
        return np.where((photo >= 0) & (there[nearest] == wanted), nearest, -1)

    @cached_property
    def fates(self) -> NDArray[np.int64]:
        """For each face the number of its rejection, or -1."""
        fates = np.full(self.aligned.faces.num_rows, -1)
        mine = np.flatnonzero(self.faces_of_rejections >= 0)
        mine = mine[numbers(self.rejections["face_index"].is_valid().cast(pa.int8()))[mine] > 0]
        fates[self.faces_of_rejections[mine]] = mine
        return fates

    @cached_property
    def kept_images(self) -> pa.Array:
        """The digests of the images that are kept, in their order."""
        return self.aligned.faces["image_sha256"].take(arrow(self.curated.kept)).combine_chunks()

    @cached_property
    def rules(self) -> list[Rule]:
        """Every threshold there can be, with the bounds of this build."""
        return rules(CurateConfig.model_validate(self.record["config"]["curate"]))

    @cached_property
    def thumbnails(self) -> Thumbnails:
        """Small pictures of crops and photographs."""
        decode = DecodeConfig.model_validate(self.record["config"]["decode"])
        return Thumbnails(self.dataset.store, decode)

    def reasons(self) -> list[dict[str, Any]]:
        """The table of reasons."""
        rows = []
        for reason, rejected in self.rejected.items():
            of_faces = self.rejections["face_index"][int(rejected[0])].is_valid
            unit, table = ("faces", self.aligned.faces) if of_faces else ("photographs", self.crawled.items)
            rows.append(
                {
                    "name": reason.value,
                    "meaning": reason.meaning,
                    "count": len(rejected),
                    "unit": unit,
                    "percent": 100 * len(rejected) / max(table.num_rows, len(rejected)),
                }
            )
        return rows

    def licenses(self) -> list[dict[str, Any]]:
        """The table of licences: how many photographs and authors each has, and how many images are kept of them."""
        items = self.crawled.items.select(["license", "license_url", "author"])
        kept = np.zeros(items.num_rows, np.int64)
        np.add.at(kept, self.items_of_faces[self.curated.kept], 1)
        first, group = groups(items.select(["license", "license_url"]))
        of_authors, _ = groups(items)
        has_author = numbers(items["author"].is_valid().cast(pa.int8())).astype(bool)

        def summed(rows: NDArray[np.int64], weights: NDArray[np.int64] | None = None) -> list[int]:
            found = np.bincount(group[rows], weights, minlength=len(first))
            return [int(number) for number in found.tolist()]

        everyone = np.arange(items.num_rows)
        columns = {
            "name": items["license"].take(arrow(first)).to_pylist(),
            "url": items["license_url"].take(arrow(first)).to_pylist(),
            "photographs": summed(everyone),
            "authors": summed(of_authors[has_author[of_authors]]),
            "no_author": summed(everyone[~has_author]),
            "kept": summed(everyone, kept),
        }
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for row in rows:
            row["link"] = row["url"] if _is_web(row["url"]) else None
        return sorted(rows, key=lambda row: (-row["photographs"], str(row["name"]), str(row["url"])))

    def index(self) -> dict[str, Any]:
        """The first page."""
        faces, kept = self.aligned.faces, self.curated.kept
        return {
            "source": self.record["config"]["source"],
            "built_at": datetime.fromisoformat(self.record["finished_at"]).strftime("%Y-%m-%d %H:%M UTC"),
            "resolution": self.dataset.resolution,
            "totals": [
                ("photograph", "listed", self.crawled.items.num_rows),
                ("", "read", self.crawled.photos.num_rows),
                ("", "different, with a face", pc.count_distinct(faces["photo"]).as_py()),
                ("face", "", faces.num_rows),
                ("image", "kept", len(kept)),
            ],
            "other_seconds": self.record["seconds"]
            - sum(t["seconds"] for t in self.record["timings"].values()),
            "config": json.dumps(self.record["config"], indent=2, ensure_ascii=False),
            "licenses": self.licenses()[:LICENSES_SHOWN],
            "hosts": self._hosts(),
            "num_hosts": 0 if self.crawled.hosts is None else self.crawled.hosts.num_rows,
            "kept": self._of_faces(_evenly(kept, KEPT_SHOWN), THUMBNAIL_PX),
            "num_kept": len(kept),
            "scores": self._scores(),
        }

    def _hosts(self) -> list[Row]:
        """What came of each host's addresses, those with the most first."""
        hosts = self.crawled.hosts
        if hosts is None:
            return []
        order = [("addresses", "descending"), ("host", "ascending")]
        return list(hosts.sort_by(order).slice(0, HOSTS_SHOWN).to_pylist())

    def of_reason(self, reason: Reason) -> Iterator[dict[str, Any]]:
        """The pages of one reason; where it has one threshold, those that miss it by least come first."""
        rejected = self.rejected[reason]
        mine = [rule for rule in self.rules if rule.reason is reason and rule.is_on]
        if len(mine) == 1:
            rejected = rejected[np.argsort(self._misses(mine[0], rejected), kind="stable")]
        size = PHOTOS_SHOWN if reason in FACELESS else REJECTED_SHOWN
        shown = _evenly(rejected, size * MAX_PAGES)
        starts = range(0, len(shown), size)
        for number, start in enumerate(starts, start=1):
            pictures = self._of_rejections(shown[start : start + size])
            yield {
                "reason": reason.value,
                "meaning": reason.meaning,
                "count": len(rejected),
                "num_shown": len(shown),
                "first": start + 1,
                "last": start + len(pictures),
                "page": number,
                "pages": [(other, f"{page_name(reason, other)}.html") for other in range(1, len(starts) + 1)],
                "nearest_first": len(mine) == 1,
                "has_twins": any(picture.twin for picture in pictures),
                "pictures": [picture for picture in pictures if picture.data],
                "texts": [picture for picture in pictures if not picture.data],
            }

    def _scores(self) -> list[ScoreRow]:
        kept = self.fates[self.faces] < 0
        limits = {score: self._limits(score) for score in NUMBERS}
        num_failed = np.zeros(len(kept), int)
        for score in NUMBERS:
            num_failed += limits[score].outside(self._values(score))
        rows = []
        for score in NUMBERS:
            found = self._values(score)
            known = np.isfinite(found)
            if not known.any():
                continue
            outside = limits[score].outside(found)
            mine = [rule for rule in self.rules if rule.score is score]
            reasons = {rule.reason: None for rule in mine if rule.is_on and rule.reason in self.rejected}
            rows.append(
                ScoreRow(
                    score,
                    _limits_text(score, limits[score]),
                    [rule.setting for rule in mine],
                    [reason.value for reason in reasons],
                    len(found),
                    int(outside.sum()),
                    int((outside & (num_failed == 1)).sum()),
                    int((~known).sum()),
                    [score.text(q) for q in np.quantile(found[known], [0, 0.05, 0.5, 0.95, 1]).tolist()],
                    histogram(found[known], kept[known], limits[score]),
                    self._samples(score, found, limits[score]),
                )
            )
        return rows

    def _values(self, score: Score) -> Values:
        """A score of every face, in the order of `faces`."""
        return values_of(score, self.aligned.faces)[self.faces]

    def _samples(self, score: Score, found: Values, limits: Limits) -> list[tuple[str, bool, list[Picture]]]:
        side = min(SAMPLE_PX, self.dataset.resolution)
        return [
            (group.title, group.passes, self._of_faces(self.faces[group.numbers], side, score))
            for group in samples(found, limits, self._is_alike)
        ]

    def _is_alike(self, one: int, other: int) -> bool:
        """Whether two faces, by their places in `faces`, are of one photograph or near-identical."""
        if self.items_of_faces[self.faces[one]] == self.items_of_faces[self.faces[other]]:
            return True
        first, second = (self.aligned.faces["pdq"][int(self.faces[place])].as_py() for place in (one, other))
        if first is None or second is None:  # of what came aligned nothing is measured
            return False
        return bool((int(first, 16) ^ int(second, 16)).bit_count() <= PRESETS["lenient"]["pdq_max_distance"])

    def _limits(self, score: Score) -> Limits:
        mine = [rule for rule in self.rules if rule.score is score]
        low = max((rule.low for rule in mine if rule.low is not None), default=-math.inf)
        return Limits(low, min((rule.high for rule in mine if rule.high is not None), default=math.inf))

    def _misses(self, rule: Rule, rejected: NDArray[np.int64]) -> Values:
        """By how much rejected faces miss a threshold; infinite where that is not known."""
        faces = self.faces_of_rejections[rejected]
        values = np.where(faces >= 0, values_of(rule.score, self.aligned.faces)[faces], np.nan)
        below = -np.inf if rule.low is None else rule.low - values
        above = -np.inf if rule.high is None else values - rule.high
        return np.nan_to_num(np.maximum(below, above), nan=np.inf)

    def _of_faces(self, faces: NDArray[np.int64], side_px: int, score: Score | None = None) -> list[Picture]:
        """Crops as pictures, with their value of a score."""
        data = self.thumbnails.data_uris(self.aligned.crops(faces), side_px)
        rows = self._rows(faces.tolist())
        return [
            self._picture(face, rows[face], found, None if score is None else _shown(score, rows[face]))
            for face, found in zip(faces.tolist(), data, strict=True)
        ]

    def _of_rejections(self, rejected: NDArray[np.int64]) -> list[Picture]:
        """Rejections as pictures: the crop, or else the photograph, and beside it what is kept in its place."""
        rejections = rejections_of(self.rejections.take(arrow(rejected)))
        whole = [number for number, rejection in enumerate(rejections) if rejection.reason in FACELESS]
        whole = evenly(whole, PHOTOS_SHOWN)
        faces = self.faces_of_rejections[rejected].tolist()
        twins = self._twins(rejections, faces)
        rows, crops = self._rows([*faces, *twins]), self._crops([*faces, *twins])
        sources = [
            rejection.photo_sha256 if number in whole else crops.get(face)
            for number, (rejection, face) in enumerate(zip(rejections, faces, strict=True))
        ]
        refs = texts(*(rejection.ref for rejection in rejections))
        items = rows_holding(self.crawled.items["ref"], refs).tolist()
        twin_data = self.thumbnails.data_uris([crops.get(twin) for twin in twins], THUMBNAIL_PX)
        pictures = []
        for rejection, number, source, data, face, twin, other in zip(
            rejections,
            items,
            sources,
            self.thumbnails.data_uris(sources, THUMBNAIL_PX),
            faces,
            twins,
            twin_data,
            strict=True,
        ):
            item = self._item(number)
            row = rows[face] if isinstance(source, Crop) else None
            pair = self._picture(twin, rows[twin], other, "kept in its place") if twin in rows else None
            note = None if pair is not None and rejection.detail == pair.name else rejection.detail
            tip = _tip(item, row)
            pictures.append(Picture(data, rejection.ref, note, tip, _link(item), row is None, twin=pair))
        return pictures

    def _picture(self, face: int, row: Row, data: str | None, note: str | None) -> Picture:
        item = self._item(self.items_of_faces[face])
        rejection = int(self.fates[face])
        reason = None if rejection < 0 else Reason(self.rejections["reason"][rejection].as_py())
        fate = "kept" if reason is None else f"rejected: {reason}"
        return Picture(data, item.ref, note, f"{_tip(item, row)}\n{fate}", _link(item), reason=reason)

    def _rows(self, faces: Iterable[int]) -> dict[int, Row]:
        """The rows of faces, by face; -1 is none."""
        found = np.array([face for face in faces if face >= 0], np.int64)
        return dict(zip(found.tolist(), self.aligned.faces.take(arrow(found)).to_pylist(), strict=True))

    def _crops(self, faces: Iterable[int]) -> dict[int, Crop]:
        """Where the crops of faces lie, likewise."""
        found = np.array([face for face in faces if face >= 0], np.int64)
        return dict(zip(found.tolist(), self.aligned.crops(found), strict=True))

    def _item(self, number: int) -> Item:
        [row] = self.crawled.items.slice(number, 1).to_pylist()
        return Item(**row)

    def _twins(self, rejections: Sequence[Rejection], faces: Sequence[int]) -> list[int]:
        """The face whose crop is kept in the place of each; of a photograph that is there twice its largest face."""
        instead = column_of([rejection.duplicate_of for rejection in rejections], pa.string())
        kept = rows_holding(self.kept_images, instead).tolist()
        return [
            int(self.curated.kept[twin])
            if twin >= 0
            else face
            if rejection.duplicate_of == rejection.photo_sha256 is not None
            else -1
            for rejection, face, twin in zip(rejections, faces, kept, strict=True)
        ]


def page_name(reason: Reason, number: int) -> str:
    """What a reason's page is called, without its suffix."""
    return reason.value if number == 1 else f"{reason.value}-{number}"


def _evenly(those: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    return those[evenly(range(len(those)), limit)]


def _limits_text(score: Score, limits: Limits) -> str | None:
    low, high = (score.text(limit) for limit in (limits.low, limits.high))
    if len(limits.cuts) == 2:
        return f"{low} to {high}"
    if math.isfinite(limits.low):
        return f"{low} or more"
    return f"{high} or less" if limits.cuts else None


def _shown(score: Score, face: Row) -> str | None:
    """A face's score as text; None where there is no such number."""
    value = face[score.name]
    return None if value is None or not math.isfinite(value) else score.text(value)


def _tip(item: Item, face: Row | None) -> str:
    """What is known of a photograph and its face, a line each."""
    known = {"title": item.title, "author": item.author, "licence": item.license}
    lines = [item.ref, *(f"{name}: {value}" for name, value in known.items() if value)]
    if face is not None:
        lines.append(f"key: {face['image_sha256'][:KEY_DIGITS]}")
        values = ((score, _shown(score, face)) for score in NUMBERS)
        lines += [f"{score.title.lower()}: {value}" for score, value in values if value is not None]
    return "\n".join(lines)


def _link(item: Item) -> str | None:
    """The photograph's page, or else its own address, where a browser may follow it."""
    return next((address for address in (item.page, item.ref) if _is_web(address)), None)


def _is_web(address: str | None) -> bool:
    try:
        parts = urlsplit(address or "")
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)
