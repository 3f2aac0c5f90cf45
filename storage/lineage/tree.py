"""A trace for people: a tree of text, or the same as a Mermaid flowchart.

    for line in tree(chain, limit=5): print(line)

Hashes, lists and texts are shortened here; JSON has all of them (`Chain.as_json`). Not here: what is traced.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import PurePath
from typing import Any

from storage.lineage.chain import Chain, Product, Step
from storage.tables import Row
from storage.wording import plain, plural

DIGITS = 16
"""Of a hash, that are shown; so many are a reference too."""
WIDTH = 72
"""Characters of a text that are shown."""
MOST = 250
"""Characters of a name, which may be a path."""
MANY = 12
"""Parts of a list that are shown."""
NAMES = {
    "dataset": "reference", "training run": "id", "build": "id", "decision": "id", "checkpoint": "folder",
    "shard": "file", "image": "key", "photograph": "ref", "imported network": "name", "bundled generator": "file",
}  # fmt: skip
"""The fact that a step is called by; of all others the file or the name."""
SAID_ELSEWHERE = {
    "builds", "training_runs", "checkpoints", "run_id", "checkpoint", "dataset", "dataset_manifest_sha256", "config",
    "manifest_sha256", "init_from", "lod", "precision",
}  # fmt: skip
"""Facts of steps that are branches of their own, or too long to read."""
SOURCE = ("author", "license", "license_url", "title", "page", "ref")


@dataclass(frozen=True)
class Branch:
    """A thing of the tree: its kind and name, a few words about it, lines of facts, and what hangs on it."""

    kind: str
    name: str
    note: str = ""
    facts: Sequence[str] = ()
    branches: Sequence[Branch] = ()

    @property
    def label(self) -> str:
        """In one line."""
        said = f"{self.kind} {self.name}".strip()
        return f"{said}: {self.note}" if self.note else said


@dataclass(frozen=True)
class Shown:
    """What was asked about, what it was made of, and what was made of it."""

    asked: Branch
    made_of: Sequence[Branch]
    made: Sequence[Branch]
    heading: str = "made of"
    """Of the first."""


def tree(chain: Chain, limit: int) -> Iterator[str]:
    """The lines; at most `limit` images of many."""
    shown = _shown(chain, limit)
    yield shown.asked.label
    for fact in shown.asked.facts:
        yield f"  {fact}"
    for heading, branches in ((shown.heading, shown.made_of), ("made of it", shown.made)):
        if branches:
            yield heading
            yield from _hanging(branches, "")


def mermaid(chain: Chain, limit: int) -> Iterator[str]:
    """The lines of a flowchart, arrows leading from what something was made of to it."""
    shown = _shown(chain, limit)
    numbers: dict[tuple[str, str], int] = {}
    arrows: dict[tuple[int, int], None] = {}
    yield "flowchart LR"

    def node(branch: Branch) -> Iterator[str]:
        if (branch.kind, branch.name) not in numbers:
            numbers[branch.kind, branch.name] = len(numbers)
            text = branch.kind + f"<br>{_escaped(branch.name)}" * bool(branch.name)
            yield f'  n{len(numbers) - 1}["{text}{f"<br>{_escaped(branch.note)}" * bool(branch.note)}"]'

    def walk(branch: Branch, others: Sequence[Branch], forward: bool) -> Iterator[str]:
        for other in others:
            yield from node(other)
            ends = (numbers[branch.kind, branch.name], numbers[other.kind, other.name])
            arrows[ends if forward else ends[::-1]] = None
            yield from walk(other, other.branches, forward)

    yield from node(shown.asked)
    yield from walk(shown.asked, shown.made_of, forward=False)
    yield from walk(shown.asked, shown.made, forward=True)
    for start, end in arrows:
        yield f"  n{start} --> n{end}"


def _hanging(branches: Sequence[Branch], indent: str) -> Iterator[str]:
    for branch in branches:
        is_last = branch is branches[-1]
        yield f"{indent}{'└─ ' if is_last else '├─ '}{branch.label}"
        below = indent + ("   " if is_last else "│  ")
        for fact in branch.facts:
            yield f"{below}{'│ ' if branch.branches else '  '}{fact}"
        yield from _hanging(branch.branches, below)


def _shown(chain: Chain, limit: int) -> Shown:
    made = _products(chain.made)
    if chain.subject is None:
        asked, *below = [_step(step) for step in chain.steps]
        return Shown(asked, _nested(below, _last(chain, limit), chain), made)
    asked = _step(chain.subject)
    rest = [*(branch for branch in made if branch.kind != "dataset"), *_rejected(chain, limit)]
    if chain.subject.kind == "image":
        photo = chain.subject.facts["photo_sha256"]
        made_of = [Branch("photograph", _short(photo), _source(chain.subject.facts))]
        [image] = _kept(chain, made, limit) or [asked]
        return Shown(asked, made_of, [*image.branches, *rest])
    if chain.subject.kind == "photograph":
        return Shown(asked, [], [*_kept(chain, made, limit), *rest])
    return Shown(asked, [*_photographs(chain, limit), *_rejected(chain, limit)], made, "photographs")


def _nested(below: Sequence[Branch], last: Sequence[Branch], chain: Chain) -> list[Branch]:
    """Each step on the one above it, and photographs on the last; first weights on the run that began with them."""
    branches = list(last)
    for branch in reversed(below):
        if branch.kind == "training run" and chain.begun_with is not None:
            branches = [*branches, *_begun(chain.begun_with)]
        branches = [Branch(branch.kind, branch.name, branch.note, branch.facts, branches)]
    if chain.begun_with is not None and chain.steps[0].kind == "training run":
        branches = [*branches, *_begun(chain.begun_with)]
    return branches


def _begun(chain: Chain) -> list[Branch]:
    first, *below = [_step(step) for step in chain.steps]
    facts = ("its first weights", *first.facts)
    return [Branch(first.kind, first.name, first.note, facts, _nested(below, (), chain))]


def _last(chain: Chain, limit: int) -> list[Branch]:
    """What hangs on the last step: the builds of a version, and its images."""
    builds = [
        Branch(
            build["kind"], build["build_id"], f"{_time(build['started_at'])}{_commit(build['code_commit'])}"
        )
        for build in chain.steps[-1].facts.get("builds", [])
    ]
    return [*_more(builds, MANY, "build"), *_images(chain.images, limit)]


def _images(images: Sequence[Row], limit: int) -> list[Branch]:
    """Images with their photographs, the first of many."""
    found = [
        Branch("image", row["key"], f"{_face(row)}{_source(row)}") for row in islice(images[:limit], limit)
    ]
    return found + _left(len(images) - len(found), "image")


def _photographs(chain: Chain, limit: int) -> list[Branch]:
    """The photographs of an author, a licence and so on, the first of many."""
    found: dict[str, Branch] = {}
    for row in chain.images[: limit * MANY]:
        if len(found) < limit:
            found[row["photo_sha256"]] = Branch("photograph", _short(row["photo_sha256"]), _source(row))
    return [*found.values(), *_left(chain.asked.facts["photographs"] - len(found), "photograph")]


def _kept(chain: Chain, made: Sequence[Branch], limit: int) -> list[Branch]:
    """The images that one photograph became, each with its versions, and these with what was made of them, once."""
    by_version = {branch.name: branch for branch in made}
    images: dict[str, list[Branch]] = {}
    notes: dict[str, str] = {}
    for row in chain.images[: limit * MANY]:
        reference = row["dataset"]
        version = by_version.pop(reference, None)
        note = f"{_as(row, chain)}in {PurePath(row['shard']).name}" + ("" if version else ", as above")
        images.setdefault(row["key"], []).append(
            Branch("dataset", reference, note, branches=version.branches if version else ())
        )
        notes.setdefault(row["key"], _face(row).removesuffix(", "))
    return [Branch("image", key, notes[key], branches=versions) for key, versions in images.items()]


def _rejected(chain: Chain, limit: int) -> list[Branch]:
    found = []
    for row in chain.rejections[:limit]:
        detail = f" ({_cut(row['detail'])})" if row.get("detail") else ""
        instead = f", kept instead: {_short(row['duplicate_of'])}" if row.get("duplicate_of") else ""
        name = f"{_cut(row['ref'])} in {row['dataset']}"
        found.append(Branch("rejected", name, f"{_face(row)}{row['reason']}{detail}{instead}"))
    return found + _left(len(chain.rejections) - len(found), "rejection")


def _left(num: int, noun: str) -> list[Branch]:
    more = f"{num} more {plural(num, noun)} (--limit, or --json for all)"
    return [Branch("and", more)] if num > 0 else []


def _more(branches: Sequence[Branch], limit: int, noun: str) -> list[Branch]:
    return [*branches[:limit], *_left(len(branches) - limit, noun)]


def _products(made: Sequence[Product]) -> list[Branch]:
    """Products of one kind that have nothing else to say are one line."""
    found = []
    for product in made:
        said = product.facts.items()
        facts = {name: value for name, value in said if value and name not in ("file", "kept", "reference")}
        notes = [
            _time(value) if name.endswith("_at") else f"{name} {_value(value)}"
            for name, value in facts.items()
        ]
        if product.facts.get("kept") is False:
            notes.append("no longer kept")
        branches = _products(product.made)
        found.append(Branch(product.kind, plain(product.name), ", ".join(notes), branches=branches))
    return found


def _step(step: Step) -> Branch:
    facts = {name: value for name, value in step.facts.items() if name not in SAID_ELSEWHERE}
    name = facts.pop(NAMES.get(step.kind, "file" if "file" in facts else "name"), "")
    if step.kind == "checkpoint":
        facts |= {"sha256": facts["sha256"].get("generator_ema.safetensors"), "folder": name}
        name = PurePath(str(name)).name
    return Branch(step.kind, _place(_cut(name, MOST)), facts=list(_facts(facts)))


def _facts(facts: Mapping[str, Any]) -> Iterator[str]:
    for name, value in facts.items():
        if value not in (None, "", {}, []):
            said = _time(value) if name.endswith("_at") else _value(value)
            yield f"{plain(name.replace('_', ' '))}: {said}"


def _value(value: Any) -> str:
    """A fact in few characters."""
    if isinstance(value, Mapping):
        parts = [f"{plain(name)} {_value(of_it)}" for name, of_it in value.items()]
        return ", ".join(_few(parts))
    if isinstance(value, list) and value and all(type(part) is int for part in value):
        return ", ".join(_few(list(_ranges(value))))
    if isinstance(value, list):
        return ", ".join(_few([_value(part) for part in value]))
    if isinstance(value, float):
        return f"{value:g}"
    text = plain(value)
    if len(text) in (40, 64) and set(text) <= set("0123456789abcdef"):
        return _short(text)
    return _place(text) if text.startswith("/") else _cut(text)


def _place(path: str) -> str:
    """A path, from the working folder where it lies below that."""
    here = f"{os.getcwd()}/"
    return path.removeprefix(here)


def _ranges(numbers: Sequence[int]) -> Iterator[str]:
    """Numbers, where they rise by one as a range: 0-31."""
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        first, *rest = [number for _, number in run]
        yield f"{first}-{rest[-1]}" if rest else str(first)


def _few(parts: Sequence[str]) -> list[str]:
    return list(parts) if len(parts) <= MANY else [*parts[:MANY], f"and {len(parts) - MANY} more"]


def _short(digest: object) -> str:
    return str(digest)[:DIGITS]


def _cut(text: object, width: int = WIDTH) -> str:
    said = plain(text)
    return said if len(said) <= width else said[: width - 1] + "…"


def _time(text: Any) -> str:
    return str(text)[:16].replace("T", " ")


def _commit(commit: str | None) -> str:
    return f", code {commit[:8]}" if commit else ""


def _face(row: Row) -> str:
    return f"face {row['face_index']}, " if row.get("face_index") else ""


def _as(row: Row, chain: Chain) -> str:
    """What a version calls a photograph, where that is not what was asked about."""
    return f"as {_cut(row['ref'])}, " if chain.asked.facts["ref"] != row["ref"] else ""


def _source(row: Mapping[str, Any]) -> str:
    """Whose photograph it is, and where it is from, in a line."""
    parts = [_cut(row["ref"])]
    if row.get("title"):
        parts.append(f"“{_cut(row['title'])}”")
    parts.append(f"by {_cut(row['author'])}" if row.get("author") else "author not said")
    parts.append(_cut(row["license"]) if row.get("license") else "licence not said")
    return ", ".join(parts)


def _escaped(text: str) -> str:
    """As Mermaid and the HTML in it take it."""
    for character, entity in (("&", "#amp;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;"), ("`", "#96;")):
        text = text.replace(character, entity)
    return text
