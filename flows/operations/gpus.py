"""The GPUs of this machine, each lent to one training at a time by a lock on a file of its own.

    with cards(2, waiting) as held:
        subprocess.Popen(command, env=held.environment, pass_fds=held.descriptors)

Whoever asks for several is given all of them at once or none, so that two that wait for each other's cannot be. A lock
ends with the last process that holds its file open: a training that goes on for a minute after what started it was
killed keeps its cards for that minute. Not here: which GPU a process of a training uses (`training.engine.ranks`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from storage.errors import ConfigError
from storage.wording import numbered

POLL_S = 1.0
STAND_INS = "LIKENESS_GPUS"
"""A variable of the environment that names the cards of this machine, in place of those that its driver lists."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Held:
    """Cards that are this process's until it and those that it hands `descriptors` to have ended."""

    names: tuple[str, ...] = ()
    descriptors: tuple[int, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """What a process is told so that it uses these cards and no others."""


def visible_cards(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The names of the cards that this process may use: those of the driver, or those of them that it is limited to."""
    if STAND_INS in environment:
        return _listed(environment[STAND_INS])
    found = _driver_cards()
    if VISIBLE not in environment:
        return found
    chosen = []
    for name in _listed(environment[VISIBLE]):
        if name.isdigit():
            if int(name) >= len(found):  # as CUDA reads it: from a wrong one on there is none
                break
            name = found[int(name)]
        chosen.append(next((card for card in found if card.startswith(name)), name))
    return chosen


def _driver_cards() -> list[str]:
    """The UUIDs of the GPUs, in the order in which the driver counts them."""
    command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split() if done.returncode == 0 else []


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


@contextmanager
def cards(
    num: int,
    on_wait: Callable[[str], None] = lambda _: None,
    *,
    names: Sequence[str] | None = None,
    folder: Path | None = None,
) -> Iterator[Held]:
    """Hold `num` of the cards, waiting until so many are free at once; none where this machine has none at all.

    Whoever waits longest is served first. `on_wait` is told once, in words, what is waited for. ConfigError where there
    are fewer than `num`.
    """
    there = visible_cards() if names is None else list(names)
    if not there:
        yield Held()
        return
    if num > len(there):
        raise ConfigError(f"processes is {num}, and this machine has {numbered(len(there), 'GPU')}")
    place = lock_folder() if folder is None else folder
    waiting = f"waiting for {num} of {numbered(len(there), 'GPU')}, which other trainings hold"
    with ExitStack() as held:
        with _opened(place / "turn.lock") as turn:
            has_waited = _wait_turn(turn, lambda: on_wait(waiting))
            while not (taken := _take(num, there, place, held)):
                if not has_waited:
                    on_wait(waiting)
                has_waited = True
                time.sleep(POLL_S)
        chosen = tuple(taken)
        descriptors = tuple(file.fileno() for file in taken.values())
        yield Held(chosen, descriptors, {VISIBLE: ",".join(chosen)})


def free_cards(names: Sequence[str], folder: Path | None = None) -> list[str]:
    """Those of the cards that nobody holds now."""
    place = lock_folder() if folder is None else folder
    with ExitStack() as stack:
        return [name for name in names if _locked(name, place, stack) is not None]


def lock_folder() -> Path:
    """Where the locks lie: on this machine, for all of its users."""
    folder = Path(tempfile.gettempdir()) / "likeness-gpus"
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        folder.chmod(0o1777)
    return folder


def _wait_turn(turn: BinaryIO, on_wait: Callable[[], None]) -> bool:
    """Lock the file that whoever waits for cards holds; whether that was to be waited for."""
    try:
        fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        on_wait()
        fcntl.flock(turn, fcntl.LOCK_EX)
        return True
    return False


def _take(num: int, names: Sequence[str], folder: Path, held: ExitStack) -> dict[str, BinaryIO]:
    """The files of `num` free cards, locked, or of none; they stay open until `held` ends."""
    with ExitStack() as attempt:
        taken: dict[str, BinaryIO] = {}
        for name in names:
            if len(taken) < num and (file := _locked(name, folder, attempt)) is not None:
                taken[name] = file
        if len(taken) < num:
            return {}
        held.enter_context(attempt.pop_all())
        return taken


def _locked(name: str, folder: Path, stack: ExitStack) -> BinaryIO | None:
    """The file of a card, locked and closed by `stack`; None where another holds it."""
    plain = re.sub(r"[^\w.-]", "_", name)
    if plain != name:
        plain += "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    file = _opened(folder / f"{plain}.lock")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return stack.enter_context(file)


def _opened(path: Path) -> BinaryIO:
    """A lock's file, which every user of the machine may lock."""
    file = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    return os.fdopen(file, "rb")
