"""Licences as services write them, in one vocabulary, and which photographs they refuse."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from preprocessing.records import Item
from preprocessing.reject import LICENSING, Reason
from preprocessing.sources.licenses import FAMILIES, PRESETS, LicensesConfig, declared, license_of, licensed
from preprocessing.sources.plain_text import MAX_TEXT, plain_text

CC = "https://creativecommons.org"

WRITTEN = {
    "CC-BY-4.0": [
        ("CC-BY-4.0", None),
        ("cc-by-4.0", None),
        ("CC BY 4.0", f"{CC}/licenses/by/4.0"),
        ("by", f"{CC}/licenses/by/4.0/"),
        ("Creative Commons Attribution 4.0 International", None),
        (None, f"{CC}/licenses/by/4.0/deed.fr"),
        (None, f"http://www.{CC[8:]}/licenses/by/4.0/legalcode"),
        (f"{CC}/licenses/by/4.0/", None),
    ],
    "CC-BY-2.0": [("Attribution License", f"{CC}/licenses/by/2.0/")],
    "CC-BY-3.0-DE": [
        ("CC BY 3.0 de", None),
        ("CC-BY-3.0-DE", None),
        (None, f"{CC}/licenses/by/3.0/de/deed.en"),
    ],
    "CC-BY-SA-3.0": [
        ("cc-by-sa-3.0,2.5,2.0,1.0", None),
        ("CC BY-SA 3.0", f"{CC}/licenses/by-sa/3.0/"),
        ("CC-BY-SA-3.0-migrated", None),
        ("Creative Commons Attribution-Share Alike 3.0 Unported", None),
    ],
    "CC-BY-NC-SA-2.0": [
        ("Attribution-NonCommercial-ShareAlike License", f"{CC}/licenses/by-nc-sa/2.0/"),
        ("CC BY-NC-SA 2.0", None),
    ],
    "CC-BY-NC-ND-4.0": [("by-nc-nd 4.0", None), (None, f"{CC}/licenses/by-nc-nd/4.0/")],
    "CC-BY": [("CC BY", None), ("Attribution", None)],
    "CC0-1.0": [
        ("CC0", None),
        ("cc-zero", None),
        ("CC0 1.0 Universal", None),
        ("Creative Commons Zero, Public Domain Dedication", None),
        (None, f"{CC}/publicdomain/zero/1.0/deed.en"),
        ("Public domain", f"{CC}/publicdomain/zero/1.0/"),
    ],
    "PDM-1.0": [("PDM-1.0", None), ("Public Domain Mark", None), (None, f"{CC}/publicdomain/mark/1.0/")],
    "PD": [("Public domain", None), ("pd", ""), ("PD-old-70", None)],
    "US-Gov": [
        ("United States Government Work", "https://www.usa.gov/government-copyright"),
        ("PD-USGov-Military", None),
        ("US-Gov", None),
    ],
    "US-Gov-NASA": [
        ("US-Gov (NASA)", None),
        (None, "https://www.nasa.gov/nasa-brand-center/images-and-media/"),
    ],
    "NKC": [
        ("No known copyright restrictions", "https://www.flickr.com/commons/usage/"),
        ("No known restrictions on publication.", None),
        (None, "http://rightsstatements.org/page/NoC-US/1.0/"),
    ],
    "OGL-UK-3.0": [
        ("OGL", None),
        (None, "https://www.nationalarchives.gov.uk/doc/open-government-licence/version/3/"),
    ],
    "In-Copyright": [("All Rights Reserved", None), (None, "http://rightsstatements.org/vocab/InC-EDU/1.0/")],
}
UNREADABLE = [
    ("my own", None),
    ("CC BY 4.0", f"{CC}/licenses/by-nc/4.0/"),
    ("CC-BY-4.0 OR MIT", None),
    ("bye", None),
    ("CC BY-ND-NC 1.0", None),
    (None, "https://evil.example/creativecommons.org/licenses/by/4.0/"),
    (None, f"{CC}.example/licenses/by/4.0/"),
    ("", ""),
    (None, None),
]


@pytest.mark.parametrize(("wanted", "written"), WRITTEN.items())
def test_one_id_for_all_ways_to_write_a_licence(wanted: str, written: list[tuple[Any, Any]]) -> None:
    """Short names, long names, ids and links of one licence give one id, and so does the id with its own link."""
    for name, url in written:
        found = license_of(name, url)
        assert found is not None, (name, url)
        assert found.id == wanted, (name, url, found)
        assert license_of(found.id, found.url) == found, found


@pytest.mark.parametrize(("name", "url"), UNREADABLE)
def test_what_is_not_known_is_not_guessed(name: str | None, url: str | None) -> None:
    """A licence of no vocabulary, a link to another host, and a name and a link at odds are no licence."""
    assert license_of(name, url) is None


@given(st.text(), st.text())
def test_no_text_is_misread(name: str, url: str) -> None:
    """Nothing that a source writes raises, and what is read belongs to a family that is known."""
    found = license_of(name, url)
    assert found is None or found.family in FAMILIES
    plain = plain_text(name)
    assert plain is None or plain.strip()


def test_presets_add_and_never_allow_nd() -> None:
    """Each preset holds the one before it and more, and no setting takes a licence that forbids changes."""
    families = [LicensesConfig(allow=(name,)).families for name in PRESETS]
    assert all(less < more for less, more in pairwise(families))
    assert LicensesConfig().families == {"CC0", "PDM", "US-Gov", "CC-BY"}
    assert not any("ND" in family for family in families[-1])
    assert LicensesConfig.model_validate({"allow": "cc0, cc-by-sa"}).families == {"CC0", "CC-BY-SA"}
    with pytest.raises(ValidationError, match=r"CC-BY-ND is never allowed \(no changes\): open, share-alike"):
        LicensesConfig.model_validate({"allow": "CC-BY-ND"})
    with pytest.raises(ValidationError, match="cc-by-9 is no licence that is known"):
        LicensesConfig.model_validate({"allow": "open,cc-by-9"})
    with pytest.raises(ValidationError, match="is no licence that is known; write it as"):
        LicensesConfig(assume="mine")


REFUSED: list[tuple[dict[str, str], dict[str, Any], Reason | None, str]] = [
    ({"license": "CC BY 4.0", "author": "A"}, {}, None, ""),
    ({"license": "CC0"}, {}, None, ""),
    ({"license": "CC BY 4.0"}, {}, Reason.NO_AUTHOR, "CC-BY-4.0 asks for one; --licenses.assume-author NAME"),
    ({"license": "CC BY 4.0"}, {"assume_author": "B"}, None, ""),
    ({"license": "CC BY 4.0", "author": "<span></span>"}, {}, Reason.NO_AUTHOR, "CC-BY-4.0 asks for one"),
    ({"author": "A"}, {}, Reason.NO_LICENSE, "none is said; --licenses.assume ID"),
    ({"author": "A"}, {"assume": "cc by 4.0"}, None, ""),
    ({"license": "mine"}, {"assume": "CC0-1.0"}, Reason.UNKNOWN_LICENSE, "mine"),
    ({"license": "CC BY-SA 4.0", "author": "A"}, {}, Reason.LICENSE_NOT_ALLOWED, "CC-BY-SA-4.0"),
    ({"license": "CC BY-SA 4.0", "author": "A"}, {"allow": ("share-alike",)}, None, ""),
    (
        {"license": "CC BY-ND 4.0", "author": "A"},
        {"allow": ("research",)},
        Reason.LICENSE_NOT_ALLOWED,
        "CC-BY-ND-4.0",
    ),
]


@pytest.mark.parametrize(("said", "settings", "reason", "detail"), REFUSED)
def test_refusals_name_what_refuses(
    said: dict[str, str], settings: dict[str, Any], reason: Reason | None, detail: str
) -> None:
    """Each way to be refused has its reason, naming the raw value or the option that helps."""
    config = LicensesConfig.model_validate(settings)
    item, rejection = licensed(Item("a", **said), config)
    if rejection is None:
        assert reason is None, said
        assert license_of(item.license, item.license_url) is not None
    else:
        assert rejection.reason is reason
        assert rejection.reason in LICENSING
        assert (rejection.detail or "").startswith(detail), rejection


def test_raw_words_are_kept() -> None:
    """What a licence and an author are read from stays beside the reading; what is read as it stands is there once."""
    raw = {"license": "cc-by-sa-3.0,2.5,2.0,1.0", "author": '<a href="//x">Ann &amp; Bob</a>'}
    item, _ = licensed(Item("a", **raw), LicensesConfig())
    assert (item.license, item.author) == ("CC-BY-SA-3.0", "Ann & Bob")
    assert json.loads(item.said or "") == raw
    again, _ = licensed(item, LicensesConfig())
    assert again == item
    assert declared(Item("a", **raw), LicensesConfig()) == Item("a", **raw)
    plain, _ = licensed(Item("a", license="CC0-1.0", author="Ann"), LicensesConfig())
    assert plain.said is None
    assumed, _ = licensed(Item("a"), LicensesConfig(assume="CC-BY-4.0", assume_author="Ann"))
    assert (assumed.license, assumed.author) == ("CC-BY-4.0", "Ann")
    assert json.loads(assumed.said or "") == {"license": None, "author": None}


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ('<a href="//commons.wikimedia.org/wiki/User:A" title="User:A">A. B.</a>', "A. B."),
        ("Ann<br>Bob", "Ann Bob"),
        ("<div>Ann</div><div>Bob</div>", "Ann Bob"),
        ("Ann &amp; Bob &lt;ann@x&gt;", "Ann & Bob <ann@x>"),
        ('<span style="display: none;">vcard</span>Ann', "Ann"),
        ("<script>alert(1)</script>Ann<style>b</style>", "Ann"),
        ("<bdi>Ann\n  van   Dam</bdi>", "Ann van Dam"),
        ("AT&T, a < b", "AT&T, a < b"),
        ("<b>open <i>ended", "open ended"),
        ("  ", None),
        ("<img src=x>", None),
        ("<p>" * 200_000 + "x", None),
    ],
)
def test_html_becomes_text(html: str, text: str | None) -> None:
    """Markup goes, what it hides goes with it, entities are read, and text that only looks like markup stays."""
    assert plain_text(html) == text
    assert len(plain_text("<p>" + "x" * 10_000) or "") == MAX_TEXT
