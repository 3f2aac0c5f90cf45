"""What several test files share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

import flows  # noqa: F401  before Prefect and MLflow, which it keeps from sending anything
import storage.bucket
from s3_server import new_bucket, s3_server

if TYPE_CHECKING:
    from flows.options import TrainOptions
    from storage.runs import Run

settings.register_profile(
    "likeness", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # none is timed
settings.load_profile("likeness")

# Of torch, here and in all that tests start: small networks are quickest on one thread, and on a busy machine several
# threads wait for each other, which took ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if not Path("/dev/nvidiactl").exists():  # Triton must know before it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

SLOWEST = (
    "test_flows_operations_team", "test_flows_operations_events", "test_flows_operations_services",
    "test_flows_prefect", "test_training_drawing_export", "test_flows_operations_training_process",
    "test_training_engine_ranks", "test_flows_forget", "test_training_kernels", "test_flows_build", "test_packaging",
    "test_flows_retraining", "test_flows_stages_crawl", "test_training_engine_gradients", "test_storage_repair",
    "test_flows_cli_main", "test_flows_cli_train",
)  # fmt: skip
"""The files that take longest, which begin: several processes then end at about the same time."""

SERVED = ("test_flows_prefect", "test_flows_operations_abandoned")
"""The files whose tests have a Prefect server: in one process, since it takes longer to start than most of them."""

FACES = Path(__file__).resolve().parent.parent.parent / "shared" / "faces"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slowest files first."""
    places = {name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each file to one process, and to one those that share a server."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "Prefect" if Path(file).stem in SERVED else file

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def faces() -> Path:
    """The folder of real portraits beside the checkout; tests that need it are skipped without it."""
    if not (FACES / "portraits.jsonl").is_file():
        pytest.skip(f"no real photographs at {FACES}")
    return FACES


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of an S3 server."""
    pytest.importorskip("moto", reason="moto is no S3 server here: install likeness[dev]")
    with s3_server() as address:
        yield address


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of a prefix in an empty bucket, for which the environment has credentials; nothing of it is here."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("LIKENESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(storage.bucket.RETRY, "max_retries", 2)
    return f"s3://{new_bucket(s3)}/some/prefix"


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a Dask scheduler whose one worker is a thread here: what it has loaded, all builds share."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
        memory_limit=0,
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def trained_here() -> Iterator[None]:
    """Trainings are done in this process, which costs a tenth of starting one of their own."""
    with trainings_here():
        yield


@pytest.fixture(scope="module")
def all_trained_here() -> Iterator[None]:
    """The same for all tests of a file."""
    with trainings_here():
        yield


@contextmanager
def trainings_here() -> Iterator[None]:
    """Have trainings done in this process, and leave its handlers of signals as they were."""
    from flows.operations import training_process
    from training.process import train_folder

    def trained(run: Run, options: TrainOptions, *_: object) -> tuple[int, int]:
        train_folder(run.folder, options.tracking_uri)
        return 0, 0

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training_process, "_trained", trained)
        yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A Prefect server with a database of its own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=400):
        yield
