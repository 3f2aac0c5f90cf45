"""Decoding thousands of mutated files in processes of their own: none crashes, hangs or takes the memory."""

from __future__ import annotations

import faulthandler
import hashlib
import io
import multiprocessing
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.reject import Rejected

NUM_FILES = 10_000
NUM_WORKERS = 2
BATCH = 100
LIMIT_S = 60.0
"""For one file: the slowest takes a tenth of a second where nothing else runs, and its process is ended after this."""
LIMIT_MIB = 256
"""What a process may grow by over all its files. One picture of the largest size below takes about 60."""
CONFIG = DecodeConfig(max_pixels=4_000_000)


@cache
def originals() -> dict[str, bytes]:
    """Small files of every format and kind, with EXIF and a colour profile where it carries them."""
    y, x = np.mgrid[0:48, 0:64]
    image = Image.fromarray(np.stack([x * 4, y * 5, (3 * x + 2 * y) % 256], axis=-1).astype(np.uint8))
    turned = Image.Exif()
    turned[0x0112], turned[0x010F] = 6, "Maker"
    exif = turned.tobytes()
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    icc = icc.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    both = {"exif": exif, "icc_profile": icc}
    frames = {"save_all": True}
    deep = pillow_heif.from_bytes("RGB;16", image.size, (np.asarray(image).astype(np.uint16) * 257).tobytes())
    files: dict[str, tuple[str, Image.Image | pillow_heif.HeifFile, Mapping[str, object]]] = {
        "jpeg": ("JPEG", image, both),
        "jpeg progressive": ("JPEG", image, {"progressive": True, **both}),
        "jpeg restarts": ("JPEG", image, {"restart_marker_blocks": 1}),
        "jpeg grey": ("JPEG", image.convert("L"), both),
        "jpeg cmyk": ("JPEG", image.convert("CMYK"), {}),
        "jpeg rgb": ("JPEG", image, {"keep_rgb": True}),
        "jpeg twice": ("MPO", image, frames),
        "png": ("PNG", image, both),
        "png palette": ("PNG", image.convert("P"), {"transparency": bytes(range(0, 256, 2))}),
        "png 16": ("PNG", Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) * 257), {}),
        "png animated": ("PNG", image, frames),
        "webp": ("WEBP", image, both),
        "webp lossless": ("WEBP", image.convert("RGBA"), {"lossless": True}),
        "webp animated": ("WEBP", image, {**frames, **both}),
        "gif": ("GIF", image.convert("P"), {"transparency": 3}),
        "gif animated": ("GIF", image, frames),
        "bmp": ("BMP", image, {}),
        "bmp palette": ("BMP", image.convert("P"), {}),
        "tiff": ("TIFF", image, both),
        "tiff cmyk": ("TIFF", image.convert("CMYK"), {"compression": "tiff_lzw"}),
        "tiff deflate": ("TIFF", image, {"compression": "tiff_adobe_deflate"}),
        "tiff jpeg": ("TIFF", image, {"compression": "jpeg"}),
        "tiff bits": ("TIFF", image.convert("1"), {"compression": "group4"}),
        "tiff pages": ("TIFF", image, frames),
        "avif": ("AVIF", image, both),
        "avif alpha": ("AVIF", image.convert("RGBA"), {}),
        "avif animated": ("AVIF", image, frames),
        "heif": ("HEIF", image, both),
        "heif alpha": ("HEIF", image.convert("RGBA"), {}),
        "heif tiles": ("HEIF", image.resize((160, 120)), {"tile_size": 64}),
        "heif 10 bits": ("HEIF", deep, {}),
    }
    encoded = {}
    for name, (format, picture, options) in files.items():
        buffer = io.BytesIO()
        if isinstance(picture, Image.Image):
            # Copies, for Pillow's writers leave their settings on what they have written.
            more = {"append_images": [picture.rotate(5)]} if "save_all" in options else {}
            picture.copy().save(buffer, format, **options, **more)
        else:
            picture.save(buffer)
        encoded[name] = buffer.getvalue()
    return encoded


def mutated(number: int) -> tuple[str, bytes]:
    """The kind and bytes of one mutated file, the same for the same number: every kind in turn, one to three times."""
    rng = random.Random(number)
    files = originals()
    names = sorted(files)
    name = names[number % len(names)]
    data = bytearray(files[name])
    for _ in range(rng.choice((1, 1, 2, 3))):
        # Half of the time within the headers, where a byte does the most.
        at = rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 400))
        end = at + rng.choice((1, 4, 16, 64, 400))
        match rng.choice(("bits", "bits", "bytes", "number", "cut", "splice", "repeat", "drop", "fill")):
            case "bits":
                for _ in range(rng.choice((1, 2, 8, 32))):
                    data[min(len(data) - 1, at + rng.randrange(400))] ^= 1 << rng.randrange(8)
            case "bytes":
                data[at:at] = rng.randbytes(rng.choice((1, 2, 32)))
            case "number":
                value = rng.choice((0, 1, 255, 9_000, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1))
                data[at : at + 4] = value.to_bytes(4, rng.choice(("big", "little")))
            case "cut":
                del data[at + 1 :]
            case "splice":
                other = files[rng.choice(names)]
                data[at:] = other[rng.choice((at, rng.randrange(len(other)))) :]
            case "repeat":
                data[at:at] = data[at:end]
            case "drop":
                del data[at:end]
            case "fill":
                data[at:end] = rng.choice((b"\0", b"\xff")) * len(data[at:end])
        if not data:
            break
    return name, bytes(data)


def outcome(data: bytes) -> str:
    """The digest of the pixels that decoding gives, or its rejection in full; any other error escapes."""
    try:
        pixels = decode(data, CONFIG)
    except Rejected as rejected:
        return str(rejected)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert 0 < pixels.shape[0] * pixels.shape[1] <= CONFIG.max_pixels
    return "pixels " + hashlib.sha256(pixels.tobytes()).hexdigest()


def peak_mib() -> float:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


idle_mib: float
"""The most memory that a process of the pool held before the first file."""


def start() -> None:
    """Make a process of the pool ready: every reader loaded, so that what comes on top is the files'."""
    faulthandler.enable()
    for data in originals().values():
        assert outcome(data).startswith("pixels"), "an original is rejected"
    global idle_mib
    idle_mib = peak_mib()


def outcomes(first: int) -> tuple[list[tuple[str, str, str, float]], float]:
    """Of a batch of files, the kind, both outcomes and the seconds of each; and by how many MiB this process grew."""
    results = []
    for number in range(first, first + BATCH):
        name, data = mutated(number)
        faulthandler.dump_traceback_later(LIMIT_S, exit=True)  # also where a library hangs outside Python
        began = time.perf_counter()
        result = outcome(data)
        seconds = time.perf_counter() - began
        results.append((name, result, outcome(data), seconds))
        faulthandler.cancel_dump_traceback_later()
    return results, peak_mib() - idle_mib


def test_no_mutated_file_crashes_hangs_or_fills_the_memory() -> None:
    """Every one of thousands of mutated files gives pixels or a rejection, twice the same, soon and in little memory.

    A crash, a hang or any other exception in a process of the pool is raised here.
    """
    with ProcessPoolExecutor(NUM_WORKERS, multiprocessing.get_context("spawn"), start) as pool:
        futures = {first: pool.submit(outcomes, first) for first in range(0, NUM_FILES, BATCH)}
        batches = []
        for first, future in futures.items():
            try:
                batches.append(future.result())
            except BrokenProcessPool:
                pytest.fail(
                    f"a process died of one of the {NUM_WORKERS * BATCH} files from number {first} on"
                )
    files = [file for batch, _ in batches for file in batch]
    assert len(files) == NUM_FILES
    grown_mib = max(grown for _, grown in batches)
    assert grown_mib < LIMIT_MIB, f"a process grew by {grown_mib:.0f} MiB"
    slowest = max(files, key=lambda file: file[3])
    assert slowest[3] < LIMIT_S, slowest
    unlike = [file for file in files if file[1] != file[2]]
    assert not unlike, unlike[:3]
    accepted, rejected = Counter[str](), Counter[str]()
    for name, result, _, _ in files:
        (accepted if result.startswith("pixels") else rejected)[name] += 1
        assert " at 0x" not in result
        assert "/" not in result, result
    one_sided = [name for name in originals() if not (accepted[name] and rejected[name])]
    assert not one_sided, f"mutations of {one_sided} all end alike"
