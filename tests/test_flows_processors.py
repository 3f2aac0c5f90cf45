"""One version on every kind of processor: builds where libraries may use all instructions, and where they may use few.

Environment variables keep OpenCV, NumPy, PyTorch, OpenBLAS, libjpeg-turbo and the C library from what newer processors
have. A probe says whether they do so here: where a warp by OpenCV alone has the same bits with and without, nothing is
shown, and the test is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from preprocessing.sources.sample import scene_bytes

ROOT = Path(__file__).resolve().parent.parent
OLD = {
    "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX512-COMMON,AVX512F,AVX2,FMA3,AVX,SSE4.2,SSE4.1",
    "OPENCV_IPP": "disabled",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3,X86_V4,AVX512_ICL",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
    "JSIMD_FORCENONE": "1",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-FMA4,-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ,-AVX512CD",
}
"""What makes this processor one of 2008, as far as libraries can be told."""

PROBE = """
import hashlib, cv2, numpy as np
picture = np.random.default_rng(0).integers(0, 255, (200, 200, 4)).astype(np.uint16)
turn = np.array([[0.91, 0.07, 20.3], [-0.07, 0.91, 15.7]])
warped = cv2.warpAffine(picture << 8, turn, (128, 128), flags=cv2.INTER_LINEAR)
blurred = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 1.6)
print(hashlib.sha256(warped.tobytes() + blurred.tobytes()).hexdigest())
"""

FACES = """
import hashlib, json, sys
from pathlib import Path
from preprocessing.faces import FacesConfig, faces_in_photo
from preprocessing.records import Face, face_row
found = {}
for name, settings in json.loads(sys.argv[2]).items():
    config = FacesConfig.model_validate(settings)
    for path in sorted(Path(sys.argv[1]).iterdir()):
        data = path.read_bytes()
        for face in faces_in_photo(path.name, hashlib.sha256(data).hexdigest(), data, config):
            row = face_row(face) if isinstance(face, Face) else {"reason": face.reason, "detail": face.detail}
            found[f"{name} {path.name} {face.face_index}"] = row
print(json.dumps(found))
"""
SETTINGS: dict[str, Any] = {
    "1024": {"align": {"output_px": 1024}},
    "turned": {"align": {"output_px": 200}, "detect": {"rotations": [30], "threshold": 0.5}},
    "yunet": {"align": {"output_px": 64}, "detect": {"model": "yunet"}},
    "exact": {"align": {"output_px": 64, "mode": "exact"}},
}
COLOURS = """
import hashlib, numpy as np
from preprocessing.photo.png import Colours
pixels = np.random.default_rng(0).integers(0, 256, (700, 900, 3)).astype(np.uint8)
for power in (None, 1.8):
    for red in (0.64, 0.68):
        places = (0.3127, 0.3290, red, 0.32, 0.265, 0.69, 0.15, 0.06)
        print(hashlib.sha256(Colours(power, places).to_srgb(pixels).tobytes()).hexdigest())
"""


def run(code: str, *arguments: str, old: bool) -> str:
    """What a Python process of its own prints, its libraries kept from newer instructions or not."""
    environment = {name: value for name, value in os.environ.items() if name not in OLD}
    environment |= {"PYTHONPATH": str(ROOT), **(OLD if old else {})}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@cache
def _has_two_kinds() -> bool:
    return run(PROBE, old=False) != run(PROBE, old=True)


@pytest.fixture
def two_kinds() -> None:
    """Skip where the environment makes no other processor of this one."""
    if not _has_two_kinds():
        pytest.skip(
            "OpenCV computes alike with and without the variables: this processor has no newer instructions"
        )


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve files with one face, two and none."""
    folder = tmp_path_factory.mktemp("scenes")
    for number in range(12):
        (folder / f"{number:02}.img").write_bytes(scene_bytes(number))
    return folder


@pytest.mark.usefixtures("two_kinds")
def test_a_version_is_the_same_on_an_older_processor(scenes: Path, tmp_path: Path) -> None:
    """Twelve photographs give one version, whatever instructions the libraries may use."""
    command = "import sys; from flows.cli.main import main; main(sys.argv[1:])"
    built = []
    for old in (False, True):
        store = tmp_path / f"store{old}"
        arguments = [
            "build",
            "--source",
            f"folder:{scenes}",
            "--name",
            "faces",
            "--resolution",
            "128",
            "--store",
        ]
        built.append(json.loads(run(command, *arguments, str(store), "--workers", "1", "--json", old=old)))
    assert built[0]["images"] >= 4
    assert built[0]["version"] == built[1]["version"]


@pytest.mark.usefixtures("two_kinds")
def test_faces_are_the_same_on_an_older_processor(scenes: Path) -> None:
    """At other sizes too, by YuNet, in turned photographs and in mode exact: every number, and every crop's bytes."""
    new, old = (json.loads(run(FACES, str(scenes), json.dumps(SETTINGS), old=old)) for old in (False, True))
    assert len(new) >= 40
    assert new.keys() == old.keys()
    other = {
        name: (column, row[column], old[name][column])
        for name, row in new.items()
        for column in row
        if row[column] != old[name][column]
    }
    assert not other


@pytest.mark.usefixtures("two_kinds")
def test_colours_are_the_same_on_an_older_processor() -> None:
    """What a PNG says of its colours is applied alike."""
    assert run(COLOURS, old=False) == run(COLOURS, old=True)
