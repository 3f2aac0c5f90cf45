"""What a picture or film claims of how it was made, and whether the signature of that claim holds.

    claims = claims_of(Path("faces.png"))
    claims.source_types      ("trainedAlgorithmicMedia",), by XMP
    claims.credentials       a C2PA manifest: who signed it, and whether it holds

The extra `sign` installs C2PA's own library, which checks signatures; without it a manifest is found and not checked.
Nothing is fetched. Not here: what refuses a photograph (`preprocessing.crawl.signals`), which needs no proof.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from preprocessing.photo.c2pa import statements
from preprocessing.photo.embedded import embedded
from preprocessing.photo.xmp import properties
from storage.errors import IntegrityError, SourceError
from storage.local import file_bytes

SETTINGS = {"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}
UNTRUSTED = "signingCredential.untrusted"
"""The problem of a signature that holds, by somebody who is on no list of trust; none is kept here."""
LINEAGE = "likeness.lineage"

State = Literal["holds", "broken", "not checked"]


@dataclass(frozen=True)
class Credentials:
    """A C2PA manifest."""

    state: State
    signer: str | None = None
    """As its certificate calls itself."""
    is_trusted: bool = False
    """Whether the certificate goes back to one that the library trusts."""
    source_types: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """What does not hold, in C2PA's codes."""
    lineage: dict[str, Any] = field(default_factory=dict)
    """What our own assertion says."""
    ingredients: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claims:
    """What a file claims, by XMP and by C2PA."""

    source_types: tuple[str, ...]
    credentials: Credentials | None

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return asdict(self)


def claims_of(path: Path) -> Claims:
    """What a file claims; SourceError where it cannot be read, IntegrityError where its manifest cannot be."""
    try:
        data = file_bytes(path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error
    found = embedded(data)
    said = [
        one.value for packet in found.xmp for one in properties(packet) if one.name == "DigitalSourceType"
    ]
    return Claims(_terms(said), _credentials(path, found.c2pa) if found.c2pa else None)


def _terms(values: list[str]) -> tuple[str, ...]:
    """The terms of IPTC's vocabulary, without its address, each once."""
    return tuple(dict.fromkeys(value.rstrip("/").rpartition("/")[2] for value in values))


def _credentials(path: Path, stores: tuple[bytes, ...]) -> Credentials:
    said = [one for store in stores for one in statements(store) if one.name == "DigitalSourceType"]
    source_types = _terms([one.value for one in said])
    if importlib.util.find_spec("c2pa") is None:
        return Credentials("not checked", source_types=source_types)
    import c2pa

    try:
        with (
            c2pa.Context.from_dict(SETTINGS) as context,
            path.open("rb") as file,
            c2pa.Reader(None, file, context=context) as reader,
        ):
            report = json.loads(reader.json())
    except c2pa.C2paError as error:
        raise IntegrityError(f"{path} has a C2PA manifest that cannot be read: {error}") from error
    active = report["manifests"][report["active_manifest"]]
    signature = active.get("signature_info", {})
    names = [signature[name] for name in ("common_name", "issuer") if signature.get(name)]
    problems = tuple(dict.fromkeys(one["code"] for one in report.get("validation_status", ())))
    ours = [one["data"] for one in active.get("assertions", ()) if one["label"] == LINEAGE]
    ingredients = tuple(str(one.get("title")) for one in active.get("ingredients", ()))
    return Credentials(
        state="broken" if report.get("validation_state") == "Invalid" else "holds",
        signer=", ".join(names) or None,
        is_trusted=report.get("validation_state") == "Trusted",
        source_types=source_types,
        problems=tuple(code for code in problems if code != UNTRUSTED),
        lineage=ours[0] if ours else {},
        ingredients=ingredients,
    )
