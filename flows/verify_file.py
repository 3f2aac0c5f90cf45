"""Whether a drawn or exported file is what it says: its lineage, marks and pixels, and the way back to photographs.

    verdict = verify_file(store, Path("faces.png"))
    for line in verdict.lines(): ...

What is said is gathered from what each room reads: lineage (`storage.lineage`), and IPTC and C2PA
(`preprocessing.photo.claims`). Not here: datasets (`storage.datasets.verify`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocessing.photo.claims import Claims, claims_of
from storage.errors import NotFoundError, PipelineError
from storage.lineage.chain import Chain
from storage.lineage.origin import pixels_hold, read_provenance
from storage.lineage.trace import trace
from storage.store import Store
from storage.wording import numbered
from training.drawing.marks import generator_of

SUFFIXES_WITHOUT_PIXELS = (".safetensors", ".onnx")


@dataclass(frozen=True)
class Verdict:
    """What a file says of itself, and what of that does not hold."""

    path: Path
    lineage: dict[str, Any] | None
    pixels_hold: bool | None
    """None where nothing says which they were."""
    claims: Claims
    chain: Chain | None
    """The way back, as far as this store has it."""
    problems: tuple[str, ...]
    """What does not hold, a sentence each."""
    unknown: str | None = None
    """Why there is no way back from here, where that is no fault of the file."""

    @property
    def says_nothing(self) -> bool:
        """Whether there is nothing that could hold or not."""
        return not (self.lineage or self.claims.source_types or self.claims.credentials)

    def as_json(self) -> dict[str, Any]:
        """For scripts."""
        return {
            "file": str(self.path),
            "lineage": self.lineage,
            "pixels_hold": self.pixels_hold,
            "iptc": list(self.claims.source_types),
            "c2pa": self.claims.as_json()["credentials"],
            "chain": self.chain.as_json() if self.chain else None,
            "unknown": self.unknown,
            "problems": list(self.problems),
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        yield str(self.path)
        yield f"  lineage   {self._lineage()}"
        yield f"  pixels    {self._pixels()}"
        yield f"  IPTC      {', '.join(self.claims.source_types) or 'says nothing'}"
        yield f"  C2PA      {self._credentials()}"
        yield f"  way back  {self._way_back()}"

    def _lineage(self) -> str:
        if self.lineage is None:
            return "none"
        settings = [f"{name} {_short(self.lineage[name])}" for name in ("seeds",) if name in self.lineage]
        drawn = generator_of(self.lineage) or "by nobody that it names"
        return ", ".join([str(self.lineage.get("kind", "grid")), drawn, *settings])

    def _pixels(self) -> str:
        if self.pixels_hold is None:
            return (
                "none of them"
                if self.path.suffix in SUFFIXES_WITHOUT_PIXELS
                else "no hash of them is on record"
            )
        return "as they were drawn" if self.pixels_hold else "ALTERED since they were drawn"

    def _credentials(self) -> str:
        found = self.claims.credentials
        if found is None:
            return "not signed"
        if found.state == "not checked":
            return "signed, and not checked here: pip install 'likeness[sign]'"
        trust = "" if found.is_trusted else "; who that is, nobody vouches for here"
        if found.state == "holds":
            return f"signed by {found.signer}, and the signature holds{trust}"
        return f"signed by {found.signer}, and the signature DOES NOT HOLD: {', '.join(found.problems)}"

    def _way_back(self) -> str:
        if self.chain is None:
            return self.unknown or "none"
        steps = " < ".join(step.kind for step in self.chain.steps)
        num = len(self.chain.images)
        photographs = (
            f"{numbered(num, 'image')} with their photographs"
            if num
            else "its photographs are not in this store"
        )
        return f"{steps}: {photographs}"


def verify_file(store: Store, path: Path) -> Verdict:
    """Hold a file to what it says of itself; SourceError where it cannot be read."""
    claims = claims_of(path)
    problems: list[str] = []
    lineage, chain, unknown, holds = None, None, None, None
    try:
        lineage = read_provenance(path)
    except PipelineError as error:
        problems.append(str(error))
    if lineage is not None:
        holds = pixels_hold(path, lineage)
        if holds is False:
            problems.append(f"{path} has other pixels than were drawn: it was altered")
        try:
            chain = trace(store, str(path)) if holds is not False else None
        except NotFoundError as error:
            unknown = str(error)
        except PipelineError as error:
            problems.append(str(error))
    credentials = claims.credentials
    if credentials and credentials.state == "broken":
        problems.append(f"the C2PA signature of {path} does not hold: {', '.join(credentials.problems)}")
    if credentials and lineage is not None:
        problems += [
            f"{path} says {name} {lineage[name]}, and its signed manifest {said}"
            for name, said in credentials.lineage.items()
            if name in lineage and str(lineage[name]) != said
        ]
    return Verdict(path, lineage, holds, claims, chain, tuple(problems), unknown)


def _short(values: Any) -> str:
    """A list of numbers in few characters."""
    if not isinstance(values, list) or len(values) <= 4:
        return str(values)
    return f"[{values[0]}, {values[1]}, ... {values[-1]}]"
