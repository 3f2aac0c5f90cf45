"""Local folders: which files are items, and what the JSONL beside them says."""

from __future__ import annotations

import json
import os
import pickle
import socket
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from flows.stages.listing import listing
from preprocessing.config import BuildConfig
from preprocessing.crawl.fetch import FetchConfig
from preprocessing.records import Item, Rejection
from preprocessing.reject import Reason
from preprocessing.sources import Source, open_source
from preprocessing.sources.folder import FolderSource
from storage.digest import bytes_digest
from storage.errors import ConfigError, SourceError


def write(root: Path, files: dict[str, bytes]) -> None:
    """Files below `root`."""
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def write_jsonl(path: Path, *rows: dict[str, Any] | str) -> None:
    """A JSONL of rows, or of lines as they are."""
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")


def source(root: Path) -> FolderSource:
    """The folder's source, as a user opens it."""
    opened = open_source(f"folder:{root}", FetchConfig())
    assert isinstance(opened, FolderSource)
    return opened


def test_every_visible_file_is_an_item_in_order(tmp_path: Path) -> None:
    """Files at any depth are listed by sorted path, text files too; hidden ones and JSONL are not."""
    write(
        tmp_path, dict.fromkeys(["b.jpg", "a/z.png", "a/b/c.txt", "ä.jpg", ".hidden.jpg", ".git/x.jpg"], b"x")
    )
    write_jsonl(tmp_path / "notes.jsonl", {"file": "b.jpg"})
    assert [item.ref for item in source(tmp_path).items()] == ["a/b/c.txt", "a/z.png", "b.jpg", "ä.jpg"]


def test_reading_gives_the_bytes_of_now(tmp_path: Path) -> None:
    """A file that changes between two readings is read as it then is, and pickling loses nothing."""
    write(tmp_path, {"a.jpg": b"one"})
    opened: Source = pickle.loads(pickle.dumps(source(tmp_path)))
    items = opened.items()
    assert list(opened.read(items)) == [(Item("a.jpg"), b"one")]
    write(tmp_path, {"a.jpg": b"two"})
    assert list(opened.read(items)) == [(Item("a.jpg"), b"two")]


def test_unreadable_files_are_rejections(tmp_path: Path) -> None:
    """Broken links, pipes, sockets, devices and files that vanish are rejections, and the rest is read."""
    write(tmp_path, {"a.jpg": b"a", "gone.jpg": b"x"})
    (tmp_path / "link.jpg").symlink_to("nowhere")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    pipe = tmp_path.parent / "pipe"
    os.mkfifo(pipe)
    for name in ("pipe.jpg", "pipe.jsonl", "pipe.csv"):  # nobody writes to it: who reads it waits for ever
        (tmp_path / name).symlink_to(pipe)
    os.mkfifo(tmp_path / "own-pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    (tmp_path / "zeros.jsonl").symlink_to("/dev/zero")
    opened = source(tmp_path)
    items = opened.items()
    (tmp_path / "gone.jpg").unlink()
    outcomes = list(opened.read(items))
    assert outcomes[0] == (Item("a.jpg"), b"a")
    rejected = [outcome for outcome in outcomes[1:] if isinstance(outcome, Rejection)]
    assert [r.ref for r in rejected] == [
        "gone.jpg", "link.jpg", "own-pipe.jpg", "pipe.csv", "pipe.jpg", "pipe.jsonl", "self.jpg", "socket",
        "zeros.jsonl",
    ]  # fmt: skip
    assert {r.reason for r in rejected} == {Reason.UNREADABLE_FILE}
    assert {r.detail for r in rejected} == {"FileNotFoundError"}


def test_names_that_are_no_utf8_are_read(tmp_path: Path) -> None:
    """A file name in another encoding has a printable ref, and its bytes, in another process too."""
    try:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg"))).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    opened = source(tmp_path)
    items = opened.items()
    (outcome,) = pickle.loads(pickle.dumps(opened)).read(items)
    assert outcome == (Item(r"\xff.jpg"), b"x")
    assert outcome[0].ref.encode() == rb"\xff.jpg"


def test_a_folder_that_cannot_be_read_is_one_rejection(tmp_path: Path) -> None:
    """What lies in it is lost, and it is named; the rest is read."""
    write(tmp_path, {"a.jpg": b"a"})
    name = "d" * 200
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):  # deeper than a path can say, whoever asks
        os.mkdir(name, dir_fd=folder)
        folder, above = os.open(name, os.O_RDONLY, dir_fd=folder), folder
        os.close(above)
    os.close(folder)
    opened = source(tmp_path)
    first, problem = opened.items()
    assert [first.ref, problem.ref.endswith("d/")] == ["a.jpg", True]
    read, refused = opened.read([first, problem])
    assert read == (Item("a.jpg"), b"a")
    assert isinstance(refused, Rejection)
    assert (refused.ref, refused.reason) == (problem.ref, Reason.UNREADABLE_FILE)


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    """A linked folder's files are items; a link to a folder above ends there."""
    write(tmp_path, {"root/a.jpg": b"a", "other/b.jpg": b"b"})
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "other")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    (tmp_path / "other" / "up").symlink_to(tmp_path / "root")
    assert [item.ref for item in source(tmp_path / "root").items()] == ["a.jpg", "linked/b.jpg"]


def test_metadata_comes_from_jsonl_inside_and_beside(tmp_path: Path) -> None:
    """Rows are found by their file's path relative to the JSONL, in the folder, below it and in its parent."""
    write(tmp_path, dict.fromkeys(["set/a.jpg", "set/b.jpg", "set/sub/c.jpg", "set/d.jpg"], b"x"))
    beside = {
        "file": "set/a.jpg",
        "license": "CC0-1.0",
        "license_url": "https://l",
        "author": "A",
        "title": "T",
    }
    write_jsonl(tmp_path / "all.jsonl", beside, {"file": "another/z.jpg", "license": "X"})
    write_jsonl(tmp_path / "set" / "own.jsonl", {"file": "b.jpg", "page": "https://p", "camera": "ignored"})
    write_jsonl(tmp_path / "set" / "sub" / "more.jsonl", {"file": "./c.jpg", "author": "", "license": None})
    assert source(tmp_path / "set").items() == [
        Item("a.jpg", license="CC0-1.0", license_url="https://l", author="A", title="T"),
        Item("b.jpg", page="https://p"),
        Item("d.jpg"),
        Item("sub/c.jpg"),
    ]


def test_a_promised_checksum_is_kept(tmp_path: Path) -> None:
    """Bytes with the promised sha256 pass; others are a rejection that names both digests."""
    write(tmp_path, {"a.jpg": b"a", "b.jpg": b"b"})
    promised = bytes_digest(b"a")
    write_jsonl(
        tmp_path / "m.jsonl",
        {"file": "a.jpg", "sha256": promised.upper()},
        {"file": "b.jpg", "sha256": promised},
    )
    good, bad = source(tmp_path).read(source(tmp_path).items())
    assert isinstance(good, tuple)
    assert good[1] == b"a"
    assert bad == Rejection(
        "b.jpg", Reason.CHECKSUM_MISMATCH, bytes_digest(b"b"), detail=f"expected {promised}"
    )


@pytest.mark.parametrize(
    ("lines", "ref", "detail"),
    [
        (["not json"], "m.jsonl:2", "is no JSON object"),
        (["[1]"], "m.jsonl:2", "is no JSON object"),
        (["", '{"license": "X"}'], "m.jsonl:3", "lacks `file`"),
        (['{"file": 7}'], "m.jsonl:2", "lacks `file`"),
        (['{"file": "\\ud800.jpg"}'], "m.jsonl:2", "names no file"),
        (['{"file": "b.jpg", "author": "C", "author": "D"}'], "m.jsonl:2", "is no JSON object"),
        (['{"file": "a.jpg", "sha256": "abc"}'], "m.jsonl:2", "sha256 'abc' is not 64"),
        (['{"file": "a.jpg", "author": 7}'], "m.jsonl:2", "author is 7, not text"),
        (
            ['{"file": "./a.jpg", "author": "B"}'],
            "m.jsonl:2",
            "and m.jsonl:1 say different things about a.jpg",
        ),
    ],
)
def test_a_bad_row_is_one_rejection(tmp_path: Path, lines: list[str], ref: str, detail: str) -> None:
    """Each mistake in a table is counted under its file and line, and the other rows are used."""
    write(tmp_path, {"a.jpg": b"a", "b.jpg": b"b"})
    write_jsonl(
        tmp_path / "m.jsonl", '{"file": "a.jpg", "author": "A"}', *lines, '{"file": "b.jpg", "author": "B"}'
    )
    opened = source(tmp_path)
    items = opened.items()
    assert items == [Item("a.jpg", author="A"), Item("b.jpg", author="B"), Item(ref)]
    [problem] = list(pickle.loads(pickle.dumps(opened)).read(items[2:]))
    assert (problem.ref, problem.reason) == (ref, Reason.BAD_METADATA)
    assert problem.detail.startswith(detail), problem.detail
    assert len(opened.problems) == 1
    assert opened.problems[0].startswith(f"{ref} {detail}")


@pytest.mark.parametrize(
    ("rows", "refs"),
    [
        ("a.jpg,Smith, John,CC0-1.0\nb.jpg,B,\n", ["m.csv:2"]),
        ('a.jpg,"A\nb.jpg,B\n', ["m.csv"]),
        ('a.jpg,"A" x,\nb.jpg,B\n', ["m.csv:2"]),
        (f"a.jpg,{'x' * 200_000}\nb.jpg,B\n", ["m.csv:2"]),
    ],
    ids=["more cells than columns", "a lone quote", "text behind a quote", "a cell without an end"],
)
def test_a_bad_row_of_csv_is_one_rejection(tmp_path: Path, rows: str, refs: list[str]) -> None:
    """A row that other programs would read otherwise says nothing, is counted, and leaves those after it."""
    write(tmp_path, {"a.jpg": b"a", "b.jpg": b"b"})
    (tmp_path / "m.csv").write_text("file,author,license\n" + rows)
    opened = source(tmp_path)
    items = opened.items()
    author = None if refs == ["m.csv"] else "B"
    assert items == [Item("a.jpg"), Item("b.jpg", author=author), *map(Item, refs)]
    assert [r.reason for r in opened.read(items) if isinstance(r, Rejection)] == [Reason.BAD_METADATA]


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_windows_are_read(tmp_path: Path, name: str, encoding: str) -> None:
    """With a mark at the beginning, in UTF-16, with CRLF, and with blanks around the names of columns."""
    write(tmp_path, {"ü.jpg": b"a"})
    texts = {"m.csv": " file , author\r\nü.jpg,Ä\r\n", "m.jsonl": '{"file": "ü.jpg", "author": "Ä"}\r\n'}
    (tmp_path / name).write_bytes(texts[name].encode(encoding))
    assert source(tmp_path).items() == [Item("ü.jpg", author="Ä")]


def test_a_table_of_bad_rows_alone_is_one_rejection(tmp_path: Path) -> None:
    """Nobody can tell what it is about, so that it is named and counted once, and is no table of something else."""
    write(
        tmp_path,
        {"a.jpg": b"a", "m.jsonl": b'{"file": "a.jpg", "author": "\xff"}\n', "n.csv": b"file,file\na,b\n"},
    )
    opened = source(tmp_path)
    items = opened.items()
    assert [item.ref for item in items] == ["a.jpg", "m.jsonl", "n.csv"]
    assert [problem.partition(" ")[0] for problem in opened.problems] == ["m.jsonl", "n.csv"]


def test_a_name_in_another_form_of_unicode_is_the_same_name(tmp_path: Path) -> None:
    """Facts of a composed name are those of the file that macOS wrote decomposed, where only one file can be meant."""
    composed, decomposed = (unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD"))
    write(tmp_path / "one", {decomposed: b"e"})
    write(tmp_path / "both", {decomposed: b"e", composed: b"f"})
    if len(os.listdir(tmp_path / "both")) == 1:
        pytest.skip("both forms are one name on this file system")
    for name in ("one", "both"):
        write_jsonl(tmp_path / name / "m.jsonl", {"file": composed, "author": "A"})
    assert source(tmp_path / "one").items() == [Item(decomposed, author="A")]
    assert source(tmp_path / "both").items() == [Item(decomposed), Item(composed, author="A")]


def test_a_strict_build_ends_at_a_bad_row(tmp_path: Path) -> None:
    """With `strict`, the first mistake in metadata is an error that names its line."""
    write(tmp_path, {"a.jpg": b"a"})
    write_jsonl(tmp_path / "m.jsonl", '{"file": "a.jpg"}', "not json")
    config = BuildConfig(source=f"folder:{tmp_path}", strict=True)
    with pytest.raises(SourceError, match=r"m\.jsonl:2 is no JSON object"):
        listing(source(tmp_path), config)
    listed, _ = listing(source(tmp_path), config.model_copy(update={"strict": False}))
    assert listed["ref"].to_pylist() == ["a.jpg", "m.jsonl:2"]


def test_metadata_of_hugging_face_is_read(tmp_path: Path) -> None:
    """`metadata.jsonl` and `metadata.csv` with `file_name` are tables; another CSV is a file like any other."""
    write(tmp_path, {"a.jpg": b"a", "sub/b.jpg": b"b", "c.jpg": b"c"})
    write_jsonl(tmp_path / "metadata.jsonl", {"file_name": "a.jpg", "license": "CC0-1.0"})
    (tmp_path / "sub" / "metadata.csv").write_text('file_name,author,title\nb.jpg,"B, C",\nb.jpg\n')
    (tmp_path / "notes.csv").write_text("when,what\ntoday,nothing\n")
    assert source(tmp_path).items() == [
        Item("a.jpg", license="CC0-1.0"),
        Item("c.jpg"),
        Item("notes.csv"),
        Item("sub/b.jpg", author="B, C"),
        Item("sub/metadata.csv:3"),
    ]


def test_jsonl_about_something_else_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A JSONL without `file` is no metadata, and one in the parent that is not about the folder may be broken."""
    write(tmp_path, {"set/a.jpg": b"a"})
    write_jsonl(tmp_path / "chat.jsonl", "{broken", '{"file": "elsewhere.jpg"}')
    write_jsonl(tmp_path / "set" / "log.jsonl", {"message": "hello"})
    assert source(tmp_path / "set").items() == [Item("a.jpg")]
    assert "log.jsonl has no key `file` or `file_name`" in caplog.text


def test_the_same_facts_twice_are_fine(tmp_path: Path) -> None:
    """Two rows that agree about a file are one."""
    write(tmp_path, {"a.jpg": b"a"})
    write_jsonl(tmp_path / "m.jsonl", {"file": "a.jpg", "author": "A"}, {"file": "a.jpg", "author": "A "})
    assert source(tmp_path).items() == [Item("a.jpg", author="A")]


def test_the_description_does_not_know_the_place(tmp_path: Path) -> None:
    """The same folder elsewhere has the same description."""
    write(tmp_path, {"x/a.jpg": b"a", "y/a.jpg": b"a"})
    assert source(tmp_path / "x").description() == source(tmp_path / "y").description() == {"kind": "folder"}


def test_wrong_specs_are_told(tmp_path: Path) -> None:
    """An unknown kind lists the known ones; a missing folder or path is named."""
    with pytest.raises(ConfigError, match=r"folder:PATH, urls:LIST, congress:.* sample:, sample:N"):
        open_source("s3:bucket", FetchConfig())
    with pytest.raises(ConfigError, match="folder:PATH"):
        open_source(str(tmp_path), FetchConfig())
    with pytest.raises(ConfigError, match="lacks its path"):
        open_source("folder:", FetchConfig())
    with pytest.raises(SourceError, match="none does not exist"):
        open_source(f"folder:{tmp_path / 'none'}", FetchConfig())
    write(tmp_path, {"a.jpg": b"a"})
    with pytest.raises(SourceError, match=r"a\.jpg is not a folder"):
        open_source(f"folder:{tmp_path / 'a.jpg'}", FetchConfig())


def test_real_portraits_have_their_licences(faces: Path) -> None:
    """Every portrait's licence, author and digest are found in the JSONL of the parent folder."""
    opened = FolderSource.open(str(faces / "congress"))
    items = opened.items()
    assert len(items) == 879
    assert all(item.license and item.license_url and item.author and item.expected_sha256 for item in items)
    assert all(isinstance(outcome, tuple) for outcome in opened.read(items[::50]))
