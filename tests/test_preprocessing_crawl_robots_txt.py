"""robots.txt, read beside another reader and through whatever bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from protego import Protego

from preprocessing.crawl.robots_txt import DECIDING, MAX_BYTES, deciding, parse_robots, path_matches

PATTERNS = st.sampled_from(
    [
        "/",
        "/a",
        "/a/",
        "/b",
        "/a/b",
        "*.jpg",
        "/*.jpg$",
        "/a*b",
        "/a$",
        "/%41",
        "/é",
        "/a?x=*",
        "*",
        "/a b",
        "/%2f",
        "/*/b$",
        "",
    ]
)
LINES = st.one_of(
    st.sampled_from(["*", "likeness", "other", "Likeness"]).map("User-agent: ".__add__),
    PATTERNS.map("Disallow: ".__add__),
    PATTERNS.map("Allow:".__add__),
    st.sampled_from(["Crawl-delay: 3", "Sitemap: https://h.example/s", "# c", ""]),
)
TARGETS = [
    "/",
    "/a",
    "/a/b",
    "/a/b.jpg",
    "/b/x.jpg?x=1",
    "/A",
    "/%41",
    "/%C3%A9",
    "/a%20b",
    "/a?x=1",
    "/%2Fq",
    "/x/b",
]


@given(st.lists(LINES, max_size=12))
def test_decisions_are_those_of_another_reader(lines: list[str]) -> None:
    """What RFC 9309 lays down is decided as Protego decides it."""
    text = "\n".join(lines)
    ours, theirs = parse_robots(text).rules("likeness", *DECIDING), Protego.parse(text)
    for target in TARGETS:
        rule = deciding(ours, target)
        is_allowed = rule is None or rule.kind == "allow"
        assert is_allowed == theirs.can_fetch(f"https://h.example{target}", "likeness"), f"{target}: {rule}"


@given(st.lists(LINES, max_size=12))
def test_a_rule_is_the_line_that_it_names(lines: list[str]) -> None:
    """The text of every rule stands on its line."""
    robots = parse_robots("\r\n".join(lines))
    for group in robots.groups:
        assert all(lines[rule.line - 1] == rule.text for rule in group.rules)


@given(st.binary() | st.text(), st.text(), st.text())
def test_nothing_raises(data: bytes | str, agent: str, target: str) -> None:
    """Any bytes are a robots.txt, any text a name and a path."""
    robots = parse_robots(data)
    deciding(robots.rules(agent, *DECIDING), target)
    delay_s = robots.delay_s(agent)
    assert delay_s is None or delay_s >= 0
    path_matches(target, agent)


def test_encodings_of_an_editor_are_read() -> None:
    """UTF-16 with its mark and UTF-8 with one say what UTF-8 says."""
    text = "User-agent: *\nDisallow: /\n"
    for data in (text.encode("utf-8-sig"), text.encode("utf-16"), b"\xfe\xff" + text.encode("utf-16-be")):
        assert deciding(parse_robots(data).rules("likeness", *DECIDING), "/a"), data


def test_bytes_of_another_encoding_are_compared_as_they_are() -> None:
    """A rule in Latin-1 holds for the target that has the same byte, and for no other."""
    rules = parse_robots(b"User-agent: *\nDisallow: /caf\xe9\n").rules("likeness", *DECIDING)
    assert deciding(rules, "/caf%E9.jpg")
    assert not deciding(rules, "/caf%C3%A9.jpg")


def test_a_file_is_read_up_to_its_limit() -> None:
    """Rules within the limit hold, those behind it do not."""
    start = "User-agent: *\nDisallow: /a\n"
    filling = "# " + "x" * (MAX_BYTES - len(start) - 3) + "\n"
    rules = parse_robots((start + filling + "Disallow: /b\n").encode()).rules("likeness", *DECIDING)
    assert [rule.pattern for rule in rules] == ["/a"]


def test_a_group_of_many_names_takes_no_more_room_than_its_file() -> None:
    """Rules share the text of their group's names, however many there are of both, and it is cut."""
    text = "".join(f"User-agent: a{number}\n" for number in range(14000)) + "Disallow: /x\n" * 9000
    rules = parse_robots(text).rules("a13999", *DECIDING)
    assert len(rules) == 9000
    assert len({id(rule.group) for rule in rules}) == 1
    assert rules[0].group.startswith("a0, a1, ")
    assert len(rules[0].group) == 1000


def test_delays_are_the_longest_of_the_group() -> None:
    """Crawl-delay is the longest that the crawler's own group asks for; nonsense asks for nothing."""
    text = "User-agent: *\nCrawl-delay: 9\nUser-agent: likeness\nCrawl-delay: 2.5\nCrawl-delay: 1\nCrawl-delay: {}\n"
    for nonsense in ("", "soon", "-1", "inf", "nan", "٩"):
        robots = parse_robots(text.format(nonsense))
        assert robots.delay_s("likeness") == 2.5, nonsense
        assert robots.delay_s("other") == 9
    assert parse_robots("User-agent: *\nDisallow: /\n").delay_s("likeness") is None


def test_stars_cost_no_more_than_their_number() -> None:
    """A pattern of thousands of stars is matched as any other."""
    assert path_matches("/" + "*a" * 5000 + "$", "/" + "a" * 5000)
    assert not path_matches("/" + "*a" * 5000 + "b", "/" + "a" * 5000)
