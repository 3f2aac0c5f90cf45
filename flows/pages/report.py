"""The HTML report of a build, for a person who decides on thresholds.

    report/index.html     what became of every photograph, each stage's speed, crops that were kept; and for every
                          score its histogram, its thresholds, and the crops nearest to them on either side
    report/REASON.html    what one reason rejected

Each page is one file that needs no other and no network: thumbnails are data URIs, histograms inline SVG, and there
is no script. Not here: any fact that is not in the stages' results or the build record.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from flows.pages.histogram import Histogram, Limits, Values, evenly, histogram, samples
from flows.pages.thumbnails import Thumbnails
from flows.stages.align import Aligned, Crop
from flows.stages.crawl import Crawled
from flows.stages.curate import Curated
from preprocessing.curation.rules import Rule, rules
from preprocessing.curation.settings import CurateConfig
from preprocessing.photo.decode import DecodeConfig
from preprocessing.records import Face, Item, Rejection
from preprocessing.reject import Reason, in_order
from preprocessing.scores.catalogue import NUMBERS, Score
from storage.datasets.dataset import Dataset
from storage.shards import KEY_DIGITS

KEPT_SHOWN, REJECTED_SHOWN = 96, 200
PHOTOS_SHOWN = 40
"""Photographs without a crop on one page: each must be decoded whole."""
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
) -> Path:
    """Write the pages into the version's folder, beside what the manifest names, and return the path of the first."""
    environment = Environment(
        loader=PackageLoader("flows.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages = _Pages(dataset, record, crawled, aligned, curated)
    common = {"reference": dataset.reference, "record": record, "reasons": pages.reasons()}

    def write(name: str, template: str, values: Mapping[str, Any]) -> Path:
        key = f"{dataset.key}/report/{name}.html"
        dataset.store.put(key, environment.get_template(template).render(**common, **values).encode())
        return dataset.store.path(key)

    for reason in pages.rejections:
        write(reason, "reason.html", pages.reason(reason))
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


@dataclass(frozen=True)
class _Pages:
    """What the templates are given, in an order that chunks and workers do not change."""

    dataset: Dataset
    record: Mapping[str, Any]
    crawled: Crawled
    aligned: Aligned
    curated: Curated

    @cached_property
    def items(self) -> dict[str, Item]:
        """By sha256, the item that stands for each photograph: the one of the smallest ref, as in curation."""
        photos = sorted(self.crawled.photos, key=lambda photo: photo.item.ref, reverse=True)
        return {photo.sha256: photo.item for photo in photos}

    @cached_property
    def crops(self) -> dict[tuple[str, int | None], Crop]:
        """Every face found, by photograph and face index, ordered by ref."""
        found = sorted(
            self.aligned.crops,
            key=lambda crop: (self.items[crop.face.photo_sha256].ref, crop.face.face_index),
        )
        return {(crop.face.photo_sha256, crop.face.face_index): crop for crop in found}

    @cached_property
    def crops_by_image(self) -> dict[str, Crop]:
        """Every crop by its bytes, where two share them the kept one."""
        kept = (crop for crop, _ in self.curated.kept)
        return {crop.face.image_sha256: crop for crop in [*self.crops.values(), *kept]}

    @cached_property
    def rejections(self) -> dict[Reason, list[Rejection]]:
        """Every rejection by its reason, in the order of the pipeline and of the refs."""
        found = defaultdict(list)
        for rejection in [*self.crawled.rejections, *self.aligned.rejections, *self.curated.rejections]:
            found[rejection.reason].append(rejection)
        return {reason: sorted(found[reason], key=_by_ref) for reason in in_order(found)}

    @cached_property
    def fates(self) -> dict[tuple[str | None, int | None], Reason]:
        """Why faces were rejected, by photograph and face index."""
        return {(r.photo_sha256, r.face_index): r.reason for r in self.curated.rejections}

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
        for reason, rejections in self.rejections.items():
            of_faces = rejections[0].face_index is not None
            unit, total = ("faces", len(self.crops)) if of_faces else ("photographs", len(self.crawled.items))
            rows.append(
                {
                    "name": reason.value,
                    "meaning": reason.meaning,
                    "count": len(rejections),
                    "unit": unit,
                    "percent": 100 * len(rejections) / max(total, len(rejections)),
                }
            )
        return rows

    def index(self) -> dict[str, Any]:
        """The first page."""
        kept = [crop for crop, _ in self.curated.kept]
        return {
            "source": self.record["config"]["source"],
            "built_at": datetime.fromisoformat(self.record["finished_at"]).strftime("%Y-%m-%d %H:%M UTC"),
            "resolution": self.dataset.resolution,
            "totals": [
                ("photographs listed", len(self.crawled.items)),
                ("read", len(self.crawled.photos)),
                ("different, with a face", len({sha256 for sha256, _ in self.crops})),
                ("faces", len(self.crops)),
                ("images kept", len(kept)),
            ],
            "other_seconds": self.record["seconds"]
            - sum(t["seconds"] for t in self.record["timings"].values()),
            "config": json.dumps(self.record["config"], indent=2, ensure_ascii=False),
            "kept": self._of_crops(evenly(kept, KEPT_SHOWN), THUMBNAIL_PX),
            "num_kept": len(kept),
            "scores": self._scores(),
        }

    def reason(self, reason: Reason) -> dict[str, Any]:
        """The page of one reason; where it has one threshold, those that miss it by least come first."""
        rejections = self.rejections[reason]
        mine = [rule for rule in self.rules if rule.reason is reason and rule.is_on]
        if len(mine) == 1:
            rejections = sorted(rejections, key=lambda rejection: self._miss(mine[0], rejection))
        shown = evenly(rejections, REJECTED_SHOWN)
        pictures = self._of_rejections(shown)
        return {
            "reason": reason.value,
            "meaning": reason.meaning,
            "count": len(rejections),
            "nearest_first": len(mine) == 1,
            "has_twins": any(picture.twin for picture in pictures),
            "pictures": [picture for picture in pictures if picture.data],
            "texts": [picture for picture in pictures if not picture.data],
        }

    def _scores(self) -> list[ScoreRow]:
        crops = list(self.crops.values())
        kept = np.array([identity not in self.fates for identity in self.crops], bool)
        values = {score: np.array([score.of(crop.face) for crop in crops], float) for score in NUMBERS}
        limits = {score: self._limits(score) for score in NUMBERS}
        outside = {score: limits[score].outside(found) for score, found in values.items()}
        num_failed = np.sum(list(outside.values()), axis=0)
        rows = []
        for score, found in values.items():
            known = np.isfinite(found)
            if not known.any():
                continue
            mine = [rule for rule in self.rules if rule.score is score]
            reasons = {rule.reason: None for rule in mine if rule.is_on and rule.reason in self.rejections}
            rows.append(
                ScoreRow(
                    score,
                    _limits_text(score, limits[score]),
                    [rule.setting for rule in mine],
                    [reason.value for reason in reasons],
                    len(crops),
                    int(outside[score].sum()),
                    int((outside[score] & (num_failed == 1)).sum()),
                    int((~known).sum()),
                    [score.text(q) for q in np.quantile(found[known], [0, 0.05, 0.5, 0.95, 1]).tolist()],
                    histogram(found[known], kept[known], limits[score]),
                    self._samples(score, found, limits[score], crops),
                )
            )
        return rows

    def _samples(
        self, score: Score, found: Values, limits: Limits, crops: Sequence[Crop]
    ) -> list[tuple[str, bool, list[Picture]]]:
        side = min(SAMPLE_PX, self.dataset.resolution)
        groups = samples(found, limits)
        return [
            (group.title, group.passes, self._of_crops([crops[n] for n in group.numbers], side, score))
            for group in groups
        ]

    def _limits(self, score: Score) -> Limits:
        mine = [rule for rule in self.rules if rule.score is score]
        low = max((rule.low for rule in mine if rule.low is not None), default=-math.inf)
        return Limits(low, min((rule.high for rule in mine if rule.high is not None), default=math.inf))

    def _miss(self, rule: Rule, rejection: Rejection) -> float:
        """By how much a rejected face misses a threshold; infinite where that is not known."""
        crop = self.crops.get((rejection.photo_sha256 or "", rejection.face_index))
        value = None if crop is None else rule.value(crop.face)
        if value is None:
            return math.inf
        bounds = (rule.low, value), (value, rule.high)
        return max(high - low for high, low in bounds if high is not None and low is not None)

    def _of_crops(self, crops: Sequence[Crop], side_px: int, score: Score | None = None) -> list[Picture]:
        """Crops as pictures, with their value of a score."""
        data = self.thumbnails.data_uris(crops, side_px)
        return [
            self._picture(crop, found, None if score is None else _shown(score, crop.face))
            for crop, found in zip(crops, data, strict=True)
        ]

    def _of_rejections(self, rejections: Sequence[Rejection]) -> list[Picture]:
        """Rejections as pictures: the crop, or else the photograph, and beside it what is kept in its place."""
        whole = [number for number, rejection in enumerate(rejections) if rejection.reason in FACELESS]
        whole = evenly(whole, PHOTOS_SHOWN)
        sources: list[Crop | str | None] = [
            rejection.photo_sha256 if number in whole else self._crop_of(rejection)
            for number, rejection in enumerate(rejections)
        ]
        twins = [self._twin_of(rejection) for rejection in rejections]
        twin_data = self.thumbnails.data_uris(twins, THUMBNAIL_PX)
        pictures = []
        for rejection, source, data, twin, other in zip(
            rejections,
            sources,
            self.thumbnails.data_uris(sources, THUMBNAIL_PX),
            twins,
            twin_data,
            strict=True,
        ):
            item = self.crawled.items[rejection.ref]
            face = source.face if isinstance(source, Crop) else None
            pair = None if twin is None else self._picture(twin, other, "kept in its place")
            note = None if pair is not None and rejection.detail == pair.name else rejection.detail
            tip = _tip(item, face)
            pictures.append(Picture(data, rejection.ref, note, tip, _link(item), face is None, twin=pair))
        return pictures

    def _picture(self, crop: Crop, data: str | None, note: str | None) -> Picture:
        item = self.items[crop.face.photo_sha256]
        reason = self.fates.get((crop.face.photo_sha256, crop.face.face_index))
        fate = "kept" if reason is None else f"rejected: {reason}"
        return Picture(data, item.ref, note, f"{_tip(item, crop.face)}\n{fate}", _link(item), reason=reason)

    def _crop_of(self, rejection: Rejection) -> Crop | None:
        """A rejected face's crop; of a rejected photograph that of its largest face."""
        return self.crops.get((rejection.photo_sha256 or "", rejection.face_index or 0))

    def _twin_of(self, rejection: Rejection) -> Crop | None:
        """The crop that a duplicate points at, by its image's sha256 or its photograph's."""
        sha256 = rejection.duplicate_of
        return None if sha256 is None else self.crops_by_image.get(sha256) or self.crops.get((sha256, 0))


def _limits_text(score: Score, limits: Limits) -> str | None:
    low, high = (score.text(limit) for limit in (limits.low, limits.high))
    if len(limits.cuts) == 2:
        return f"{low} to {high}"
    if math.isfinite(limits.low):
        return f"{low} or more"
    return f"{high} or less" if limits.cuts else None


def _shown(score: Score, face: Face) -> str | None:
    """A face's score as text; None where there is no such number."""
    value = score.of(face)
    return None if value is None or not math.isfinite(value) else score.text(value)


def _tip(item: Item, face: Face | None) -> str:
    """What is known of a photograph and its face, a line each."""
    known = {"title": item.title, "author": item.author, "licence": item.license}
    lines = [item.ref, *(f"{name}: {value}" for name, value in known.items() if value)]
    if face is not None:
        lines.append(f"key: {face.image_sha256[:KEY_DIGITS]}")
        values = ((score, _shown(score, face)) for score in NUMBERS)
        lines += [f"{score.title.lower()}: {value}" for score, value in values if value is not None]
    return "\n".join(lines)


def _link(item: Item) -> str | None:
    """The photograph's page, or else its own address, where a browser may follow it."""
    for address in (item.page, item.ref):
        try:
            parts = urlsplit(address or "")
        except ValueError:
            continue
        if address and parts.scheme in ("http", "https") and parts.netloc:
            return address
    return None


def _by_ref(rejection: Rejection) -> tuple[str, int]:
    return rejection.ref, -1 if rejection.face_index is None else rejection.face_index
