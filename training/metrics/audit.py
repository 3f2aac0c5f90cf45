"""The memorization audit: generated pictures against the crops the run was trained on.

    audit(run, run.newest_checkpoint(), AuditConfig(num_images=1000), device)

Writes <run>/audit/<checkpoint>.json, with the share of near-copies and where the photographs behind the closest pairs
came from, and beside it a PNG of those pairs: generated, nearest by embedding, nearest by pixels. What is near is
calibrated on held-out photographs; where these are another dataset, pictures are compared with them as well. Not here:
the mathematics (`training.metrics.memorization`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from storage.datasets.dataset import Dataset, open_part
from storage.errors import ConfigError, NotFoundError
from storage.local import write_whole
from storage.records import Inside, Part, StoredRecord
from storage.runs import Run
from storage.tables import Row
from storage.wording import numbered
from training.checkpoint import read_state
from training.config import TrainConfig
from training.data import ImageArray
from training.device import full_precision
from training.drawing.pictures import write_grid
from training.drawing.trained import grid_metadata
from training.extractors import Extractor, check_extractor, open_extractor
from training.extractors.weights import WeightsPlace
from training.metrics.crops import RealCrops
from training.metrics.memorization import (
    Nearest,
    References,
    calibrated_threshold,
    closest,
    coarse,
    copying,
    nearest,
    pixel_vectors,
    quantiles,
    share_nearer,
    unit_vectors,
)
from training.metrics.settings import AuditConfig
from training.metrics.subject import Subject

_FOLDER = "audit"
SPACES = ("embedding", "pixels")
SOURCE_COLUMNS = ("photo_sha256", "ref", "page", "author", "license", "license_url", "title")
SHEET_PX = 128


class ShareRecord(Part):
    """A share of the pictures, its interval at 95%, and what is expected of a generator that does not copy."""

    value: float
    low: float
    high: float
    expected: float


class CopyingRecord(Part):
    """Generated pictures between the training crops and as many held-out photographs."""

    nearer_to_training: ShareRecord
    """Than to held-out photographs, of as many training crops."""
    nearest_is_training: ShareRecord
    """Of all training crops and held-out photographs."""
    near_training: float
    """Near-copies of as many training crops."""
    near_held_out: float
    """Near-copies of held-out photographs, by the same threshold."""


class AuditRecord(StoredRecord):
    """What an audit found, and what that depends on."""

    FORMAT: ClassVar[int] = 2

    run_id: str
    checkpoint: str
    generator_sha256: str
    dataset: str
    dataset_manifest_sha256: str
    seeds: list[int]
    """Of the pairs' pictures."""
    truncation_psi: float
    seed: int
    num_images: int
    num_training_crops: int
    mirror_images: bool
    extractor: str
    weights_sha256: str
    resize: str
    percentile: float
    held_out: dict[str, Any]
    near_copies_in_either: float
    near_copies_in_both: float
    held_out_near_copies_in_either: float
    spaces: dict[str, dict[str, Any]]
    """The threshold, shares and quantiles of each of `SPACES`."""
    copying: dict[str, CopyingRecord] = Field({})
    """Of each of `SPACES`, where another dataset was held out."""
    sources: str
    pairs: list[dict[str, Any]]
    sheet: Inside
    """The picture of the pairs, in the run's folder."""
    seconds: float

    @classmethod
    def _converted(cls, value: dict[str, Any]) -> dict[str, Any]:
        """Format 1 said where the sheet lay on the machine that drew it."""
        sheet = f"{_FOLDER}/{PurePath(str(value.get('sheet'))).name}"
        return super()._converted({**value, "sheet": sheet})


def audit_path(run: Run, checkpoint: Path) -> Path:
    """Where the audit of a checkpoint is on record; its sheet lies beside."""
    return run.folder / _FOLDER / f"{checkpoint.name}.json"


@dataclass(frozen=True)
class Vectors:
    """Pictures in both spaces, in order, with what they are called, and their mirror images where those count."""

    keys: list[str]
    embedding: Tensor
    pixels: Tensor
    mirrored: Vectors | None = None

    def __getitem__(self, space: str) -> Tensor:
        return self.embedding if space == "embedding" else self.pixels

    def references(self, space: str, device: torch.device) -> References:
        """To compare with, in one space."""
        mirrored = self.mirrored[space].to(device) if self.mirrored else None
        return References(self[space].to(device), mirrored)

    def rows(self, chosen: list[int]) -> Vectors:
        """Some of them."""
        mirrored = self.mirrored.rows(chosen) if self.mirrored else None
        return Vectors([self.keys[i] for i in chosen], self.embedding[chosen], self.pixels[chosen], mirrored)


def check_audit(run: Run, config: AuditConfig) -> None:
    """Raise, before any work, the error that this audit would end in for want of weights or of its held-out dataset."""
    check_extractor(config.extractor, WeightsPlace(config.weights, config.weights_sha256))
    if config.held_out is not None:
        open_part(run.store, config.held_out)


def audit(run: Run, checkpoint: Path, config: AuditConfig, device: torch.device) -> AuditRecord:
    """Look for near-copies among a checkpoint's pictures, and put on record what was found."""
    begun = time.perf_counter()
    check_audit(run, config)
    state = read_state(checkpoint)
    x_flips = TrainConfig.recorded(state.config, f"checkpoint {checkpoint}").x_flips
    sources = _sources(run)
    with torch.random.fork_rng(devices=[]), full_precision(device):
        subject = Subject.of(
            run,
            checkpoint,
            device,
            psi=config.truncation_psi,
            seed=config.seed,
            batch_size=config.batch_size,
        )
        extractor = open_extractor(
            config.extractor, WeightsPlace(config.weights, config.weights_sha256), device
        )
        crops = subject.reals
        train = crop_vectors(crops, extractor, config.batch_size, with_mirrored=x_flips)
        held_out, about_held_out, own = _held_out(run, config, train, sources, extractor, crops.resolution)
        seeds = subject.seeds(config.num_images)
        fakes = vectors(_fakes(subject, config.num_images), extractor)

    found: dict[str, Nearest] = {}
    spaces: dict[str, dict[str, Any]] = {}
    between: dict[str, dict[str, Any]] = {}
    is_near, is_held_out_near = [], []
    for space in SPACES:
        references, queries = train.references(space, device), fakes[space].to(device)
        crops_MD, mirrored_MD = references.vectors_MD, references.mirrored_MD
        calibration = nearest(held_out[space].to(device), crops_MD, mirrored_MD, own).distance
        found[space] = nearest(queries, crops_MD, mirrored_MD)
        threshold = calibrated_threshold(calibration, config.percentile)
        is_near.append(found[space].distance < threshold)
        is_held_out_near.append(calibration < threshold)
        spaces[space] = {
            "threshold": threshold,
            "near_copies": share_nearer(found[space].distance, threshold),
            "held_out_near_copies": share_nearer(calibration, threshold),
            "generated": quantiles(found[space].distance),
            "held_out": quantiles(calibration),
        }
        if own is None and min(len(queries), len(train.keys)) > 1:
            others = held_out.references(space, device)
            between[space] = dataclasses.asdict(copying(queries, references, others, threshold, config.seed))
    thresholds = {space: spaces[space]["threshold"] for space in SPACES}
    chosen = closest([found[s].distance for s in SPACES], list(thresholds.values()), config.num_pairs)
    pairs = [_pair(index, seeds[index], found, thresholds, train.keys, sources) for index in chosen]
    path = audit_path(run, checkpoint)
    sheet = path.with_suffix(".png")
    lineage = {
        **grid_metadata(checkpoint, state),
        "seeds": [pair["seed"] for pair in pairs],
        "truncation_psi": subject.psi,
    }
    _write_sheet(sheet, subject, pairs, lineage)
    record = AuditRecord.new(
        **lineage,
        seed=config.seed,
        num_images=config.num_images,
        num_training_crops=len(train.keys),
        mirror_images=x_flips,
        extractor=extractor.name,
        weights_sha256=extractor.weights_sha256,
        resize=extractor.resize,
        percentile=config.percentile,
        held_out=about_held_out,
        near_copies_in_either=float(np.any(is_near, axis=0).mean()),
        near_copies_in_both=float(np.all(is_near, axis=0).mean()),
        held_out_near_copies_in_either=float(np.any(is_held_out_near, axis=0).mean()),
        spaces=spaces,
        copying=between,
        sources="from the dataset's tables" if sources else "the dataset's tables are not in this store",
        pairs=pairs,
        sheet=str(sheet.relative_to(run.folder)),
        seconds=round(time.perf_counter() - begun, 3),
    )
    write_whole(path, record.as_bytes())
    return record


# --------------------------------------------------------------------------------------------------------------
# Pictures


def crop_vectors(
    crops: RealCrops, extractor: Extractor, size: int, *, with_mirrored: bool, limit: int | None = None
) -> Vectors:
    """Of real crops, and of their mirror images where those were trained on."""
    found = [
        vectors(_batches(crops, size, limit, mirrored), extractor)
        for mirrored in ((False, True) if with_mirrored else (False,))
    ]
    return dataclasses.replace(found[0], mirrored=found[1]) if with_mirrored else found[0]


def _batches(
    crops: RealCrops, size: int, limit: int | None, mirrored: bool
) -> Iterator[tuple[list[str], Tensor]]:
    for keys, images in crops.batches(size, limit):
        pixels = torch.from_numpy(images)
        yield keys, pixels.flip(-1) if mirrored else pixels


def _fakes(subject: Subject, num: int) -> Iterator[tuple[list[str], Tensor]]:
    for images in subject.fakes(num):
        yield [""] * len(images), images


def vectors(batches: Iterable[tuple[list[str], Tensor]], extractor: Extractor) -> Vectors:
    """Of batches of pictures, uint8, with what they are called."""
    keys: list[str] = []
    embedding, pixels = [], []
    for names, images in batches:
        keys += names
        embedding.append(unit_vectors(extractor.features(coarse(images))))
        pixels.append(pixel_vectors(images).cpu())
    return Vectors(keys, torch.cat(embedding), torch.cat(pixels))


def _held_out(
    run: Run,
    config: AuditConfig,
    train: Vectors,
    sources: dict[str, Row],
    extractor: Extractor,
    resolution: int,
) -> tuple[Vectors, dict[str, Any], np.ndarray[Any, np.dtype[np.int64]] | None]:
    """The pictures that calibrate, what is said of them, and which training crop each one is, if it is one."""
    if config.held_out is None:
        if len(train.keys) < 2:
            raise ConfigError("an audit without --held-out needs two training crops or more")
        step = max(1, -(-len(train.keys) // config.num_held_out))
        chosen = list(range(0, len(train.keys), step))
        about = {
            "method": "leave-one-out: training crops against the other training crops",
            "num_images": len(chosen),
        }
        return train.rows(chosen), about, np.array(chosen, np.int64)
    dataset = open_part(run.store, config.held_out)
    trained_on = {row["photo_sha256"] for row in sources.values()}
    overlapping = {row["key"] for row in dataset.images() if row["photo_sha256"] in trained_on}
    overlapping |= {row["key"] for row in dataset.images() if row["key"] in set(train.keys)}
    crops = RealCrops.of(run.store, dataset.summary(), resolution)
    limit = config.num_held_out + len(overlapping)
    found = crop_vectors(
        crops, extractor, config.batch_size, with_mirrored=train.mirrored is not None, limit=limit
    )
    kept = [i for i, key in enumerate(found.keys) if key not in overlapping][: config.num_held_out]
    if len(kept) < 2:
        raise ConfigError(
            f"--held-out {config.held_out} has {numbered(len(kept), 'photograph')} that run {run.id} was not "
            f"trained on: name another dataset, or leave it out"
        )
    about = {
        "method": f"dataset {dataset.summary().part}",
        "num_images": len(kept),
        "num_left_out_as_trained_on": len(overlapping),
    }
    return found.rows(kept), about, None


# --------------------------------------------------------------------------------------------------------------
# Records


def _sources(run: Run) -> dict[str, Row]:
    """The training crops' rows by key; empty where the store has lost the version's tables."""
    try:
        dataset: Dataset = open_part(run.store, run.record.dataset.part)
    except (NotFoundError, ConfigError):
        return {}
    return {row["key"]: row for row in dataset.images()}


def _pair(
    index: int,
    seed: int,
    found: dict[str, Nearest],
    thresholds: dict[str, float],
    keys: list[str],
    sources: dict[str, Row],
) -> dict[str, Any]:
    """A generated picture and its nearest crop in each space, with the photographs these were cut from."""
    pair: dict[str, Any] = {"seed": seed}
    for space in SPACES:
        hit = found[space]
        key = keys[hit.index[index]]
        pair[space] = {
            "key": key,
            "mirrored": bool(hit.mirrored[index]),
            "distance": float(hit.distance[index]),
            "is_near_copy": bool(hit.distance[index] < thresholds[space]),
            "source": {column: sources[key][column] for column in SOURCE_COLUMNS} if key in sources else None,
        }
    return pair


def _write_sheet(path: Path, subject: Subject, pairs: list[dict[str, Any]], metadata: dict[str, Any]) -> None:
    """A row a pair: generated, nearest by embedding, nearest by pixels, mirrored as they were found."""
    crops = subject.reals.chosen({pair[space]["key"] for pair in pairs for space in SPACES})
    cells: list[ImageArray] = []
    for pair in pairs:
        cells.append(subject.images(range(pair["seed"], pair["seed"] + 1))[0])
        for space in SPACES:
            crop = crops[pair[space]["key"]]
            cells.append(crop[..., ::-1] if pair[space]["mirrored"] else crop)
    factor = max(1, subject.reals.resolution // SHEET_PX)
    pictures = torch.from_numpy(np.stack(cells)).float()
    shrunk = torch.nn.functional.avg_pool2d(pictures, factor).round().to(torch.uint8).numpy()
    write_grid(shrunk, path, {**metadata, "kind": "audit"}, columns=1 + len(SPACES))
