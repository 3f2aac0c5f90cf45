"""What a C2PA manifest store says of training, mining and synthetic pictures: its assertions, read without any proof.

    c2pa.training-mining, cawg.training-mining    entries such as ai_training: notAllowed
    c2pa.actions and metadata                     digitalSourceType (IPTC), DataMining (PLUS)

Signatures are not checked: a refusal needs no proof, and nothing that is read here ever permits what another signal
refuses. Assertions of every manifest in the store count, those of its ingredients too. Compressed manifests are not
read. Never raises.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_MAX_DEPTH = 32
_MAX_BOXES = 10_000
_MAX_CONTENT_BYTES = 2**20
"""Of one assertion, and four times that of all: none that says anything comes near it."""
_WANTED = re.compile(rb"training|mining|digitalSourceType", re.IGNORECASE)
_TRAINING_MINING = re.compile(r"(?:c2pa|cawg)\.training-mining(?:\.v\d+)?(?:__\d+)?")


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that an assertion says: `name` is `use`, `DataMining` or `DigitalSourceType`.

    The value of `use` is an entry without its owner and what it permits, as in `ai_training=notAllowed`.
    """

    label: str
    name: str
    value: str


def statements(store: bytes) -> list[Statement]:
    """The statements of a manifest store, each once, in its order."""
    found: dict[Statement, None] = {}
    left = 4 * _MAX_CONTENT_BYTES
    for label, kind, content in _contents(store):
        if len(content) > min(left, _MAX_CONTENT_BYTES) or not _WANTED.search(content):
            continue
        left -= len(content)
        try:
            value = json.loads(content) if kind == b"json" else _Cbor(content).value()
        except (ValueError, RecursionError):  # the latter from json
            continue
        if _TRAINING_MINING.fullmatch(label):
            found.update(dict.fromkeys(Statement(label, "use", use) for use in _uses(value)))
        for key, said in _strings(value):
            name = key.rpartition(":")[2].rpartition("/")[2].lower()
            if name == "digitalsourcetype":
                found[Statement(label, "DigitalSourceType", said)] = None
            elif name == "datamining":
                found[Statement(label, "DataMining", said)] = None
    return list(found)


def _uses(value: Any) -> Iterator[str]:
    entries = value.get("entries") if isinstance(value, dict) else None
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        use = entry.get("use") if isinstance(entry, dict) else entry
        if isinstance(name, str) and isinstance(use, str):
            yield f"{name.rpartition('.')[2]}={use}"


def _strings(value: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Every text of a tree, with the key that it stands under."""
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one, key, depth + 1)
    elif isinstance(value, dict):
        for name, one in value.items():
            # JSON-LD may say {"@id": ...} for a value
            inner = key if name in ("@id", "@value", "@list", "@set") else str(name)
            yield from _strings(one, inner, depth + 1)


def _contents(store: bytes) -> Iterator[tuple[str, bytes, bytes]]:
    """The content boxes (JUMBF, ISO 19566-5) that are JSON or CBOR: label of their box, kind and bytes."""
    pending = [(0, len(store), "", 0)]
    num_boxes = 0
    while pending:
        at, stop, label, depth = pending.pop()
        while at + 8 <= stop and num_boxes < _MAX_BOXES:
            num_boxes += 1
            length, kind, header = int.from_bytes(store[at : at + 4], "big"), store[at + 4 : at + 8], 8
            if length == 1:
                length, header = int.from_bytes(store[at + 8 : at + 16], "big"), 16
            end = stop if length == 0 else min(at + length, stop)
            if end < at + header:
                break
            if kind == b"jumb" and depth < _MAX_DEPTH:
                pending.append((end, stop, label, depth))  # what follows comes after what is inside
                at, stop, label, depth = at + header, end, "", depth + 1
                continue
            if kind == b"jumd":
                label = _label(store[at + header : end])
            elif kind in (b"json", b"cbor"):
                yield label, kind, store[at + header : end]
            at = end


def _label(description: bytes) -> str:
    """The label of a description box: after a type of 16 bytes and a byte of toggles."""
    has_label = len(description) > 17 and description[16] & 2
    return description[17:].partition(b"\0")[0].decode("utf-8", "replace") if has_label else ""


class _Cbor:
    """Reads one CBOR value (RFC 8949); tags are dropped, and what is neither text, list nor map becomes None."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def value(self, depth: int = 0) -> Any:
        """The value at the current place; ValueError where there is none."""
        if depth > _MAX_DEPTH:
            raise ValueError("nested too deeply")
        major, count = self._head()
        match major:
            case 2 | 3:
                data = self._chunks(major) if count is None else self._take(count)
                return data.decode("utf-8", "replace") if major == 3 else None
            case 4:
                return list(self._items(count, depth))
            case 5:
                items = self._items(None if count is None else 2 * count, depth)
                # a key that is no text has no meaning here
                return {key if isinstance(key, str) else "": next(items, None) for key in items}
            case 6:
                return self.value(depth + 1)
            case 7 if count is None:
                raise ValueError("an end of nothing")
        return None

    def _items(self, count: int | None, depth: int) -> Iterator[Any]:
        if count is not None and count > len(self._data) - self._at:
            raise ValueError("more items than bytes")
        while count is None or count > 0:
            if count is None:
                if self._peek() == 0xFF:
                    self._at += 1
                    return
            else:
                count -= 1
            yield self.value(depth + 1)

    def _chunks(self, major: int) -> bytes:
        parts = []
        while self._peek() != 0xFF:
            inner, count = self._head()
            if inner != major or count is None:
                raise ValueError("a chunk of another kind")
            parts.append(self._take(count))
        self._at += 1
        return b"".join(parts)

    def _head(self) -> tuple[int, int | None]:
        """The major type of the next item and its count, None where that is left open."""
        major, low = divmod(self._take(1)[0], 32)
        if low < 24:
            return major, low
        if low < 28:
            return major, int.from_bytes(self._take(1 << low - 24), "big")
        if low == 31 and major in (2, 3, 4, 5, 7):
            return major, None
        raise ValueError("no such item")

    def _peek(self) -> int:
        if self._at >= len(self._data):
            raise ValueError("cut short")
        return self._data[self._at]

    def _take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise ValueError("cut short")
        taken = self._data[self._at : end]
        self._at = end
        return taken
