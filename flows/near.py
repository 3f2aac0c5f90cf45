"""What a picture is a copy of, and what became of that: photographs found by their faces, then traced.

chain = trace_near(Store("./store"), Path("found-on-the-web.jpg"), max_bits=36)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from preprocessing.near import near
from storage.lineage.chain import Chain, Step
from storage.lineage.products import Products
from storage.lineage.rows import of_photographs
from storage.store import Store


def trace_near(store: Store, picture: Path, max_bits: int) -> Chain:
    """The chain of the photograph that a picture is a copy of, or of all that have a face as near."""
    found = near(store, picture, max_bits)
    photos = [match.photo_sha256 for match in found]
    kind, name = ("photograph", photos[0]) if len(photos) == 1 else ("copies", str(picture))
    chain = of_photographs(store, kind, name, photos, Products(store))
    bits = {match.photo_sha256[:16]: match.bits for match in found}
    facts = {"copy": str(picture), "bits_apart": bits if len(bits) > 1 else found[0].bits}
    return replace(chain, subject=Step(kind, {**chain.asked.facts, **facts}))
