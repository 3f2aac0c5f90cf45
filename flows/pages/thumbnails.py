"""Small pictures for pages, as data URIs: of crops, and of photographs that have none."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from flows.stages.align import Crop
from preprocessing.photo.decode import DecodeConfig, decode
from preprocessing.reject import Rejected
from storage.digest import bytes_digest
from storage.errors import PipelineError
from storage.store import Store

JPEG_QUALITY = 80
THREADS = 4


@dataclass(frozen=True)
class Thumbnails:
    """Draws from a store; photographs are decoded as the build decoded them."""

    store: Store
    decode: DecodeConfig

    def data_uris(self, sources: Sequence[Crop | str | None], side_px: int) -> list[str | None]:
        """Data URIs of crops and of photographs, these by sha256; None for nothing, or where its bytes are gone."""
        with ThreadPoolExecutor(THREADS) as pool:
            return list(pool.map(lambda source: self._data_uri(source, side_px), sources))

    def _data_uri(self, source: Crop | str | None, side_px: int) -> str | None:
        try:
            if source is None:
                return None
            if isinstance(source, str):
                image = Image.fromarray(decode(self.store.original(source), self.decode))
            else:
                with self.store.file(source.blob).open("rb") as file:
                    file.seek(source.offset)
                    data = file.read(source.size)
                if bytes_digest(data) != source.sha256:
                    return None
                image = Image.open(io.BytesIO(data))
            image.thumbnail((side_px, side_px))
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
        except (OSError, PipelineError, Rejected):
            return None
        return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
