"""The explorer's page as one text, and what it is told of a generator.

Not here: who draws (`flows.explorer.server`).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from storage.bundled.generator import BUNDLED, BUNDLED_SHA256
from storage.imports import IMPORTED
from training.drawing.directions import block_layers, blocks_of
from training.drawing.settings import METHODS
from training.drawing.views import NUM_DIRECTIONS, Stage

WEB = Path(__file__).with_name("web")


def page(data: str = "", *scripts: str) -> str:
    """The page, with nothing to load from anywhere; `data` is markup before its script, other scripts come first."""
    text = (WEB / "explorer.html").read_text(encoding="utf-8")
    script = "\n".join([*scripts, (WEB / "explorer.js").read_text(encoding="utf-8")])
    parts = {
        "/*STYLE*/": (WEB / "explorer.css").read_text(encoding="utf-8"),
        "<!--DATA-->": data,
        "/*SCRIPT*/": script,
    }
    for mark, part in parts.items():
        before, _, after = text.partition(mark)
        text = f"{before}{part}{after}"
    return text


def about_stage(stage: Stage, checkpoints: list[str]) -> dict[str, Any]:
    """What there is to steer of a generator, for the page; nothing is drawn for it, and no direction looked for."""
    origin, generator = stage.trained.origin, stage.generator
    sides = [4 << (index // 2) for index in range(stage.num_layers)]
    return {
        "run": BUNDLED if BUNDLED_SHA256 in origin else origin.get(IMPORTED) or origin["run_id"],
        "checkpoint": origin.get("checkpoint", ""),
        "checkpoints": checkpoints or [origin.get("checkpoint", "")],
        "dataset": origin.get("dataset"),
        "resolution": generator.resolution,
        "preview_px": stage.preview.side_px if stage.preview else None,
        "psi": 0.7,
        "cutoff": min(stage.trained.cutoff, stage.num_layers),
        "layers": [{"px": side} for side in sides],
        "blocks": [
            {"name": name, "px": f"{sides[layers[0]]}-{sides[layers[-1]]} px"}
            for name in blocks_of(generator)
            if (layers := block_layers(generator, name))
        ],
        "has_noise": generator.has_noise,
        "has_nearest": "dataset" in origin,
        "has_film": importlib.util.find_spec("av") is not None,
        "directions": [
            {"name": f"{method}.{block}.{index}", "method": method, "block": block, "index": index}
            for method in METHODS
            for block in blocks_of(generator)
            for index in range(min(NUM_DIRECTIONS, len(generator.w_avg)))
        ],
    }


def shares(stage: Stage) -> dict[str, float]:
    """By a direction's name, what it explains; the directions are looked for, once."""
    return {name: round(one.share, 4) for name, one in stage.directions.items()}
