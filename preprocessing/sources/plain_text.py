"""HTML as plain text: services keep authors and titles as fragments of pages, with links and spans.

Not here: any use of the markup, and text that is not HTML, which stays as it is.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html.parser import HTMLParser

MAX_HTML = 64 * 1024
"""Characters that are read; a credit is a line."""
MAX_TEXT = 2000
"""Characters that are kept."""
_HTML = re.compile(r"<[a-zA-Z/!]|&[a-zA-Z#]")
_HIDDEN = frozenset({"script", "style", "template", "title"})
_BLOCKS = frozenset({"br", "div", "dd", "dt", "li", "p", "td", "th", "tr"})
_UNSEEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            self.parts.append(" " if tag in _BLOCKS else "")
        elif self._hidden or tag in _HIDDEN or _UNSEEN.search(dict(attrs).get("style") or ""):
            self._hidden.append(tag)
        elif tag in _BLOCKS:
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            while self._hidden.pop() != tag:
                pass
        elif tag in _BLOCKS:
            self.parts.append(" ")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)


@lru_cache(maxsize=4096)
def plain_text(html: str | None) -> str | None:
    """The words of a fragment of HTML, blanks run together; None where there is none. Never raises."""
    if html is None or not _HTML.search(html):
        return (html or "").strip() or None
    parser = _Text()
    parser.feed(html if len(html) <= MAX_HTML else html[:MAX_HTML].rpartition("<")[0])  # no half a tag
    parser.close()
    return " ".join("".join(parser.parts).split())[:MAX_TEXT] or None
