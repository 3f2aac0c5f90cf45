"""Whether an invisible watermark outlives JPEG at quality 75 and halving, in pictures of the size drawn here.

    pip install --no-deps blind-watermark invisible-watermark PyWavelets
    python benchmarks/watermarks.py --num 200

Each library hides 32 bits in pictures by the generator in the box: one of 128 px, and grids of them of 256 and 512 px.
A mark counts as detected where 30 bits or more are right, which random bits are once in eight million. A halved picture
is enlarged again before it is read. Printed are the shares detected untouched, after JPEG, after halving, after both
and after a crop, and the PSNR that the mark costs. Not here: TrustMark, whose weights are not in its package.
"""

from __future__ import annotations

import argparse
import io
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from training.drawing.images import images_from_seeds
from training.drawing.trained import open_bundled

Picture = NDArray[np.uint8]
"""(H, W, 3)."""
BITS = np.random.default_rng(0).integers(0, 2, 32)
NEEDED = 30


def jpeg(picture: Picture) -> Picture:
    """Through JPEG at quality 75."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=75)
    return np.asarray(Image.open(file))


def halved(picture: Picture) -> Picture:
    """Half as wide and high, and back."""
    height, width = picture.shape[:2]
    small = Image.fromarray(picture).resize((width // 2, height // 2), Image.Resampling.LANCZOS)
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def cropped(picture: Picture) -> Picture:
    """Without a twentieth at each side."""
    margin = len(picture) // 20
    return np.ascontiguousarray(picture[margin:-margin, margin:-margin])


ATTACKS: dict[str, Callable[[Picture], Picture]] = {
    "untouched": lambda picture: picture,
    "jpeg": jpeg,
    "halved": halved,
    "both": lambda picture: jpeg(halved(picture)),
    "cropped": cropped,
}


def detected(read: Callable[[Picture], NDArray[np.int_]], picture: Picture) -> bool:
    """Whether enough bits are right; a picture that a library calls too small for it holds none."""
    try:
        return bool((read(picture) == BITS).sum() >= NEEDED)
    except RuntimeError:
        return False


def imwatermark(method: str) -> tuple[Callable[[Picture], Picture], Callable[[Picture], NDArray[np.int_]]]:
    """invisible-watermark's methods: what marks and what reads."""
    from imwatermark import WatermarkDecoder, WatermarkEncoder

    encoder, decoder = WatermarkEncoder(), WatermarkDecoder("bits", 32)
    encoder.set_watermark("bits", BITS.tolist())
    if method == "rivaGan":
        WatermarkEncoder.loadModel()
        WatermarkDecoder.loadModel()
    return (
        lambda picture: encoder.encode(picture[..., ::-1].copy(), method)[..., ::-1],
        lambda picture: np.asarray(decoder.decode(picture[..., ::-1].copy(), method)).astype(int),
    )


def blind() -> tuple[Callable[[Picture], Picture], Callable[[Picture], NDArray[np.int_]]]:
    """blind-watermark: what marks and what reads."""
    from blind_watermark import WaterMark, bw_notes

    bw_notes.close()

    def mark(picture: Picture) -> Picture:
        one = WaterMark(password_img=1, password_wm=1)
        one.read_img(img=picture[..., ::-1].copy())
        one.read_wm(BITS.astype(bool), mode="bit")
        return np.clip(np.rint(one.embed()), 0, 255).astype(np.uint8)[..., ::-1]

    def read(picture: Picture) -> NDArray[np.int_]:
        one = WaterMark(password_img=1, password_wm=1)
        return (one.extract(embed_img=picture[..., ::-1].copy(), wm_shape=32, mode="bit") > 0.5).astype(int)

    return mark, read


METHODS: dict[
    str, Callable[[], tuple[Callable[[Picture], Picture], Callable[[Picture], NDArray[np.int_]]]]
] = {
    "invisible-watermark dwtDct": lambda: imwatermark("dwtDct"),
    "invisible-watermark dwtDctSvd": lambda: imwatermark("dwtDctSvd"),
    "invisible-watermark rivaGan": lambda: imwatermark("rivaGan"),
    "blind-watermark": blind,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=200, help="pictures of each size")
    parser.add_argument("--sides", type=int, nargs="*", default=[128, 256, 512], help="sides, px")
    options = parser.parse_args()
    num = options.num
    trained = open_bundled(torch.device("cpu"))
    faces = images_from_seeds(trained.generator, range(num), 0.7, truncation_cutoff=trained.cutoff)
    faces = faces.transpose(0, 2, 3, 1)
    for side in options.sides:
        across = side // 128
        pictures = []
        for first in range(num):
            chosen = faces[(first + np.arange(across * across)) % num].reshape(across, across, 128, 128, 3)
            pictures.append(chosen.transpose(0, 2, 1, 3, 4).reshape(side, side, 3))
        for name, method in METHODS.items():
            try:
                mark, read = method()
                marked = [np.ascontiguousarray(mark(picture)) for picture in pictures]
            except Exception as error:
                print(f"{side:4} px  {name:32} {type(error).__name__}: {error}", flush=True)
                continue
            found = {
                attack: np.mean([detected(read, harm(one)) for one in marked])
                for attack, harm in ATTACKS.items()
            }
            squared = np.mean(
                [np.square(a.astype(float) - b).mean() for a, b in zip(marked, pictures, strict=True)]
            )
            shares = "  ".join(f"{attack} {share:6.1%}" for attack, share in found.items())
            print(f"{side:4} px  {name:32} {shares}  {10 * math.log10(255**2 / squared):.1f} dB", flush=True)


if __name__ == "__main__":
    main()
