"""Processes that are kept running: each starts when what it needs is ready, and is started again when it ends.

Not here: which processes those are (`flows.operations.services`, `flows.operations.team`).
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from storage.errors import ServiceError

START_S = 180.0
"""How long all may take until they are ready."""
STOP_S = 10.0
POLL_S = 0.2
MAX_STARTS = 5
WITHIN_S = 600.0
"""What ended `MAX_STARTS` times in so many seconds is not started again."""
FULL_SHARE, FULL_BYTES = 0.01, 64 * 2**20
"""A disk with less room than either of these is full."""
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Service:
    """A process: how it is started and stopped, and how others know that it is ready."""

    command: list[str]
    needs: tuple[str, ...] = ()
    """Those that must be ready before this one is started, now and again."""
    is_ready: Callable[[], bool] = lambda: True
    environment: Mapping[str, str] = field(default_factory=dict)
    """What it is told beside what all are told."""
    user: str | None = None
    """Who it runs as, where that is not who started it."""
    stop_signal: signal.Signals = signal.SIGTERM
    takes_children: bool = False
    """Whether what it leaves behind ends with it: a child that still listens would be in the way of the next."""
    writes_in: Path | None = None
    """The folder that it cannot do without: while its disk is full, it is not started again."""
    refuses_for_ever: bool = False
    """Whether it takes nothing any more once that disk was full, so that it is ended, and started again, after that."""


@dataclass
class Supervised:
    """Services by their names, in the order in which they start."""

    services: Mapping[str, Service]
    environment: Mapping[str, str]
    say: Callable[[str], None]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _starts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _told: set[int] = field(default_factory=set)
    _had_no_room: set[str] = field(default_factory=set)

    def bring_up(self, names: Iterable[str]) -> None:
        """Start services and wait until all are ready; ServiceError names one that is not within `START_S`."""
        deadline = time.monotonic() + START_S
        chosen = list(names)
        while late := [name for name in chosen if not self.is_ready(name)]:
            if time.monotonic() > deadline:
                raise ServiceError(f"{late[0]} did not answer within {START_S:.0f} s of its start")
            self.tend(chosen)
            time.sleep(POLL_S)

    def tend(self, names: Iterable[str]) -> None:
        """Start what does not run, where all that it needs is ready; say what had ended."""
        for name in names:
            process = self.running.get(name)
            if process is not None:
                if (status := process.poll()) is None:
                    if self.services[name].refuses_for_ever and self._has_room_again(name):
                        self.say(f"{name} is started again: its disk was full, and has room now")
                        self.restart(name)
                    continue
                if process.pid not in self._told:
                    self._told.add(process.pid)
                    self._sweep(name)
                    self.say(f"{name} ended with status {status}, and is started again")
                if self._waits_for_room(name):
                    continue
            if all(self.is_ready(need) for need in self.services[name].needs):
                self._start(name)

    def restart(self, name: str) -> None:
        """End one, which `tend` starts again; that does not count as its own end."""
        self._end(name)
        self._starts[name].clear()
        self._told.add(self.running[name].pid)

    def is_ready(self, name: str) -> bool:
        """Whether a service runs and answers."""
        process = self.running.get(name)
        return process is not None and process.poll() is None and self.services[name].is_ready()

    def _has_room_again(self, name: str) -> bool:
        """Whether the disk of a service was full since it was last asked, and has room now."""
        room = _room(self.services[name].writes_in)
        if room < 1:
            self._had_no_room.add(name)
        elif room >= 2 and name in self._had_no_room:  # not at once: room to write a little is soon gone
            self._had_no_room.remove(name)
            return True
        return False

    def _waits_for_room(self, name: str) -> bool:
        """Whether a service that has ended would only end again, since its disk is full; that does not count."""
        folder = self.services[name].writes_in
        if _room(folder) >= 1:
            self._had_no_room.discard(name)
            return False
        if name not in self._had_no_room:
            self._had_no_room.add(name)
            self.say(f"{name} waits until there is room on the disk of {folder}")
        self._starts[name].clear()
        return True

    def _start(self, name: str) -> None:
        """Start one; ServiceError where it has been started too often of late."""
        now = time.monotonic()
        self._starts[name] = [then for then in self._starts[name] if now - then < WITHIN_S]
        if len(self._starts[name]) >= MAX_STARTS:
            status = self.running[name].returncode
            raise ServiceError(f"{name} ended with status {status}, as often before")
        self._starts[name].append(now)
        service = self.services[name]
        # In a group of its own: a terminal's Ctrl-C comes to this process alone, which stops all in order.
        self.running[name] = subprocess.Popen(
            service.command,
            stdin=subprocess.DEVNULL,
            env={**self.environment, **service.environment},
            start_new_session=True,
            preexec_fn=partial(_as_child, service.stop_signal),
            **as_user(service.user),  # type: ignore[call-overload]
        )

    def stop(self) -> None:
        """Ask all to end, the last started first, and insist where one does not."""
        for name in reversed(self.running):
            self._end(name)

    def _end(self, name: str) -> None:
        """Ask one to end, and insist where it does not."""
        process = self.running[name]
        if process.poll() is None:
            process.send_signal(self.services[name].stop_signal)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._sweep(name)

    def _sweep(self, name: str) -> None:
        """End what a service that has ended left behind in its group."""
        if self.services[name].takes_children:
            with suppress(ProcessLookupError):
                os.killpg(self.running[name].pid, signal.SIGKILL)


def _room(folder: Path | None) -> float:
    """How many times as much room a disk has as one that is full."""
    if folder is None or not folder.exists():
        return float("inf")
    usage = shutil.disk_usage(folder)
    return usage.free / min(FULL_SHARE * usage.total, FULL_BYTES)


def as_user(name: str | None) -> dict[str, object]:
    """What has `subprocess` run a command as another user, with the groups of nobody else."""
    return {} if name is None else {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}


def _as_child(death_signal: int) -> None:
    """Have Linux end this process when the one that started it is gone, killed for one; and mind interrupts.

    What a shell starts in its background ignores them, and so would Prefect's worker, which asks itself to end by one.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)


def answers(url: str) -> bool:
    """Whether a server says at `url` that all is well."""
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def listens(path: Path) -> bool:
    """Whether a process listens at a socket of this machine."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
        return True
