"""A film of one smooth closed walk through the styles of some seeds, noise held still.

Frames are H.264 in MP4, by PyAV, which the extra `video` installs. Not here: which generator, and the command.

    w_FLD = closed_loop(w_from_seeds(generator, [0, 1, 2], 0.7), 180)
    write_video(frames(generator, w_FLD, fixed_noise(generator, 0)), Path("loop.mp4"), 30, trained.origin)

Suffixes: F frames, K key frames, L layers, D entries of w.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from storage.errors import ConfigError
from storage.lineage.mp4 import LINEAGE, XMP, media_digest, uuid_box
from storage.lineage.origin import MEDIA_SHA256, whole_with_sidecar
from training.data import ImageArray
from training.drawing.images import images_from_w
from training.drawing.marks import Signer, xmp_packet
from training.networks import Generator

MIN_SIDE_PX = 256
"""Smaller frames are enlarged, since H.264 halves the resolution of colour."""
CRF = 16
"""x264's constant quality: lower is better, and 18 is hard to tell from the original."""


def closed_loop(w_KLD: Tensor, num_frames: int) -> Tensor:
    """Styles (F, L, D) along the periodic cubic spline through key frames (K, L, D), K being 2 or more.

    Frame 0 is the first key frame, and the one after the last frame would be it again.
    """
    keys = w_KLD.double().cpu().numpy()
    spline = CubicSpline(np.arange(len(keys) + 1), np.concatenate([keys, keys[:1]]), bc_type="periodic")
    points = spline(np.arange(num_frames) * len(keys) / num_frames)
    return torch.from_numpy(points).to(w_KLD)


def frames(
    generator: Generator, w_FLD: Tensor, noise: Sequence[Tensor], *, batch_size: int = 8
) -> Iterator[ImageArray]:
    """Pictures (H, W, 3), one a style, all with the same noise of one row a layer."""
    for start in range(0, len(w_FLD), batch_size):
        for image in images_from_w(generator, w_FLD[start : start + batch_size], noise):
            factor = max(1, MIN_SIDE_PX // image.shape[-1])
            yield image.transpose(1, 2, 0).repeat(factor, axis=0).repeat(factor, axis=1)


def check_video() -> None:
    """ConfigError where videos cannot be written here."""
    if importlib.util.find_spec("av") is None:
        raise ConfigError("a video needs PyAV: pip install 'likeness[video]'")


def write_video(
    pictures: Iterable[ImageArray],
    path: Path,
    fps: int,
    metadata: Mapping[str, Any],
    signer: Signer | None = None,
) -> dict[str, Any]:
    """Write pictures (H, W, 3) of even sides as H.264, and return the metadata that the film carries.

    That is `metadata`, a hash of the encoded frames and their number. It stands in a box of its own, beside XMP that
    says that a model drew it, and with the file's sha256 in a JSON file. The same pictures give the same bytes, but for
    a signature.
    """
    check_video()
    carried = dict(metadata)
    with whole_with_sidecar(path, carried) as partial:
        carried["frames"] = _encode(pictures, partial, fps, metadata)
        carried[MEDIA_SHA256] = media_digest(partial)
        with partial.open("ab") as file:
            file.write(uuid_box(XMP, xmp_packet(carried).encode()))
            file.write(uuid_box(LINEAGE, json.dumps(carried, sort_keys=True).encode()))
        if signer is not None:
            signer.sign(partial, "video/mp4", carried)
    return carried


def _encode(pictures: Iterable[ImageArray], path: Path, fps: int, metadata: Mapping[str, Any]) -> int:
    """The film alone, with a comment for players; how many frames it has."""
    import av

    count = 0
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        container.metadata["comment"] = json.dumps(dict(metadata), sort_keys=True)
        stream = container.add_stream("libx264", rate=fps)
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(CRF)}
        stream.codec_context.thread_count = 1  # more threads would make the bytes depend on their number
        for picture in pictures:
            if count == 0:
                stream.height, stream.width = picture.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
            count += 1
        container.mux(stream.encode())
    return count
