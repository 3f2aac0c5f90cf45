"""What a worker does before a flow run: it enters the folder that it was started in, as `prefect.yaml` says.

So a deployment works on machines whose folders lie elsewhere. Not here: fetching code, which workers have installed.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = "LIKENESS_FOLDER"
"""What a worker tells the processes of its runs: the folder that it was started in."""


def enter_folder() -> dict[str, str]:
    """Enter the worker's folder, where sources with relative paths are found; without one stay where the run begins."""
    folder = os.environ.get(FOLDER)
    if folder is not None:
        os.chdir(folder)
    return {"directory": str(Path.cwd())}
