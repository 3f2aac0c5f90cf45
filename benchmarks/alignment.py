"""The official FFHQ path against this project's, on the same photographs, in one run: time, scaling, memory.

    python benchmarks/alignment.py FOLDER... --parts paths --photos 12 --megapixels 2
    python benchmarks/alignment.py FOLDER... --parts memory --soak 5000

FOLDER holds photographs of faces. With --megapixels they are enlarged to that size and grained first, for want of large
ones. The official path is written from its description: decode by Pillow, dlib's detector on the full-size photograph
upsampled once, landmarks, exact mode, PNG of level 6. Everything runs on one thread; times are of the CPU. Of the part
paths either path has a process of its own, and they take turns, photograph by photograph, so that other work on the
machine slows both. `all` and `faster` hold the scores, which the official path does not measure.
"""

from __future__ import annotations

import argparse
import io
import resource
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path

import cv2
import dlib
import numpy as np
import torch
from numpy.typing import NDArray
from photographs import files, need
from PIL import Image

from flows.operations.cluster import open_workers
from preprocessing.faces import FacesConfig, faces_in_photo
from preprocessing.photo.align import AlignConfig, aligned_crop, crop_quad, quad_side
from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.photo.detect import DetectConfig, detect_faces, landmarks_in_box
from preprocessing.photo.encode import EncodeConfig, encoded
from preprocessing.photo.memory import keep_freed_memory
from preprocessing.reject import Rejected
from preprocessing.scores.score import ScoreConfig, score_face

STAGES = ("decode", "detect", "landmarks", "crop", "encode", "scores")
OUTPUTS = (
    (1024, 512, (EncodeConfig(), EncodeConfig(format="jpeg"))),
    (256, 256, (EncodeConfig(),)),
    (256, 128, (EncodeConfig(),)),
)
"""Side of the crop, smallest quad, and encodings of our path."""


class Clock:
    """CPU and wall seconds by stage."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = defaultdict(float)
        self.wall: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time of a with-block to a stage."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu[stage] += time.process_time() - cpu
        self.wall[stage] += time.perf_counter() - wall


def official(data: bytes, output_px: int, min_quad_px: int, clock: Clock) -> int:
    """One photograph along the official path; the number of crops."""
    with clock("decode"):
        photo = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    with clock("detect"):
        boxes = DETECTOR(photo, 1)
    crops = 0
    for box in boxes:
        with clock("landmarks"):
            points = landmarks_in_box(
                photo, (box.left(), box.top(), box.right(), box.bottom()), DetectConfig()
            )
        if quad_side(crop_quad(points)) >= min_quad_px:
            with clock("crop"):
                crop = aligned_crop(photo, points, AlignConfig(output_px=output_px, mode="exact"))
            with clock("encode"):
                Image.fromarray(crop).save(io.BytesIO(), "PNG", compress_level=6)
            crops += 1
    return crops


def ours(data: bytes, output_px: int, min_quad_px: int, encode: EncodeConfig, clock: Clock) -> int:
    """One photograph along this project's path; the number of crops."""
    detect = DetectConfig(min_quad_px=min_quad_px)
    with clock("decode"):
        photo = decode(data, DecodeConfig())
    with clock("detect"):
        found = detect_faces(photo, detect)
    crops = 0
    for face in found:
        with clock("landmarks"):  # once more, to tell them from detection, which did them too
            landmarks_in_box(photo, face.box_px, detect)
        quad = crop_quad(face.landmarks)
        if quad_side(quad) >= min_quad_px:
            with clock("crop"):
                crop = aligned_crop(photo, face.landmarks, AlignConfig(output_px=output_px))
            with clock("encode"):
                encoded(crop, encode)
            with clock("scores"):
                score_face(photo, crop, face.landmarks, quad, ScoreConfig(), detect)
            crops += 1
    for times in (clock.cpu, clock.wall):
        times["detect"] -= times["landmarks"] - times["counted"]
        times["counted"] = times["landmarks"]
    return crops


def print_paths(photos: Sequence[bytes]) -> None:
    """End to end and by stage, for each output and encoding."""
    print(f"{'path, CPU ms a photograph':<48}" + "".join(f"{name:>11}" for name in (*STAGES, "all")) +
          f"{'wall':>8}{'crops':>7}{'faster':>9}")  # fmt: skip
    # a fresh process each: what one frees and keeps of memory must not help the other
    with own_process(False) as theirs, own_process(True) as mine:
        for output_px, min_quad_px, encodes in OUTPUTS:
            slow, fast = Timed(), [Timed() for _ in encodes]
            for data in photos:
                slow.add(*theirs.submit(timed_official, data, output_px, min_quad_px).result())
                for encode, timed in zip(encodes, fast, strict=True):
                    timed.add(*mine.submit(timed_ours, data, output_px, min_quad_px, encode).result())
            name = f"official, PNG level 6, {output_px} px, quad >= {min_quad_px}"
            print_path(name, slow, slow, len(photos))
            for encode, timed in zip(encodes, fast, strict=True):
                name = f"fast, {encode.format}, {output_px} px, quad >= {min_quad_px}"
                print_path(name, timed, slow, len(photos))


class Timed:
    """What several photographs took by stage, CPU and wall seconds, and the crops they gave."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = defaultdict(float)
        self.wall: dict[str, float] = defaultdict(float)
        self.crops = 0

    def add(self, crops: int, cpu: dict[str, float], wall: dict[str, float]) -> None:
        """One photograph more."""
        self.crops += crops
        for stage in STAGES:
            self.cpu[stage] += cpu.get(stage, 0.0)
            self.wall[stage] += wall.get(stage, 0.0)


@contextmanager
def own_process(keeping: bool) -> Iterator[ProcessPoolExecutor]:
    """A new process with everything on one thread, that keeps freed memory as a build's workers do, or does not."""
    with ProcessPoolExecutor(1, get_context("spawn"), begin, (keeping,)) as process:
        yield process


def begin(keeping: bool) -> None:
    """Of a process: one thread, and models loaded by a look at nothing."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    if keeping:
        keep_freed_memory()
    grey = np.full((400, 400, 3), 128, np.uint8)
    detect_faces(grey, DetectConfig())
    DETECTOR(grey, 0)
    landmarks_in_box(grey, (100, 100, 300, 300), DetectConfig())


def timed_official(
    data: bytes, output_px: int, min_quad_px: int
) -> tuple[int, dict[str, float], dict[str, float]]:
    """The official path in this process: crops, CPU and wall seconds by stage."""
    clock = Clock()
    return official(data, output_px, min_quad_px, clock), dict(clock.cpu), dict(clock.wall)


def timed_ours(
    data: bytes, output_px: int, min_quad_px: int, encode: EncodeConfig
) -> tuple[int, dict[str, float], dict[str, float]]:
    """Our path in this process, as the official one."""
    clock = Clock()
    return ours(data, output_px, min_quad_px, encode, clock), dict(clock.cpu), dict(clock.wall)


def print_path(name: str, timed: Timed, reference: Timed, count: int) -> None:
    """One row."""
    total, wall = sum(timed.cpu.values()), sum(timed.wall.values())
    faster = sum(reference.cpu.values()) / total
    cells = "".join(f"{1000 * timed.cpu[stage] / count:>11.1f}" for stage in STAGES)
    print(f"{name:<48}{cells}{1000 * total / count:>11.1f}{1000 * wall / count:>8.0f}{timed.crops:>7}{faster:>8.1f}x",
          flush=True)  # fmt: skip


def print_crops(photos: Sequence[bytes]) -> None:
    """The crop stage alone, by the ratio of quad to output, from the same landmarks."""
    found = []
    for data in photos:
        photo = decode(data, DecodeConfig())
        found += [(photo, face.landmarks) for face in detect_faces(photo, DetectConfig(min_quad_px=128))[:1]]
    print(f"{'crop, quad over output':<32}{'exact ms':>10}{'fast ms':>10}{'faster':>9}{'median':>9}")
    for output_px in (1024, 256):
        for ratio in (0.25, 0.5, 1, 2, 4):
            times = []
            for photo, points in found:
                scaled, at = rescaled(photo, points, ratio * output_px)
                if scaled.shape[0] * scaled.shape[1] > 40_000_000:
                    continue
                pair = []
                try:
                    for mode, runs in (
                        ("exact", 1),
                        ("fast", 3),
                    ):  # the mean of three: photographs come in series
                        config = AlignConfig.model_validate({"output_px": output_px, "mode": mode})
                        start = time.process_time()
                        for _ in range(runs):
                            aligned_crop(scaled, at, config)
                        pair.append((time.process_time() - start) / runs)
                except Rejected:
                    continue
                times.append(pair)
                if len(times) == 8 or sum(slow for slow, _ in times) > 40:
                    break
            exact, fast = (1000 * sum(column) / len(times) for column in zip(*times, strict=True))
            median = statistics.median(a / b for a, b in times)
            print(f"{ratio:>5} at {output_px:<24}{exact:>10.0f}{fast:>10.1f}{exact / fast:>8.0f}x{median:>8.0f}x",
                  flush=True)  # fmt: skip


def rescaled(
    photo: NDArray[np.uint8], points: NDArray[np.float64], side: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Photograph and landmarks so that the quad has this side."""
    factor = side / quad_side(crop_quad(points))
    size = round(photo.shape[1] * factor), round(photo.shape[0] * factor)
    return np.array(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS)), (
        points + 0.5
    ) * factor - 0.5


def print_scaling(photos: Sequence[bytes], rounds: int = 8) -> None:
    """Photographs a second with 1 and with 2 Dask workers, after a first round that warms them up."""
    work = partial(align_chunk, config=FacesConfig(align=AlignConfig(output_px=256)))
    chunks = [[data] for data in photos] * rounds
    rates = []
    for workers in (1, 2):
        with open_workers(None, workers) as cluster:
            list(cluster.map(work, chunks[: len(photos)]))
            start = time.perf_counter()
            list(cluster.map(work, chunks))
            rates.append(len(chunks) / (time.perf_counter() - start))
    print(f"scaling: {rates[0]:.1f} photographs a second with 1 worker, {rates[1]:.1f} with 2: "
          f"{rates[1] / rates[0]:.2f}x", flush=True)  # fmt: skip


def align_chunk(chunk: Sequence[bytes], config: FacesConfig) -> int:
    """What a Dask worker does here: every face of a chunk; their number."""
    return sum(len(faces_in_photo("", "", data, config)) for data in chunk)


def print_memory(photos: Sequence[bytes], count: int) -> None:
    """Resident memory along many photographs in one process."""
    config = FacesConfig(align=AlignConfig(output_px=256))
    print("memory: after", end="")
    for done, data in enumerate(islice(cycle(photos), count), start=1):
        faces_in_photo("", "", data, config)
        if done in (len(photos), count // 4, count // 2, count):
            rss = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
            print(f"  {done} photographs {rss / 2**20:.0f} MiB", end="", flush=True)
    print(f"; highest {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def enlarged(data: bytes, megapixels: float) -> bytes:
    """A photograph brought to a size, with grain as of a camera at that size."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    factor = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
    image = image.resize(
        (round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS
    )
    pixels = np.asarray(image) + np.random.default_rng(0).normal(0, 2, (image.height, image.width, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


DETECTOR = dlib.get_frontal_face_detector()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--megapixels", type=float)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=["paths", "crops", "scaling"])
    parser.add_argument(
        "--soak", type=int, default=5000, metavar="COUNT", help="photographs of the part memory"
    )
    given = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    paths = files(given.folders, parser)
    photos: list[bytes] = []
    for path in paths[:: max(len(paths) // given.photos, 1)]:
        if len(photos) == given.photos:
            break
        data = path.read_bytes()
        try:
            if detect_faces(decode(data, DecodeConfig()), DetectConfig(min_quad_px=128)):
                photos.append(enlarged(data, given.megapixels) if given.megapixels else data)
        except Rejected:
            continue
    need(len(photos), f"photograph in which a face is found among {len(paths)} files", given.folders, parser)
    print(f"{len(photos)} photographs with faces"
          + (f", enlarged to {given.megapixels:g} megapixels" if given.megapixels else "") + "\n")  # fmt: skip
    for part in given.parts:
        start = time.perf_counter()
        PARTS[part](photos, *([given.soak] if part == "memory" else []))
        print(f"({part}: {time.perf_counter() - start:.0f} s)\n", flush=True)


PARTS: dict[str, Callable[..., None]] = {
    "paths": print_paths,
    "crops": print_crops,
    "scaling": print_scaling,
    "memory": print_memory,
}


if __name__ == "__main__":
    main()
