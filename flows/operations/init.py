"""The files that make a folder one to deploy from: prefect.yaml, the deployments, and prefect.toml, Prefect's settings.

They are those of this project's own root. In a checkout `project/` links to them, and a wheel carries what it links to.
"""

from __future__ import annotations

from pathlib import Path

from storage.errors import ConfigError
from storage.local import write_whole

FILES = ("prefect.toml", "prefect.yaml")
PROJECT = Path(__file__).with_name("project")


def init_folder(folder: Path, *, dry_run: bool = False) -> list[Path]:
    """Lay the files into a folder, made where it is not there, and return those that were written.

    A file that is there already and says the same is left; ConfigError where one says something else, before any is
    written. A dry run writes none, and returns those that it would.
    """
    texts = {folder / name: (PROJECT / name).read_bytes() for name in FILES}
    missing = []
    try:
        for path, text in texts.items():
            if not path.exists():
                missing.append(path)
            elif path.read_bytes() != text:
                raise ConfigError(f"{path} is there and says something else: move it, or name another folder")
        if not dry_run:
            folder.mkdir(parents=True, exist_ok=True)
            for path in missing:
                write_whole(path, texts[path])
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be used: {error.strerror}") from error
    return missing


def check_folder(folder: Path) -> None:
    """ConfigError where a folder has no deployments."""
    if not (folder / "prefect.yaml").is_file():
        raise ConfigError(f"there is no prefect.yaml in {folder}: likeness init writes one")
