"""What nobody else is to see: passwords and keys, planted wherever a user keeps them, and looked for afterwards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from api_web import SOURCES, replayed
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_SERVER_DATABASE_CONNECTION_URL
from raw_web import Request, reply, serving

from commands import likeness
from flows.build_and_train import build_and_train
from flows.build_dataset import build_dataset
from flows.options import BuildAndTrainOptions, BuildOptions
from preprocessing.config import BuildConfig
from preprocessing.sources.sample import scene_bytes
from training.config import TrainConfig

PLANTED = "pl4nted-s3cret"
AUTHOR = "An author whom records name"
ENVIRONMENT = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "EUROPEANA_API_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "OPENVERSE_CLIENT_SECRET",
    "PREFECT_API_KEY",
    "SMITHSONIAN_API_KEY",
)
FETCH = {"user_agent": "test/1", "allow_networks": ["127.0.0.0/8"], "retries": 0}
TRAINING = TrainConfig.model_validate(
    {"preset": "smoke", "resolution": 8, "total_kimg": 0.032, "tick_kimg": 0.016, "device": "cpu"}
)


@pytest.mark.slow
def test_what_is_planted_is_found_nowhere(
    prefect_server: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A list's password and the environment's keys stand in no log, no file of the store, and nothing of Prefect."""
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, PLANTED)
    monkeypatch.setenv("FLICKR_API_KEY", f"{PLANTED}-flickr")
    caplog.set_level(logging.DEBUG)
    store = tmp_path / "store"
    whole, refused = piped(tmp_path, store), crawled_by_key(store)
    assert whole.is_completed(), whole.message
    assert refused.is_failed(), "no photograph of the replay has a face"
    said = capfd.readouterr()
    database = Path(str(PREFECT_SERVER_DATABASE_CONNECTION_URL.value()).partition("///")[2]).parent
    texts = {"logs": caplog.text, "output": said.out, "errors": said.err}
    everywhere = [*texts.items(), *contents(store), *contents(database)]
    found = [where for where, text in everywhere if PLANTED in text]
    assert not found
    assert [where for where, text in everywhere if AUTHOR in text], (
        "what is looked for is found where it stands"
    )


def piped(folder: Path, store: Path) -> State[Any]:
    """Crawl a list whose addresses have a password, build, and train."""
    photographs = {f"/{number}.png": scene_bytes(number) for number in range(3)}

    def answer(request: Request) -> bytes:
        assert PLANTED not in request.target
        return reply(photographs.get(request.target, b""), 200 if request.target in photographs else 404)

    with serving(answer) as web:
        rows = [web.url(f"/{number}.png").replace("//", f"//ann:{PLANTED}@") for number in range(3)]
        listed = folder / "list.csv"
        listed.write_text("url,author,license\n" + "".join(f"{url},{AUTHOR},CC0-1.0\n" for url in rows))
        config = BuildConfig.model_validate(
            {"source": f"urls:{listed}", "name": "web", "resolution": 32, "fetch": FETCH}
        )
        options = BuildAndTrainOptions(store=store, workers=1)
        return build_and_train(config, TRAINING, options, return_state=True)


def crawled_by_key(store: Path) -> State[Any]:
    """Crawl a service by its key; what it gives are no photographs."""
    with replayed(1.0, is_moody=False) as replay:
        spec, settings = SOURCES["flickr"]
        config = BuildConfig.model_validate(
            {"source": spec, "name": "key", "limit": 4, "fetch": FETCH, "sources": settings(replay)}
        )
        return build_dataset(config, BuildOptions(store=store, workers=1), return_state=True)


def contents(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file below a folder, as a text of its bytes, and so of the bytes of packed ones once unpacked."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.as_posix(), path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                yield f"{path} unpacked", str(pq.read_table(path).to_pylist())


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("train", "web", "--tracking-uri"), "MLFLOW_TRACKING_PASSWORD"),
        (("build", "--source"), "is given with a user"),
        (("build", "--source", "sample:3", "--storee"), "--storee"),
    ],
)
def test_a_password_on_the_command_line_is_refused_and_not_repeated(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...], what: str
) -> None:
    """An address with a password that a record would hold is one sentence that does not say the password."""
    kind = "urls:" if arguments[-1] == "--source" else ""
    address = f"{kind}http://ann:{PLANTED}@127.0.0.1:9/list.csv"
    status, out, err = likeness(capsys, *arguments, address, "--store", tmp_path / "store")
    assert status != 0
    assert what in err
    assert PLANTED not in out + err
    assert not [where for where, text in contents(tmp_path) if PLANTED in text]
