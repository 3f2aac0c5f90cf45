"""flows.operations.supervised: processes start in their order, are started again, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from flows.operations import supervised
from flows.operations.supervised import Service, Supervised
from storage.errors import ServiceError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervised, "POLL_S", 0.01)


def shell(words: str, needs: tuple[str, ...] = (), **about: object) -> Service:
    """A service that is a line of the shell."""
    return Service(["/bin/sh", "-c", words], needs, **about)  # type: ignore[arg-type]


def until(condition: Callable[[], bool]) -> None:
    """Wait for what is to come within a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_needed_is_ready_first(tmp_path: Path) -> None:
    """A service is started only when the one that it needs answers; and so again, after that one was killed."""
    ready = tmp_path / "ready"
    said: list[str] = []
    kept = Supervised(
        {
            "below": shell(f"touch {ready}; sleep 100", is_ready=ready.exists),
            "above": shell(f"test -e {ready} || exit 3; sleep 100", needs=("below",)),
        },
        dict(os.environ),
        said.append,
    )
    try:
        kept.bring_up(["above", "below"])
        assert said == []
        first = {name: process.pid for name, process in kept.running.items()}
        ready.unlink()
        for process in kept.running.values():
            process.kill()
        until(lambda: all(process.poll() is not None for process in kept.running.values()))
        kept.bring_up(["above", "below"])
        assert said == [f"{name} ended with status -9, and is started again" for name in ("above", "below")]
        assert all(kept.running[name].pid != pid for name, pid in first.items())
    finally:
        kept.stop()
    assert all(process.poll() is not None for process in kept.running.values())


def test_what_ends_again_and_again_is_given_up() -> None:
    """A service that ends at once is started five times, and then is one sentence with its status."""
    said: list[str] = []
    kept = Supervised({"broken": shell("exit 7")}, dict(os.environ), said.append)
    for _ in range(supervised.MAX_STARTS):
        kept.tend(["broken"])
        until(lambda: kept.running["broken"].poll() is not None)
    with pytest.raises(ServiceError, match="broken ended with status 7, as often before"):
        kept.tend(["broken"])
    assert len(said) == supervised.MAX_STARTS


def test_what_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that runs and is never ready is named when its time is over."""
    monkeypatch.setattr(supervised, "START_S", 0.2)
    kept = Supervised({"mute": shell("sleep 100", is_ready=lambda: False)}, dict(os.environ), print)
    try:
        with pytest.raises(ServiceError, match="mute did not answer within 0 s"):
            kept.bring_up(["mute"])
    finally:
        kept.stop()


def test_children_end_with_the_one_that_had_them(tmp_path: Path) -> None:
    """What a killed service left behind ends, where it would be in the way of the next."""
    kept = Supervised(
        {"server": shell(f"sleep 100 & echo $! > {tmp_path}/child; wait", takes_children=True)},
        dict(os.environ),
        lambda line: None,
    )
    try:
        kept.bring_up(["server"])
        until(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text() != "")
        child = psutil.Process(int((tmp_path / "child").read_text()))
        kept.running["server"].kill()
        until(lambda: kept.running["server"].poll() is not None)
        assert child.is_running()
        kept.tend(["server"])
        until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    finally:
        kept.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells a child of its parent's end")
def test_nothing_outlives_whoever_started_it(tmp_path: Path) -> None:
    """When what started the services is killed, each gets the signal by which it is to be stopped."""
    words = (
        f"trap 'echo stopped > {tmp_path}/said; exit' INT; touch {tmp_path}/up; while :; do sleep 0.05; done"
    )
    program = (
        "import os, signal, sys, time\n"
        "from flows.operations.supervised import Service, Supervised\n"
        "service = Service(['/bin/sh', '-c', sys.argv[1]], stop_signal=signal.SIGINT)\n"
        "Supervised({'one': service}, dict(os.environ), print).bring_up(['one'])\n"
        "time.sleep(100)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program, words], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    until((tmp_path / "up").exists)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    until(lambda: (tmp_path / "said").exists())


def test_a_full_disk_gives_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends while its disk is full is started again when there is room, however often it has ended before."""
    said: list[str] = []
    kept = Supervised({"base": shell("exit 7", writes_in=tmp_path)}, dict(os.environ), said.append)
    monkeypatch.setattr(supervised, "FULL_BYTES", 2**60)
    monkeypatch.setattr(supervised, "FULL_SHARE", 1.0)
    kept.tend(["base"])
    first = kept.running["base"]
    first.wait()
    for _ in range(supervised.MAX_STARTS + 1):
        kept.tend(["base"])
    assert kept.running["base"] is first
    assert said[1:] == [f"base waits until there is room on the disk of {tmp_path}"]
    monkeypatch.setattr(supervised, "FULL_BYTES", 1)
    kept.tend(["base"])
    assert kept.running["base"] is not first
    kept.stop()


def test_what_would_refuse_for_ever_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its disk was full and has room, and not before, such a service is ended and started again."""
    said: list[str] = []
    refusing = shell("sleep 100", writes_in=tmp_path, refuses_for_ever=True)
    services = {"refusing": refusing, "patient": shell("sleep 100", writes_in=tmp_path)}
    kept = Supervised(services, dict(os.environ), said.append)
    try:
        kept.tend(services)
        first = dict(kept.running)
        monkeypatch.setattr(supervised, "FULL_BYTES", 2**60)
        monkeypatch.setattr(supervised, "FULL_SHARE", 1.0)
        kept.tend(services)
        assert kept.running == first
        monkeypatch.setattr(supervised, "FULL_BYTES", 1)
        for _ in range(3):
            kept.tend(services)
        assert kept.running["refusing"] is not first["refusing"]
        assert kept.running["patient"] is first["patient"]
        assert said == ["refusing is started again: its disk was full, and has room now"]
    finally:
        kept.stop()
