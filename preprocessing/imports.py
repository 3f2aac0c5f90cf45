"""An import as a build: what a folder or a ZIP of aligned faces is, looked up, so that little needs to be said.

    config = ImportConfig(name="ffhq").build_config(Path("ffhq-dataset"))

Not here: how such files are read (`preprocessing.sources.imported`).
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from PIL import Image
from pydantic import Field

from preprocessing.aligned import FORMATS
from preprocessing.config import BuildConfig
from preprocessing.crawl.blocklist import BlockConfig
from preprocessing.curation.settings import CurateConfig
from preprocessing.photo.encode import EncodeConfig
from preprocessing.sources.imported import ImportedSource
from preprocessing.sources.licenses import LicensesConfig
from storage.config import Config, OneOf
from storage.datasets.records import NAME_PATTERN
from storage.errors import ConfigError, SourceError
from storage.exports.layouts import LayoutName
from storage.shards import ShardConfig

SIDES = (32, 64, 128, 256, 512, 1024)
FORMAT_OF: dict[str, Literal["png", "webp", "jpeg"]] = {
    "png": "png",
    "webp": "webp",
    "jpg": "jpeg",
    "jpeg": "jpeg",
}
LOOKED_AT = 32
"""Images whose headers say which side and format most have."""


class ImportConfig(Config):
    """Aligned faces in, a dataset version out."""

    name: str = Field(pattern=f"^{NAME_PATTERN}$", description="What the dataset is called in the store.")
    format: LayoutName | None = Field(None, description="What it is; unset: whichever it can be read as.")
    resolution: Annotated[int, OneOf(*SIDES)] | None = Field(
        None, description="Side of the images, px; unset: what most have. Others are rejected."
    )
    limit: int | None = Field(None, ge=1, description="Take only the first N images.")
    licenses: LicensesConfig = Field(LicensesConfig(), description="Which licences they may have.")
    block: BlockConfig = Field(BlockConfig(), description="Which images must not come in.")
    shard: ShardConfig = Field(ShardConfig(), description="How images are grouped into tars.")

    def build_config(self, path: Path) -> BuildConfig:
        """The build that imports the folder or ZIP at `path`; SourceError or ConfigError where there is none."""
        source = ImportedSource.open(str(path) if self.format is None else f"{self.format}:{path}")
        names = [item.ref for item in source.items() if source.has(item)]
        sides = Counter(
            side for name in names[:: -(-len(names) // LOOKED_AT) or 1] if (side := _side(source, name))
        )
        if not sides:
            raise SourceError(f"{path} holds no image that can be read")
        side = self.resolution or sides.most_common(1)[0][0]
        if side not in SIDES:
            listed = f"{', '.join(map(str, SIDES[:-1]))} or {SIDES[-1]}"
            raise ConfigError(f"most images of {path} have a side of {side} px, and it must be {listed}")
        return BuildConfig(
            source=f"import:{source.layout}:{path}",
            name=self.name,
            resolution=side,
            limit=self.limit,
            aligned=True,
            licenses=self.licenses,
            block=self.block,
            encode=EncodeConfig(format=_format(names)),
            curate=CurateConfig(preset="none", max_faces_per_photo=1),
            shard=self.shard,
        )


def _format(names: Sequence[str]) -> Literal["png", "webp", "jpeg"]:
    """What all files are by their names, so that they are stored as they are; else WebP, which holds all pixels."""
    found = {FORMAT_OF[name.rpartition(".")[2].lower()] for name in names}
    return found.pop() if len(found) == 1 else "webp"


def _side(source: ImportedSource, name: str) -> int | None:
    """The side of a square image, px, by its header."""
    try:
        with Image.open(io.BytesIO(source.bytes_of(name)), formats=FORMATS) as image:
            return image.width if image.width == image.height else None
    except (SourceError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
