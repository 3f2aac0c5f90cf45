"""flows.cli.main: the configs as options, one JSON object for scripts, one sentence for errors."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import likeness
from flows.cli.main import COMMANDS, GROUPS, app
from flows.operations.init import init_folder
from flows.operations.services import Ports, run_services
from preprocessing.config import BuildConfig
from storage.config import Config
from storage.errors import ServiceError
from storage.store import Store
from training.config import TrainConfig
from training.drawing.settings import (
    ExportConfig,
    GenerateConfig,
    MixingConfig,
    NoiseConfig,
    ProjectConfig,
    TruncationConfig,
    VideoConfig,
)
from training.metrics.settings import AuditConfig, EvaluateConfig


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--source", "folder:/no/such"], "folder /no/such does not exist"),
        (["build", "--source", "urls:/no/list.csv"], "/no/list.csv"),
        (["build", "--source", "tumblr:x"], "is none of folder:PATH, urls:LIST, congress:"),
        (["build", "--resolution", "100"], "--resolution: 100 is not one of 32, 64, 128, 256, 512, 1024"),
        (["build", "--detect.upsample", "9"], "--detect.upsample: Input should be less than or equal to 3"),
        (["build", "--name", "../x"], "--name: "),
        (
            ["build", "--source", "sample:", "--store", "ftp://bucket"],
            "is neither a folder nor one of file, s3,",
        ),
        (["build", "--colour", "red"], "--colour"),
        (["train"], "a dataset is needed"),
        (["train", "nobody"], "no dataset 'nobody'"),
        (["train", "nobody", "--preset", "huge"], "'smoke', 'face128', 'paper256', 'paper1024', 'table1_a'"),
        (["train", "--resume", "nobody"], "no training run 'nobody'"),
        (["train", "--resume", "nobody", "--prepare"], "--prepare makes a new run"),
        (["train", "nobody", "--batch-size.126", "16"], "'126' is no resolution: choose of 4, 8, 16"),
        (["generate", "nobody", "--out", "x.png"], "no training run 'nobody'"),
        (["verify", "nobody"], "no dataset 'nobody'"),
        (["trace", "nobody"], "names no file, photograph, image, dataset, build, run"),
        (["curate"], "a dataset is needed"),
        (["curate", "nobody"], "no dataset 'nobody'"),
        (["curate", "nobody", "--resolution", "64"], "what of --fetch judges signals, not --resolution"),
        (["curate", "--explain", "nobody.jpg"], "'nobody.jpg' is no file, and no image or photograph"),
        (["build", "--curate.min-quad-px", "5"], "curate.min_quad_px=5 is below detect.min_quad_px=128"),
        (["build", "--curate.min-filter-score", "0"], "build with scores.filter_model set"),
        (["build", "--curate.preset", "strict"], "'lenient', 'ffhq' or 'none'"),
        (["dance"], "Available commands: build, "),
    ],
)
def test_errors_are_one_sentence(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    """A wrong request says what is wrong and what is valid in one line, exits 1, and prints no traceback."""
    monkeypatch.chdir(tmp_path)
    status, out, err = likeness(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.strip()]
    assert (status, out, len(lines)) == (1, "", 1), err
    assert message in lines[0]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["generate", "RUN"], "likeness: generate needs --out. "),
        (["figure", "mixing", "RUN"], "likeness: figure mixing needs --out. The PNG to write. "),
        (["trace"], "likeness: trace needs REFERENCE. A drawn file, an export"),
        (["generate", "RUN", "--ou", "a.png"], "Did you mean"),
    ],
)
def test_what_is_left_out_is_named_with_its_meaning(
    capsys: pytest.CaptureFixture[str], command: list[str], says: str
) -> None:
    """A command without something that it needs says what that is, and where all settings are listed."""
    status, _, err = likeness(capsys, *command)
    assert status == 1
    assert says in err
    assert "Did you mean" in says or f"likeness {command[0]}" in err.rpartition(". ")[2]


def test_an_error_is_one_line_and_names_a_wrong_value_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What ends before a bar is drawn leaves no empty line, and a value that the message names is not added to it."""
    (tmp_path / "empty").mkdir()
    source = f"folder:{tmp_path / 'empty'}"
    _, _, err = likeness(capsys, "build", "--source", source, "--store", str(tmp_path / "store"))
    assert err == f"likeness: source {source} lists no photograph\n"
    _, _, err = likeness(capsys, "build", "--source", "sample:", "--resolution", "100")
    assert err.count("100") == 1
    assert err.startswith("likeness: --resolution: 100 is not one of ")
    _, _, err = likeness(capsys, "build", "--source", "sample:", "--detect.upsample", "-1")
    assert "-1" in err


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """With --debug the traceback stands before the sentence."""
    _, _, err = likeness(capsys, "build", "--source", "folder:/no/such", "--debug")
    assert "Traceback" in err
    assert err.splitlines()[-1] == "likeness: folder /no/such does not exist"


def test_dry_run_prints_the_resolved_config(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A dry run prints what a build would record, every derived value filled in, and writes nothing."""
    monkeypatch.chdir(tmp_path)
    status, out, _ = likeness(
        capsys, "build", "--source", "sample:", "--resolution", "128", "--dry-run", "--json"
    )
    config = json.loads(out)["config"]
    assert status == 0
    assert (config["curate"]["min_quad_px"], config["detect"]["min_quad_px"]) == (64, 64)
    assert BuildConfig.model_validate(config).resolved() == config
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["build", "--source", "sample:"], {"config", "options"}),
        (["align", "photo.jpg", "--out", "crops"], {"photos", "out", "config"}),
        (["demo"], {"build", "training", "options"}),
        (["init", "new"], {"folder", "to_write"}),
        (["services"], {"prefect", "mlflow", "files", "store", "commands", "deployments"}),
        (["deploy"], {"pools", "deployments", "automations"}),
    ],
)
def test_a_dry_run_writes_and_starts_nothing(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    keys: set[str],
) -> None:
    """Every command that does work says what it would do, as one JSON object, and leaves the folder as it was."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"")
    init_folder(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, out, err = likeness(capsys, *arguments, "--dry-run")
    assert (status, err) == (0, "")
    assert json.loads(out).keys() == keys
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["align", "nobody.jpg", "--out", "crops"], "nobody.jpg: cannot be read: No such file or directory"),
        (["services"], "there is no prefect.yaml"),
        (["deploy"], "there is no prefect.yaml"),
        (["curate", "nobody"], "no dataset 'nobody'"),
        (["evaluate", "nobody", "--metrics", "fid"], "no training run 'nobody'"),
    ],
)
def test_a_dry_run_ends_in_the_error_of_the_run(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    """What can be checked without work is checked."""
    monkeypatch.chdir(tmp_path)
    status, out, err = likeness(capsys, *arguments, "--dry-run")
    assert (status, out) == (1, "")
    assert message in err


def test_commands_are_listed_in_the_pipelines_order(capsys: pytest.CaptureFixture[str]) -> None:
    """The bare command and --help list every command once, in order, by its docstring's first paragraph."""
    _, bare, _ = likeness(capsys)
    _, asked, _ = likeness(capsys, "--help")
    assert bare == asked
    listed = re.findall(r"^\W ([a-z][a-z-]*)", bare, re.MULTILINE)
    assert listed == list(COMMANDS)
    for name in COMMANDS.keys() - GROUPS:
        command = app[name].default_command
        assert inspect.getdoc(command) == app[name].help


def test_json_is_all_there_is_on_standard_output(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], cluster: str
) -> None:
    """Commands, and what they start, print one JSON object with the promised keys."""
    store = ["--store", str(tmp_path), "--json"]

    def run(*arguments: str) -> dict[str, Any]:
        status, out, err = likeness(capfd, *arguments)
        assert status == 0, err
        value: dict[str, Any] = json.loads(out)
        return value

    small = ["--resolution", "32", "--detect.min-quad-px", "128", "--scheduler", cluster]
    built = run("build", "--source", "sample:6", "--name", "s", *small, *store)
    assert built.keys() >= {"name", "version", "images", "rejected", "shards", "seconds"}
    small = ["--total-kimg", "0.064", "--resolution", "16", "--stable-kimg", "0.016", "--fade-kimg", "0.016"]
    trained = run("train", "s", "--preset", "smoke", *small, "--tracking-uri", "none", *store)
    assert trained.keys() >= {"run", "dataset", "kimg", "checkpoint", "seconds_per_kimg"}
    assert (trained["dataset"], trained["kimg"]) == (f"s@{built['version']}", 0.064)
    prepared = run("train", "s", *small, "--prepare", *store)
    assert sorted(path.name for path in Path(prepared["folder"]).iterdir()) == ["run.json"]
    again = run("train", "--resume", trained["run"], "--tracking-uri", "none", *store)
    assert (again["run"], again["checkpoint"]) == (trained["run"], trained["checkpoint"])
    grid = run("generate", trained["run"], "--seeds", "0-3", "--out", str(tmp_path / "grid.png"), *store)
    assert grid["seeds"] == [0, 1, 2, 3]
    chain = run("trace", str(tmp_path / "grid.png"), *store)
    assert [step["kind"] for step in chain["chain"]] == ["grid", "checkpoint", "training run", "dataset"]
    assert run("verify", "s", *store)["intact"] is True


def test_reading_imports_nothing_that_decodes_or_draws(tmp_path: Path) -> None:
    """What only reads a store starts without the libraries that decode, draw, learn or run elsewhere."""
    for golden in ("golden", "golden2"):
        data = Path(__file__).with_name("data") / golden
        shutil.copytree(data / "store", tmp_path / "store", dirs_exist_ok=True)
    commands = ["--version", "trace golden2", "trace anna.jpg", "verify golden2", "verify --all"]
    commands += ["diff golden@71 golden"]
    heavy = [
        "cv2",
        "dask",
        "distributed",
        "dlib",
        "faiss",
        "matplotlib",
        "mlflow",
        "pandas",
        "prefect",
        "scipy",
    ]
    heavy += ["torch"]
    code = (
        "import sys; from flows.cli.main import main\n"
        "for command in sys.argv[2:]:\n"
        "    try:\n        main(command.split())\n"
        "    except SystemExit as end:\n        assert not end.code\n"
        "    print('loaded by', command, *{name.partition('.')[0] for name in sys.modules} & {*sys.argv[1].split()})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, " ".join(heavy), *commands],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("loaded by ")]
    assert lines == [f"loaded by {command}" for command in commands]
    assert len(done.stdout.splitlines()) >= 2 * len(commands)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """Services refuse a port in use, naming it and the option, before they start anything."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"port {port} is taken: choose another with --port"):
            run_services(Ports(port), Store(tmp_path), print)


@pytest.mark.parametrize(
    ("command", "config"),
    [
        (("build",), BuildConfig),
        (("curate",), BuildConfig),
        (("train",), TrainConfig),
        (("generate",), GenerateConfig),
        (("figure", "truncation"), TruncationConfig),
        (("figure", "mixing"), MixingConfig),
        (("figure", "noise"), NoiseConfig),
        (("video",), VideoConfig),
        (("project",), ProjectConfig),
        (("export",), ExportConfig),
        (("evaluate",), EvaluateConfig),
        (("audit",), AuditConfig),
    ],
)
def test_options_are_those_of_the_config(command: tuple[str, ...], config: type[Config]) -> None:
    """Every field of a command's config, however deep, is an option of the command, by its help page on file."""
    page = Path(__file__).parent.parent / "docs" / "help" / f"{'-'.join(command)}.txt"
    options = set(re.findall(r"--[a-z0-9.-]+", page.read_text()))
    assert options >= {f"--{name.replace('_', '-')}" for name in fields(config)}


def fields(config: type[Config], above: str = "") -> Iterator[str]:
    """The names of all fields, those of configs within a config after their names."""
    for name, field in config.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Config):
            yield from fields(kind, f"{above}{name}.")
        else:
            yield f"{above}{name}"
