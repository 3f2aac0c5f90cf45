"""Licences in one vocabulary, and which of them a dataset takes; decided before a photograph is fetched.

    license_of("CC BY-SA 3.0 de", None).id                                     CC-BY-SA-3.0-DE
    license_of(None, "https://creativecommons.org/licenses/by/4.0/deed.fr").id   CC-BY-4.0

Every service writes licences in its own way: short names, links, ids. Each is read into an id as SPDX writes it, and
into a family, which is what an allow-list names. What cannot be read is never guessed at. A licence that forbids
changes (ND) forbids what alignment does, and no setting takes it.
Not here: whether what a source says of a licence is true.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import attrgetter
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator

from preprocessing.records import Item, Rejection
from preprocessing.reject import Reason
from preprocessing.sources.plain_text import plain_text
from storage.config import Config, comma_separated


@dataclass(frozen=True, slots=True)
class Family:
    """Licences that ask for the same, whatever their version and country."""

    name: str
    meaning: str
    asks_for_author: bool = False
    url: str | None = None
    may_be_allowed: bool = True


FAMILIES = {
    family.name: family
    for family in (
        Family("CC0", "Creative Commons Zero"),
        Family("PDM", "public domain, by Creative Commons' mark or in words"),
        Family(
            "US-Gov", "a work of the United States' government", url="https://www.usa.gov/government-works"
        ),
        Family("CC-BY", "attribution", asks_for_author=True),
        Family("CC-BY-SA", "attribution, share alike", asks_for_author=True),
        Family(
            "NKC",
            "no known copyright restrictions",
            url="https://rightsstatements.org/vocab/NKC/1.0/",
        ),
        Family("OGL-UK", "the United Kingdom's Open Government Licence", asks_for_author=True),
        Family("CC-BY-NC", "attribution, not commercial", asks_for_author=True),
        Family("CC-BY-NC-SA", "attribution, not commercial, share alike", asks_for_author=True),
        Family("CC-BY-ND", "no changes", may_be_allowed=False),
        Family("CC-BY-NC-ND", "not commercial, no changes", may_be_allowed=False),
        Family("GFDL", "GNU Free Documentation License", may_be_allowed=False),
        Family("FAL", "Free Art License", may_be_allowed=False),
        Family(
            "In-Copyright", "all rights reserved, or use that a statement restricts", may_be_allowed=False
        ),
    )
}

PRESETS = {
    "open": ("CC0", "PDM", "US-Gov", "CC-BY"),
    "share-alike": ("open", "CC-BY-SA"),
    "commercial": ("share-alike", "NKC", "OGL-UK"),
    "research": ("commercial", "CC-BY-NC", "CC-BY-NC-SA"),
}
"""Each adds to the one before it: sharing alike; whatever else permits commercial use; what forbids that."""
NAMES = (*PRESETS, *(name for name, family in FAMILIES.items() if family.may_be_allowed))


@dataclass(frozen=True, slots=True)
class License:
    """A licence by its id, such as CC-BY-SA-3.0-DE, its family's name, and where its text stands."""

    id: str
    family: str
    url: str | None = None


def _checked_name(value: Any) -> Any:
    known = {name.lower(): name for name in NAMES}
    for name in value if isinstance(value, list | tuple) else ():
        if isinstance(name, str) and name.lower() not in known:
            family = next((known for known in FAMILIES if known.lower() == name.lower()), None)
            why = (
                f"is never allowed ({FAMILIES[family].meaning})" if family else "is no licence that is known"
            )
            raise ValueError(f"{name} {why}: {', '.join(NAMES)}")
    return [known[name.lower()] if isinstance(name, str) else name for name in value]


class LicensesConfig(Config):
    """Which licences photographs of the web may have, and what stands in for one that a list does not say."""

    allow: Annotated[tuple[str, ...], BeforeValidator(_checked_name), BeforeValidator(comma_separated)] = (
        Field(
            default=("open",),
            min_length=1,
            description="Families, or presets, each of which adds to the one before it: open is CC0,PDM,US-Gov,CC-BY; "
            "share-alike adds CC-BY-SA; commercial adds NKC,OGL-UK; research adds CC-BY-NC,CC-BY-NC-SA.",
        )
    )
    assume: str | None = Field(
        default=None,
        description="Licence of photographs whose source says none, such as CC-BY-4.0: you declare it.",
    )
    assume_author: str | None = Field(
        default=None,
        min_length=1,
        description="Author of photographs whose source says none: you declare it.",
    )
    check_folder: bool = Field(
        default=False, description="Refuse photographs of a folder too, as those of the web are."
    )

    @field_validator("assume")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        found = license_of(value, None)
        if value is not None and found is None:
            raise ValueError(
                f"{value} is no licence that is known; write it as CC-BY-4.0, CC0-1.0 or PDM-1.0"
            )
        return None if found is None else found.id

    @cached_property
    def families(self) -> frozenset[str]:
        """The names of all families that are allowed."""
        names = set(self.allow)
        while presets := names & PRESETS.keys():
            names = names - presets | {name for preset in presets for name in PRESETS[preset]}
        return frozenset(names)

    def description(self) -> dict[str, Any]:
        """What of it determines a dataset."""
        return {"allow": sorted(self.families), "assume": self.assume, "assume_author": self.assume_author}


def licensed(item: Item, config: LicensesConfig) -> tuple[Item, Rejection | None]:
    """The item with licence and author in plain words, and why its licence refuses it, where any does.

    What the source said in its own words stays in `said`, where a column is a reading of it.
    """
    item = declared(item, config)
    found = license_of(item.license, item.license_url)
    values = {"author": plain_text(item.author), "title": plain_text(item.title)}
    if found:
        values |= {"license": found.id, "license_url": found.url or item.license_url}
    item = _with(item, **values)
    return item, _refusal(item, found, config)


def declared(item: Item, config: LicensesConfig) -> Item:
    """The item, with what the user declares in the place of a licence and an author that its source does not say."""
    if config.assume and not (item.license or item.license_url):
        found = license_of(config.assume, None)
        assert found is not None
        item = _with(item, license=found.id, license_url=found.url)
    if config.assume_author and plain_text(item.author) is None:
        item = _with(item, author=config.assume_author)
    return item


def _with(item: Item, **values: Any) -> Item:
    """The item with other values; what it had before is noted in `said`, unless that was noted already."""
    now = dict(zip(_FIELDS, _VALUES(item), strict=True))
    old = {name: now[name] for name, value in values.items() if value != now[name]}
    if not old:
        return item
    if old.get("license_url", "") is None:  # a link that is found says nothing new
        del old["license_url"]
    said = json.dumps(old | json.loads(item.said or "{}"), ensure_ascii=False) if old else item.said
    return Item(**{**now, **values, "said": said})


_FIELDS = tuple(Item.__dataclass_fields__)
_VALUES = attrgetter(*_FIELDS)


def _refusal(item: Item, found: License | None, config: LicensesConfig) -> Rejection | None:
    if found is None:
        if raw := item.license or item.license_url:
            return Rejection(item.ref, Reason.UNKNOWN_LICENSE, detail=raw)
        hint = "none is said; --licenses.assume ID declares one for all that say none"
        return Rejection(item.ref, Reason.NO_LICENSE, detail=hint)
    if found.family not in config.families:
        return Rejection(item.ref, Reason.LICENSE_NOT_ALLOWED, detail=found.id)
    if item.author is None and FAMILIES[found.family].asks_for_author:
        hint = f"{found.id} asks for one; --licenses.assume-author NAME declares one for all that say none"
        return Rejection(item.ref, Reason.NO_AUTHOR, detail=hint)
    return None


@lru_cache(maxsize=4096)
def license_of(name: str | None, url: str | None) -> License | None:
    """The licence that a name and a link say; None where neither is known, or where they say different things.

    Of a name without version and a link with one, the link is taken; so is it where the name says no more than that a
    work is in the public domain.
    """
    by_name, by_url = _by_name(name or ""), _by_url(url or "")
    if name and by_name is None and "://" in name:
        by_name = _by_url(name)
    if by_name is None or by_url is None:
        if (name and by_name is None) and by_url is None:
            return None
        return by_name or by_url
    if by_name.family == by_url.family:
        return by_name if _VERSION.search(by_name.id) and not _VERSION.search(by_url.id) else by_url
    if by_name.id == "PD" and by_url.family in _PUBLIC:
        return by_url
    return None


_PUBLIC = frozenset({"CC0", "PDM", "US-Gov", "NKC"})
_VERSION = re.compile(r"[0-9]\.[0-9]")

_CC = re.compile(
    r"(?:cc[ -]?)?(?P<kind>by(?:[ -]nc)?(?:[ -](?:sa|nd))?)(?![a-z])"
    r"(?:[ -]?v?(?P<version>[1-4]\.[0-9]))?"
    r"(?:[ ,-]+[1-4]\.[0-9])*"  # Commons' multi-licences name older versions too
    r"(?:[ -](?P<port>[a-z]{2}|igo|scotland))?"
)
_CC_WORDS = (
    ("creative commons", "cc"),
    ("licence", "license"),
    ("attribution", "by"),
    ("noncommercial", "nc"),
    ("non-commercial", "nc"),
    ("sharealike", "sa"),
    ("share alike", "sa"),
    ("share-alike", "sa"),
    ("noderivatives", "nd"),
    ("noderivs", "nd"),
    ("no derivatives", "nd"),
)
_CC_REST = re.compile(
    r"\b(?:international|unported|generic|public|license|deed|migrated|any version|or later)\b"
)
_TEXTS: Mapping[str, tuple[str, str, str | None]] = {
    "cc0": ("CC0-1.0", "CC0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    "pdm": ("PDM-1.0", "PDM", "https://creativecommons.org/publicdomain/mark/1.0/"),
    "publicdomain": ("PD", "PDM", None),
    "pd": ("PD", "PDM", None),
    "usgov": ("US-Gov", "US-Gov", None),
    "usgovnasa": ("US-Gov-NASA", "US-Gov", "https://www.nasa.gov/nasa-brand-center/images-and-media/"),
    "nkc": ("NKC", "NKC", None),
    "noknowncopyrightrestrictions": ("NKC", "NKC", None),
    "ogl": ("OGL-UK-3.0", "OGL-UK", None),
    "oglv3": ("OGL-UK-3.0", "OGL-UK", None),
    "ogluk": ("OGL-UK-3.0", "OGL-UK", None),
    "gfdl": ("GFDL", "GFDL", None),
    "gnufreedocumentation": ("GFDL", "GFDL", None),
    "fal": ("FAL", "FAL", None),
    "freeart": ("FAL", "FAL", None),
    "allrightsreserved": ("In-Copyright", "In-Copyright", None),
}
_TEXTS = {
    **_TEXTS,
    **dict.fromkeys(
        (
            "cczero",
            "cc0publicdomain",
            "creativecommonscc0",
            "creativecommonszero",
            "creativecommonszeropublicdomain",
        ),
        _TEXTS["cc0"],
    ),
    **dict.fromkeys(("creativecommonspublicdomainmark", "publicdomainmark"), _TEXTS["pdm"]),
    **dict.fromkeys(
        ("pdusgov", "usgovernmentwork", "usgovernmentworks", "unitedstatesgovernmentwork"), _TEXTS["usgov"]
    ),
    **dict.fromkeys(("noknownrestrictions", "noknownrestrictionsonpublication"), _TEXTS["nkc"]),
    **dict.fromkeys(("copyrighted", "incopyright", "inc"), _TEXTS["allrightsreserved"]),
}
"""Names without their blanks, marks and versions: the id, the family and the link."""
_URL = re.compile(r"(?:https?:)?//(?:www\.)?(?P<host>[^/?#]+)(?P<path>[^?#]*)", re.IGNORECASE)
_CC_PATH = re.compile(
    r"/licenses/(?P<kind>by(?:-nc)?(?:-(?:sa|nd))?|by-nd-nc)/(?P<version>[1-4]\.[0-9])"
    r"(?:/(?P<port>[a-z]{2}|igo|scotland)(?=/|$))?(?:/.*)?",
    re.IGNORECASE,
)
_STATEMENTS = {"noc-us": "NKC", "nkc": "NKC"}
"""Of rightsstatements.org: every other one reserves something, or leaves it open."""


def _by_name(text: str) -> License | None:
    text = " ".join(text.lower().replace("_", "-").replace("–", "-").split())
    if not text or "://" in text:
        return None
    plain = re.sub(r"[^a-z0-9]|\b[1-4]\.[0-9]\b", "", text).removeprefix("the")
    for known in (plain, re.sub("universal|dedication|license|licence|version", "", plain)):
        if known in _TEXTS:
            return License(*_with_link(*_TEXTS[known]))
    if text.startswith("pd-usgov"):
        return License(*_with_link(*_TEXTS["usgov"]))
    if text.startswith("pd-"):
        return License(*_TEXTS["pd"])
    if text.startswith("gfdl"):
        return License(*_TEXTS["gfdl"])
    for words, short in _CC_WORDS:
        text = text.replace(words, short)
    text = " ".join(re.sub(r"[()/]", " ", _CC_REST.sub(" ", text)).split()).strip(" -.,")
    match = _CC.fullmatch(text)
    return _cc(match["kind"], match["version"], match["port"]) if match else None


def _by_url(url: str) -> License | None:
    match = _URL.match(url.strip())
    if match is None:
        return None
    host, path = match["host"].lower(), match["path"].lower()
    if host == "creativecommons.org":
        if path.startswith("/publicdomain/zero/"):
            return License(*_TEXTS["cc0"])
        if path.startswith("/publicdomain/mark/"):
            return License(*_TEXTS["pdm"])
        if path.startswith("/licenses/publicdomain"):
            return License("PD", "PDM", "https://creativecommons.org/licenses/publicdomain/")
        found = _CC_PATH.fullmatch(path)
        return _cc(found["kind"], found["version"], found["port"]) if found else None
    if host == "rightsstatements.org":
        name = next((part for part in path.split("/") if part not in ("", "vocab", "page")), "")
        family = _STATEMENTS.get(name, "In-Copyright")
        return License(family, family, url.strip()) if name else None
    if host == "nationalarchives.gov.uk" and path.startswith("/doc/open-government-licence"):
        version = re.search(r"/version/([1-3])", path)
        return License(f"OGL-UK-{version[1]}.0" if version else "OGL-UK-3.0", "OGL-UK", url.strip())
    if host == "usa.gov" and ("government-works" in path or "publicdomain" in path or "copyright" in path):
        return License(*_with_link(*_TEXTS["usgov"]))
    if host == "flickr.com" and path.startswith("/commons/usage"):
        return License("NKC", "NKC", url.strip())
    if host == "nasa.gov" and ("images-and-media" in path or "media-usage" in path or "/guidelines" in path):
        return License(*_TEXTS["usgovnasa"])
    return None


def _with_link(name: str, family: str, url: str | None) -> tuple[str, str, str | None]:
    return name, family, url or FAMILIES[family].url


def _cc(kind: str, version: str | None, port: str | None) -> License:
    parts = kind.lower().replace(" ", "-").split("-")
    ordered = "-".join(part for part in ("by", "nc", "nd", "sa") if part in parts)
    family = f"CC-{ordered.upper()}"
    if port in ("en", "fr", "es") and version == "4.0":  # a deed's language: 4.0 has no ports
        port = None
    name = "-".join([family, *([version] if version else []), *([port.upper()] if port else [])])
    url = f"https://creativecommons.org/licenses/{ordered}/{version}/" if version else None
    return License(name, family, f"{url}{port.lower()}/" if url and port else url)
