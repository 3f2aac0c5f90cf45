"""Files of published weights: their names, sha256, and where they are looked for; nothing is downloaded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from storage.digest import file_digest
from storage.errors import ConfigError, IntegrityError
from training.metric_names import STAND_IN

_RELEASE = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0"


@dataclass(frozen=True)
class WeightsFile:
    """A published file of weights."""

    name: str
    sha256: str
    url: str


INCEPTION_FILE = WeightsFile(
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    f"{_RELEASE}/weights-inception-2015-12-05-6726825d.pth",
)
LPIPS_FILE = WeightsFile(
    "weights-vgg16-lpips.pth",
    "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    f"{_RELEASE}/weights-vgg16-lpips.pth",
)
VGG16_FILE = WeightsFile(
    "vgg16-397923af.pth",
    "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "https://download.pytorch.org/models/vgg16-397923af.pth",
)


@dataclass(frozen=True)
class WeightsPlace:
    """Where weights are looked for, and which sha256 they must have where that is not the published one."""

    folder: Path | None = None
    """None: torch hub's cache."""
    sha256: Mapping[str, str] | None = None
    """By file name."""
    attributes: Path | None = None
    """Folder of ONNX classifiers."""

    @property
    def files(self) -> Path:
        """The folder of the published files."""
        return self.folder or Path(torch.hub.get_dir()) / "checkpoints"

    def path(self, file: WeightsFile, wanted_by: str) -> Path:
        """The file, its sha256 checked; ConfigError where it is not there, IntegrityError where it is another."""
        path = self.files / file.name
        if not path.is_file():
            raise ConfigError(
                f"{wanted_by} needs {file.name}, which is not in {self.files}: put it there (from {file.url}) or name "
                f"its folder as weights; without it there are the stand-ins {_stand_in(wanted_by)}"
            )
        expected = (self.sha256 or {}).get(file.name, file.sha256)
        if (found := file_digest(path)) != expected:
            raise IntegrityError(f"{path} has sha256 {found}, not {expected}: it is damaged or another file")
        return path


def _stand_in(extractor: str) -> str:
    names = {"inception": "fd_{0} and kid_{0}", "vgg16": "precision_{0} and recall_{0}"}
    return names.get(extractor, "ppl_{0}_*").format(STAND_IN)


def check_is_plain(path: Path) -> None:
    """Raise IntegrityError unless a file holds tensors and nothing that would run."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise IntegrityError(f"{path} is no file of tensors: {str(error).splitlines()[0]}") from error


@contextmanager
def hub_of(paths: list[Path]) -> Iterator[None]:
    """A torch hub cache of these files alone, for a library that reads weights from nowhere else."""
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Path(folder) / "checkpoints"
        checkpoints.mkdir()
        for path in paths:
            (checkpoints / path.name).symlink_to(path.resolve())
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)
