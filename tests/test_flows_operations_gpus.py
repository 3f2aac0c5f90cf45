"""flows.operations.gpus: cards are lent whole, to one at a time, all that are asked for or none."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import flows.operations.gpus
from flows.operations.gpus import cards, free_cards, visible_cards
from storage.errors import ConfigError

FOUR = ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits looks often."""
    monkeypatch.setattr(flows.operations.gpus, "POLL_S", 0.01)


def test_no_card_is_ever_shared(tmp_path: Path) -> None:
    """Twelve trainings of one to four cards, at once on four: each has as many as it asked for, and no other has them.

    All of them end, so that no two wait for each other's.
    """
    in_use: Counter[str] = Counter()
    most: Counter[str] = Counter()
    guard = threading.Lock()

    def train(num: int) -> int:
        with cards(num, names=FOUR, folder=tmp_path) as held:
            with guard:
                in_use.update(held.names)
                for name in held.names:
                    most[name] = max(most[name], in_use[name])
            assert held.environment == {"CUDA_VISIBLE_DEVICES": ",".join(held.names)}
            time.sleep(0.02)
            with guard:
                in_use.subtract(held.names)
            return len(set(held.names))

    asked = [1 + index % 4 for index in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(train, asked)) == asked
    assert most == dict.fromkeys(FOUR, 1)


def test_who_waits_for_many_is_not_overtaken(tmp_path: Path) -> None:
    """A training of all cards gets them although others of one card keep coming: those wait behind it."""
    order: list[int] = []
    waits = {4: threading.Event(), 1: threading.Event()}
    first = cards(1, names=FOUR, folder=tmp_path)
    first.__enter__()

    def train(num: int) -> None:
        with cards(num, lambda _: waits[num].set(), names=FOUR, folder=tmp_path):
            order.append(num)

    trainings = [threading.Thread(target=train, args=(num,)) for num in waits]
    for training, has_begun in zip(trainings, waits.values(), strict=True):
        training.start()
        assert has_begun.wait(120)
    assert order == []
    first.__exit__(None, None, None)
    for training in trainings:
        training.join(120)
    assert order == [4, 1]


def test_waiting_is_told_once(tmp_path: Path) -> None:
    """Whoever finds all cards in use hears so, one time, and then has one."""
    said: list[str] = []
    with cards(2, names=FOUR[:2], folder=tmp_path):
        assert free_cards(FOUR, tmp_path) == FOUR[2:]
        waiting = threading.Thread(target=lambda: _held(said, tmp_path))
        waiting.start()
        while not said:
            time.sleep(0.01)
    waiting.join(120)
    assert said == ["waiting for 1 of 2 GPUs, which other trainings hold", "has GPU-a"]


def _held(said: list[str], folder: Path) -> None:
    with cards(1, said.append, names=FOUR[:2], folder=folder) as held:
        said.append(f"has {held.names[0]}")


def test_a_card_is_its_process_s_until_that_has_ended(tmp_path: Path) -> None:
    """A process that was handed the cards keeps them when the one that started it is killed."""
    code = (
        "import subprocess, sys; from pathlib import Path; from flows.operations.gpus import cards\n"
        "with cards(1, names=['GPU-a'], folder=Path(sys.argv[1])) as held:\n"
        "    child = subprocess.Popen(['sleep', '60'], pass_fds=held.descriptors, stdout=subprocess.DEVNULL)\n"
        "    print(child.pid, flush=True)\n"
        "    child.wait()\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    child = int(starter.stdout.readline())
    starter.kill()
    starter.communicate()
    assert free_cards(["GPU-a"], tmp_path) == []
    os.kill(child, 9)
    deadline = time.monotonic() + 120
    while not free_cards(["GPU-a"], tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert free_cards(["GPU-a"], tmp_path) == ["GPU-a"]


def test_more_cards_than_there_are_is_an_error(tmp_path: Path) -> None:
    """Nobody waits for what cannot come; and where there is no card at all, none is needed."""
    with pytest.raises(ConfigError, match="processes is 3, and this machine has 2 GPUs"):
        cards(3, names=FOUR[:2], folder=tmp_path).__enter__()
    with cards(3, names=[], folder=tmp_path) as held:
        assert (held.names, held.environment) == ((), {})


def test_cards_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers and beginnings in CUDA_VISIBLE_DEVICES mean cards of the driver, by its names."""
    monkeypatch.setattr(flows.operations.gpus, "_driver_cards", lambda: list(FOUR))
    assert visible_cards({}) == FOUR
    assert visible_cards({"CUDA_VISIBLE_DEVICES": "2, 0"}) == ["GPU-c", "GPU-a"]
    assert visible_cards({"CUDA_VISIBLE_DEVICES": "GPU-d"}) == ["GPU-d"]
    assert visible_cards({"CUDA_VISIBLE_DEVICES": "1,9,2"}) == ["GPU-b"]
    assert visible_cards({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert visible_cards({"LIKENESS_GPUS": "left,right"}) == ["left", "right"]
