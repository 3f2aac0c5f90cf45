"""What an XMP packet (ISO 16684-1) says of mining and of synthetic pictures, read with a parser that refuses entities.

A packet that is not well-formed, or has a document type, is not parsed further: what its text names is taken as said,
since a broken file is no permission. Never raises.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.parsers import expat

_NAMES = {
    "datamining": "DataMining",
    "digitalsourcetype": "DigitalSourceType",
    "otherconstraints": "OtherConstraints",
}
_WANTED = re.compile(rb"DataMining|DigitalSourceType", re.IGNORECASE)
_SAID = re.compile(rb"(?P<mining>DMI-[A-Z][A-Z-]*)|digitalsourcetype/(?P<source>[A-Za-z]+)", re.IGNORECASE)
_LONGEST_VALUE = 2000


@dataclass(frozen=True, slots=True)
class Property:
    """One property of a packet: `DataMining`, `OtherConstraints` (PLUS) or `DigitalSourceType` (IPTC), and its value.

    `is_parsed` is false where the packet could not be read as XML, and its text was searched.
    """

    name: str
    value: str
    is_parsed: bool = True


def properties(packet: bytes) -> list[Property]:
    """The properties of one packet, wherever they stand in it, in its order."""
    text = packet.replace(b"\0", b"")  # so that UTF-16 is searched too
    if not _WANTED.search(text):
        return []
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    try:
        parser.Parse(packet.strip(), True)
    except (expat.ExpatError, ValueError, LookupError):  # the last two for encodings that nobody knows
        return reader.found + _searched(text)
    return reader.found


def _refuse(*_: object) -> None:
    """Entities are declared in a document type, which XMP never has."""
    raise ValueError("a document type")


def _searched(text: bytes) -> list[Property]:
    found = []
    for match in _SAID.finditer(text):
        name = "DataMining" if match["mining"] else "DigitalSourceType"
        found.append(Property(name, (match["mining"] or match["source"]).decode("ascii"), is_parsed=False))
    return found


@dataclass
class _Reader:
    """Collects wanted properties in any of RDF's forms: attribute, text, resource, or members of a container."""

    found: list[Property] = field(default_factory=list)
    _depth: int = 0
    _name: str | None = None
    _since: int = 0
    _value: list[str] = field(default_factory=list)

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        for name, value in attributes.items():
            local = _local(name)
            if local in _NAMES:
                self._add(_NAMES[local], value)
            elif local == "resource" and self._name:
                self._add(self._name, value)
        if self._name is None and (local := _local(tag)) in _NAMES:
            self._name, self._since = _NAMES[local], self._depth
            resource = next((value for name, value in attributes.items() if _local(name) == "resource"), None)
            if resource is not None:
                self._add(self._name, resource)
        self._value.clear()

    def text(self, text: str) -> None:
        if self._name is not None and len(self._value) < _LONGEST_VALUE:
            self._value.append(text)

    def end(self, _: str) -> None:
        if self._name is not None:
            self._add(self._name, "".join(self._value))
            self._value.clear()
            if self._depth == self._since:
                self._name = None
        self._depth -= 1

    def _add(self, name: str, value: str) -> None:
        if value := value.strip():
            self.found.append(Property(name, value[:_LONGEST_VALUE]))


def _local(name: str) -> str:
    return name.rpartition(" ")[2].lower()
