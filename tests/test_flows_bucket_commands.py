"""A store in a bucket, from several machines: champions, the explorer, and what came from the web."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from raw_web import Request, reply, serving
from test_flows_bucket import Machine, cluster, environment, machine, photos, problems, silent
from test_flows_explorer import client_of, explorer, pixels_of

import storage.mirror
import tiny_run
from commands import likeness
from flows.build import build, run_with
from flows.options import BuildOptions
from flows.promote import settle
from golden_store import CPU
from preprocessing.config import BuildConfig
from storage.datasets.dataset import open_dataset
from storage.digest import json_digest
from storage.promotions import Candidate, Decision, alias_of, new_decision, put_decision
from storage.runs import Run, find_run
from storage.store import Store
from training.drawing.trained import open_trained
from training.drawing.views import Stage, View

__all__ = ["cluster", "environment", "machine", "photos"]
pytestmark = pytest.mark.s3


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are fetched when they are read, as large ones are."""
    monkeypatch.setattr(storage.mirror, "RECORD_BYTES", 4000)


def two_runs(store: Store) -> list[Run]:
    """Two trained ones, of one dataset."""
    dataset = tiny_run.tiny_dataset(store, tiny_run.noise_images(12))
    return [tiny_run.trained(store, dataset, seed=seed) for seed in (0, 1)]


def decided(store: Store, run: Run) -> Decision:
    """That a run may be the champion, on record."""
    state = json.loads((run.newest_checkpoint() / "state.json").read_bytes())
    candidate = Candidate(
        run_id=run.id, checkpoint=run.newest_checkpoint().name,
        generator_sha256=state["sha256"]["generator_ema.safetensors"], dataset=run.record.dataset.reference,
    )  # fmt: skip
    champion = alias_of(store, "faces").champion
    made = new_decision(
        "faces", candidate=candidate, outcome="promote", criteria=[], config={}, config_sha256=json_digest({}),
        seconds=1.0, facts={}, **({"champion": champion} if champion else {}),
    )  # fmt: skip
    put_decision(store, made)
    return made


def test_champions_of_a_bucket(
    machine: Machine, lazy: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A champion that one machine names is drawn from on another, which goes back to the former one."""
    one = machine("one")
    first, second = two_runs(one)
    settle(one, decided(one, first))
    other = machine("other")
    settle(other, decided(other, find_run(other, second.id)))
    third = machine("third")
    assert alias_of(third, "faces").champion.run_id == second.id
    status, out, err = likeness(capsys, "rollback", "faces", "--store", third.place)
    assert (status, first.id in out) == (0, True), err
    fourth = machine("fourth")
    assert alias_of(fourth, "faces").champion.run_id == first.id
    words = (
        "generate",
        "faces:champion",
        "--out",
        tmp_path / "grid.png",
        "--device",
        "cpu",
        "--seeds",
        "0-3",
    )
    status, _, err = likeness(capsys, *words, "--store", fourth.place)
    assert status == 0, err
    left = [problem for problem in problems(machine("fifth")) if "/originals/" not in problem]
    assert left == []  # its photographs are of nobody, and were never there


def test_the_explorer_draws_from_a_bucket(machine: Machine, lazy: None) -> None:
    """The explorer on a machine that has nothing of a run draws what its checkpoints draw where they were trained."""
    one = machine("one")
    run = two_runs(one)[0]
    view = View(seed=3, psi=0.5)
    expected = {path.name: Stage(open_trained(path, CPU)).picture(view) for path in run.checkpoints()}
    there = find_run(machine("other"), run.id)

    async def drawn() -> dict[str, bytes]:
        async with client_of(explorer(there)) as client:
            return {
                name: await (await client.get(f"/picture?{view.query()}&checkpoint={name}")).read()
                for name in expected
            }

    for name, data in asyncio.run(drawn()).items():
        assert np.abs(pixels_of(data).astype(int) - expected[name]).max() <= 1


def test_what_came_from_the_web_is_in_the_bucket(
    machine: Machine, photos: Path, cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list of URLs is fetched once for all machines; another one asks again, exports, and writes the site."""
    files = {f"/{path.name}": path.read_bytes() for path in sorted(photos.glob("*.jpg"))[:4]}

    def answer(request: Request) -> bytes:
        found = files.get(request.target)
        return reply(status=404) if found is None else reply(found)

    with serving(answer) as web:
        listed = tmp_path / "urls.jsonl"
        rows = [{"url": web.url(target), "license": "CC0-1.0", "author": f"A {target}"} for target in files]
        listed.write_text("".join(json.dumps(row) + "\n" for row in rows))
        fetch = {"user_agent": "test/1", "allow_networks": ["127.0.0.0/8"], "retries": 0}
        given = {"source": f"urls:{listed}", "name": "web", "resolution": 32, "fetch": fetch}
        config = BuildConfig.model_validate(given)

        def built(store: Store) -> str:
            options = BuildOptions(store=store.place, scheduler=cluster)
            return build(config, options, run_with(silent)).dataset.version

        version = built(machine("one"))
        asked = web.counts()
        other = machine("other")
        assert built(other) == version
        assert web.counts() == asked, "it was fetched again"
        gone = next(iter(files))
        del files[gone]
        third = machine("third")
        status, out, err = likeness(capsys, "recheck", "web", "--store", third.place, "--json")
        assert (status, len(json.loads(out)["withdrawn"])) == (0, 1), err
    assert list(machine("fourth").keys("datasets/web/rechecks")) != []
    for words in (
        ("export-dataset", "web", "--format", "ffhq", "--out", tmp_path / "ffhq"),
        ("site", "web", "--out", tmp_path / "site", "--contact", "somebody@photos.example"),
        ("ledger", "web"),
    ):
        status, _, err = likeness(capsys, *words, "--store", machine("fourth").place)
        assert status == 0, err
    images = open_dataset(machine("fifth"), "web").num_images
    assert len(list((tmp_path / "ffhq").rglob("*.png"))) == images > 0
    assert (tmp_path / "site" / "index.html").is_file()
    assert problems(machine("fifth")) == []
