"""The explorer as one file that opens from disk: the generator as ONNX, and what draws with it, inside the page.

    write_static(trained, Path("explorer.html"), Path("node_modules/onnxruntime-web"))

It needs onnxruntime-web, a package of npm, whose two files are copied into the page, if they are the ones that are on
record. Not here: the page (`flows.explorer.page`), and how ONNX is written (`training.drawing.export`).
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import tempfile
from pathlib import Path
from typing import Any

from flows.explorer.page import WEB, about_stage, page, shares
from storage.digest import file_digest
from storage.errors import ConfigError, IntegrityError
from storage.local import write_whole
from training.drawing.export import export_parts
from training.drawing.marks import xmp_packet
from training.drawing.previews import fit_colours
from training.drawing.trained import Trained
from training.drawing.views import LEAST_LEVEL, Stage

RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_FILES = {
    "ort-code": (
        "dist/ort.wasm.bundle.min.mjs",
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    "ort-wasm": (
        "dist/ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}
"""By the name that the page knows each by: the file in the package, and its sha256."""

NETWORKS = ("mapping", "lower", "upper")


def check_runtime(folder: Path) -> None:
    """ConfigError where the package is not there, IntegrityError where it is another version or was changed."""
    for name, sha256 in RUNTIME_FILES.values():
        path = folder / name
        if not path.is_file():
            raise ConfigError(
                f"a page without a server needs onnxruntime-web, and {path} is not there: npm install {RUNTIME}, "
                "or name its folder by --runtime"
            )
        if (found := file_digest(path)) != sha256:
            raise IntegrityError(f"{path} has sha256 {found}, not {sha256}: it is not of {RUNTIME}")


def write_static(trained: Trained, path: Path, runtime: Path) -> dict[str, Any]:
    """Write the page, and return what it says of the generator and how large it is."""
    check_runtime(runtime)
    stage = Stage(trained)
    generator = stage.generator
    level = max(LEAST_LEVEL, stage.num_layers // 2 - 3)
    colours = fit_colours(generator, level, trained.cutoff)
    about = {
        **about_stage(stage, []),
        "preview_px": colours.side_px,
        "has_nearest": False,
        "has_film": False,
        "shares": shares(stage),
    }
    data = {
        "about": about,
        "origin": trained.origin,
        "xmp": xmp_packet(trained.origin),
        "z_dim": generator.z_dim,
        "num_layers": generator.synthesis.num_layers,
        "num_lower": 2 * level + 2,
        "w_avg": _rounded(generator.w_avg.tolist()),
        "vectors": [
            {
                "name": one.name,
                "layers": [one.layers.start, one.layers.stop],
                "deviation": one.deviation,
                "vector": _rounded(one.vector_D.tolist()),
            }
            for one in stage.directions.values()
        ],
    }
    parts = {key: (runtime / name).read_bytes() for key, (name, _) in RUNTIME_FILES.items()}
    with tempfile.TemporaryDirectory() as folder:
        difference = export_parts(trained, Path(folder), colours)
        for name in NETWORKS:
            parts[name] = (Path(folder) / f"{name}.onnx").read_bytes()
    blocks = [_block(key, value) for key, value in parts.items()]
    said = json.dumps(data).replace("<", "\\u003c")
    licence = html.escape(f"{RUNTIME}, Copyright (c) Microsoft Corporation, MIT License")
    markup = "\n".join([f"<!-- {licence} -->", *blocks, f"<script>window.LIKENESS = {said};</script>"])
    text = page(markup, (WEB / "onnx.js").read_text(encoding="utf-8"))
    write_whole(path, text.encode())
    return {**trained.origin, "num_bytes": len(text.encode()), "max_difference": difference}


def _block(key: str, data: bytes) -> str:
    """Bytes in a page: packed, and as text that no browser runs."""
    packed = base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()
    return f'<script type="text/plain" id="{key}">{packed}</script>'


def _rounded(values: list[float]) -> list[float]:
    """To what a float32 tells apart."""
    return [float(f"{value:.8g}") for value in values]
