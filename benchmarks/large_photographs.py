"""Memory and time that a photograph of a hundred megapixels and more takes, from its bytes to the crop.

    python benchmarks/large_photographs.py PORTRAIT

PORTRAIT, a photograph of one face, is enlarged to each size; every figure is of a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from preprocessing.faces import FacesConfig, faces_in_photo
from preprocessing.photo.align import AlignConfig
from preprocessing.photo.decode import DecodeConfig
from preprocessing.records import Face

CASES = (
    ("JPEG", (12_000, 9_000), 80_000_000),
    ("JPEG", (16_320, 12_240), 80_000_000),
    ("JPEG", (16_320, 12_240), 300_000_000),
    ("PNG", (10_000, 7_900), 80_000_000),
)


def measure(path: Path, max_pixels: int) -> None:
    """Print what one photograph takes in this process."""
    data = path.read_bytes()
    config = FacesConfig(decode=DecodeConfig(max_pixels=max_pixels), align=AlignConfig(output_px=1024))
    before, clock = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    results = faces_in_photo(path.name, "", data, config)
    seconds = time.process_time() - clock
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6
    faces = sum(isinstance(result, Face) for result in results)
    print(f"{path.name}, at most {max_pixels}: {faces} faces, {added:.2f} GB more, {seconds:.1f} CPU s")


def main() -> None:
    """Enlarge the portrait and measure each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("portrait", type=Path)
    parser.add_argument("--max-pixels", type=int, help="measure this very file, in this process")
    arguments = parser.parse_args()
    if not arguments.portrait.is_file():
        parser.error(f"{arguments.portrait} is no photograph")
    if arguments.max_pixels:
        return measure(arguments.portrait, arguments.max_pixels)
    Image.MAX_IMAGE_PIXELS = None
    with tempfile.TemporaryDirectory() as folder:
        for file_format, size, max_pixels in CASES:
            path = Path(folder) / f"{size[0]}x{size[1]}.{file_format.lower()}"
            if not path.exists():
                photo = Image.open(arguments.portrait).convert("RGB").resize(size, Image.Resampling.BICUBIC)
                photo.save(
                    path, file_format, **({"compress_level": 1} if file_format == "PNG" else {"quality": 90})
                )
            subprocess.run([sys.executable, __file__, str(path), "--max-pixels", str(max_pixels)], check=True)


if __name__ == "__main__":
    main()
