"""flows.cli: what the system refuses, for want of rights or of room, is one sentence that names the file and why."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from commands import bounded, likeness
from storage.store import Store
from storage.verify import verify

DATA = Path(__file__).with_name("data")
COMMANDS = """
import contextlib, io, json, sys
from flows.cli.main import main
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main(words)
            status = 0
        except SystemExit as end:
            status = end.code
    print(json.dumps([status, said.getvalue()]))
"""


def lines_of(command: list[str], *, is_bounded: bool) -> list[tuple[int, list[str]]]:
    """The status and the lines on standard error of each command that a process was given."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, preexec_fn=bounded if is_bounded else None
    )
    return [
        (status, said.splitlines())
        for status, said in (json.loads(line) for line in done.stdout.splitlines())
    ]


def test_what_this_user_may_not_touch_is_one_sentence(tmp_path: Path) -> None:
    """A file that may not be read, or a folder that may not be written to, is named in one line."""
    other = shutil.copytree(DATA / "golden2" / "store", tmp_path / "other")
    commands, victims = [], []
    for number, (victim, mode, words) in enumerate(
        [
            ("runs/*/run.json", 0o000, ["trace", "RUN"]),
            ("datasets/golden/latest.json", 0o000, ["verify", "golden"]),
            ("datasets/golden/71485f1fada17d95/images.parquet", 0o000, ["trace", "golden@71485f1f"]),
            ("chunks/shard", 0o500, ["pull", "golden2", str(other)]),
        ]
    ):
        store = shutil.copytree(DATA / "golden" / "store", tmp_path / str(number))
        [path], [run] = store.glob(victim), store.glob("runs/*")
        path.chmod(mode)
        victims.append(path)
        commands.append([run.name if word == "RUN" else word for word in words] + ["--store", str(store)])
    try:
        found = lines_of([sys.executable, "-c", COMMANDS, json.dumps(commands)], is_bounded=True)
    finally:
        for path in victims:
            path.chmod(0o700)
    for path, (status, said) in zip(victims, found, strict=True):
        assert status == 1, said
        assert said[-1].startswith("likeness: "), said
        assert str(path) in said[-1], said
        assert said[-1].endswith("Permission denied"), said


UNREADABLE = (
    "datasets/golden/71485f1fada17d95/manifest.json", "datasets/golden/71485f1fada17d95/images.parquet",
    "datasets/golden/71485f1fada17d95/shards/00001.tar", "datasets/golden/latest.json",
    "datasets/golden/builds/*6d3f.json", "originals/69/*", "runs/*/run.json",
    "runs/*/checkpoints/000000096/state.json", "runs/*/checkpoints/000000096/generator.safetensors",
    "chunks/shard/268f*.tar",
)  # fmt: skip
"""Files, each of a kind."""
UNLISTED = (
    "datasets", "datasets/golden", "datasets/golden/71485f1fada17d95", "datasets/golden/71485f1fada17d95/shards",
    "datasets/golden/builds", "originals", "originals/69", "runs", "runs/*", "runs/*/checkpoints",
    "runs/*/checkpoints/000000096", "chunks", "chunks/shard", "chunks/align",
)  # fmt: skip
"""Folders, likewise."""
LOOKS = """
import contextlib, io, json, os, sys
from flows.cli.main import main
store, harms = json.loads(sys.argv[1])
for path, mode in harms:
    usual = os.stat(path).st_mode
    os.chmod(path, mode)
    for fast in ([], ["--fast"]):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                main(["verify", "--all", *fast, "--store", store])
                status = 0
            except SystemExit as end:
                status = end.code
        print(json.dumps([path, mode, status, [*out.getvalue().splitlines(), *said.getvalue().splitlines()]]))
    os.chmod(path, usual)
"""


def test_what_this_user_may_not_read_is_a_problem_of_the_store(tmp_path: Path) -> None:
    """A store of which a file may not be read, or a folder not be listed or entered, is not called intact: that is
    named, by a fast check too, and a damaged original is named all the same.
    """
    store = shutil.copytree(DATA / "golden" / "store", tmp_path / "store")
    verify(Store(store), None)  # so that a fast check knows what was hashed
    damaged = max(store.glob("originals/*/*"))
    damaged.write_bytes(b"damaged")
    harms = [(max(store.glob(name)), 0o000) for name in UNREADABLE]
    harms += [(max(store.glob(name)), mode) for name in UNLISTED for mode in (0o000, 0o300, 0o400)]
    harms += [(store, mode) for mode in (0o000, 0o300, 0o400)]
    asked = json.dumps([str(store), [(str(path), mode) for path, mode in harms]])
    done = subprocess.run(
        [sys.executable, "-c", LOOKS, asked], capture_output=True, text=True, check=True, preexec_fn=bounded
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == 2 * len(harms)
    for path, mode, status, lines in found:
        assert status == 1
        assert any(path in line for line in lines), (path, oct(mode), lines)
        if not damaged.is_relative_to(path):
            assert any(str(damaged) in line for line in lines), (path, oct(mode), lines)


HELD = """
import contextlib, io, json, logging, os, sys
from flows.cli.main import main
cases = json.loads(sys.argv[1])
for path, mode, commands in cases:
    usual = os.stat(path).st_mode
    os.chmod(path, mode)
    for words in commands:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as said:
            logging.basicConfig(stream=said, force=True)
            try:
                main(words)
                status = 0
            except SystemExit as end:
                status = end.code
        print(json.dumps([path, mode, words, status, out.getvalue(), said.getvalue()]))
    os.chmod(path, usual)
"""


def held(
    store: Path, folders: list[Path], commands: list[list[str]]
) -> list[tuple[str, list[str], int, str]]:
    """Each folder, command, status and standard error, where the folder may not be listed, or not be entered."""
    modes = (0o000, 0o300, 0o400)
    words = [[*command, "--store", str(store)] for command in commands]
    cases = json.dumps([(str(folder), mode, words) for folder in folders for mode in modes])
    done = subprocess.run(
        [sys.executable, "-c", HELD, cases], capture_output=True, text=True, check=True, preexec_fn=bounded
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(folders) * len(modes) * len(commands)
    return [(path, words, status, said) for path, _, words, status, _, said in found]


def test_nothing_is_deleted_that_an_unlisted_folder_might_need(tmp_path: Path) -> None:
    """gc and forget, looking or doing, refuse and name a folder that may not be listed or entered, and no file goes."""
    store = shutil.copytree(DATA / "golden" / "store", tmp_path / "store")
    (store / "exports" / "golden").mkdir(parents=True)
    photo = max(path.name for path in store.glob("originals/*/*"))
    gc, forget = ["gc", "--keep", "1", "--grace-h", "0"], ["forget", "--hash", photo]
    folders = [max(store.glob(name)) for name in (*UNLISTED, "exports", "exports/golden")]

    def files() -> list[Path]:
        return sorted(path for path in store.rglob("*") if path.is_file() and path.name != ".lock")

    there = files()
    for path, words, status, said in held(
        store, folders, [gc, [*gc, "--delete"], forget, [*forget, "--yes"]]
    ):
        assert status == 1, (path, words)
        assert said.splitlines()[-1].startswith(f"likeness: {path} cannot be "), (words, said)
        assert said.splitlines()[-1].endswith("and nothing is deleted"), (words, said)
    assert files() == there


def test_a_trace_passes_over_an_unlisted_folder(tmp_path: Path) -> None:
    """What is asked for and lies elsewhere is told, with a warning that names the folder."""
    store = shutil.copytree(DATA / "golden" / "store", tmp_path / "store")
    (store / "exports" / "golden").mkdir(parents=True)
    folders = [max(store.glob(name)) for name in ("runs", "runs/*", "exports", "exports/golden")]
    found = held(store, folders, [["trace", "golden-web@b440bae92356680e"]])
    assert {status for _, _, status, _ in found} == {0}
    warned = {path for path, _, _, said in found if f"{path} cannot be read: Permission denied" in said}
    assert warned == {str(path) for path in folders}


def test_what_the_disk_refuses_is_one_sentence(tmp_path: Path) -> None:
    """A disk that is full, and one that is only to be read, are named with the file that was to be written."""
    full, fixed = tmp_path / "full", tmp_path / "fixed"
    script = (
        'set -e; for disk in "$1" "$2"; do mkdir "$disk"; mount -t tmpfs -o size=4k none "$disk"; done; '
        'head -c 4096 /dev/zero > "$1/all"; mount -o remount,ro "$2"; shift 2; exec "$@"'
    )
    unshared = (
        ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    )
    inside = [*unshared, "sh", "-c", script, "sh", str(full), str(fixed)]
    if subprocess.run([*inside, "rm", str(full / "all")], capture_output=True, check=False).returncode != 0:
        pytest.skip("nothing may be mounted here")
    for disk in (full, fixed):
        disk.rmdir()
    commands = json.dumps([["init", str(disk)] for disk in (full, fixed)])
    found = lines_of([*inside, sys.executable, "-c", COMMANDS, commands], is_bounded=False)
    for disk, why, (status, said) in zip(
        (full, fixed), ("No space left on device", "Read-only file system"), found, strict=True
    ):
        [line] = said
        assert status == 1
        assert line.startswith(f"likeness: {disk}/prefect."), line
        assert "cannot be " in line
        assert line.endswith(why), line


def test_links_that_lead_round_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a store, as what is verified, traced, aligned or looked for, in every command that takes a path."""
    (loop := tmp_path / "loop").symlink_to("loop")
    source = tmp_path / "photos"
    source.mkdir()
    for words in (
        ["verify", loop, "--store", tmp_path / "store"],
        ["verify", "faces", "--store", loop],
        ["trace", loop, "--store", tmp_path / "store"],
        ["build", "--source", f"folder:{loop}", "--name", "x", "--store", tmp_path / "store"],
        ["build", "--source", f"folder:{source}", "--name", "x", "--store", loop],
        ["align", loop, "--out", tmp_path / "out"],
        ["align", source, "--out", loop],
        ["init", loop],
    ):
        status, _, err = likeness(capsys, *words)
        said = [line for line in err.splitlines() if line.startswith("likeness: ")]
        assert (status, len(said)) == (1, 1), (words, err)


def test_nobody_waits_for_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the place of a photograph, what might never end is one sentence."""
    os.mkfifo(pipe := tmp_path / "pipe")
    store, out = ["--store", tmp_path / "store"], ["--out", tmp_path / "out.png"]
    for path in (pipe, Path("/dev/zero")):
        for words in (
            ["project", "bundled", path, *out],
            ["align", path, *out],
            ["forget", "--image", path, *store],
            ["curate", "--explain", path, *store],
            ["verify", path, *store],
            ["trace", path, *store],
            ["edit", "bundled", "--projected", path, "--direction", "pca.all.0", *out],
            ["import-network", path, "--name", "x", *store],
            ["build", "--source", "sample:1", "--name", "x", "--curate.reviews", path, *store],
        ):
            status, _, err = likeness(capsys, *words)
            assert (status, len(err.splitlines())) == (1, 1), (words, err)
