"""`likeness align`: photographs as files in, crops as files out, and a reason for everything else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from flows.cli.main import main
from preprocessing.sources.sample import scene_bytes


def run(*arguments: str) -> int:
    """The exit code of `likeness align`."""
    with pytest.raises(SystemExit) as info:
        main(["align", *arguments])
    return int(info.value.code or 0)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photograph with one face."""
    path = tmp_path / "someone.jpg"
    path.write_bytes(scene_bytes(1))
    return path


def test_a_photograph_gives_its_face(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The crop has the output's size and format, and its name tells the photograph and the face."""
    out = tmp_path / "new" / "crops"
    size = ("--align.output-px", "96")
    assert run(str(photo), "--out", str(out), *size, "--encode.format", "png", "--json") == 0
    (result,) = json.loads(capsys.readouterr().out)["photos"]
    assert [crop["file"] for crop in result["crops"]] == [str(out / "someone-0.png")]
    assert result["crops"][0]["quad_side_px"] > 48
    with Image.open(out / "someone-0.png") as image:
        assert (image.format, image.size) == ("PNG", (96, 96))


def test_what_has_no_face_is_told_beside_what_has(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One broken photograph stops nothing; its reason is printed."""
    broken, blank = tmp_path / "broken.jpg", tmp_path / "blank.png"
    broken.write_bytes(photo.read_bytes()[:5000])
    Image.new("RGB", (300, 300)).save(blank)
    given = (str(broken), str(blank), str(photo))
    assert run(*given, "--out", str(tmp_path), "--align.output-px", "64") == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{broken}: broken_image" in lines[0]
    assert lines[1] == f"{blank}: no_face (of 32 px or more)"
    assert lines[2].startswith(f"{tmp_path / 'someone-0.webp'}  from ")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nothing.jpg"], "nothing.jpg is not a file"),
        (["."], "name the photographs in it"),
        (["someone.jpg", "other/someone.jpg"], "would both be written as someone-0"),
        (["x" * 300], "File name too long"),
        (["blank.png"], "no face was aligned"),
    ],
)
def test_mistakes_are_one_sentence(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], message: str
) -> None:
    """A wrong name, a folder, two of one name, nothing to show for it: exit 1 with the reason."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "someone.jpg").write_bytes(photo.read_bytes())
    Image.new("RGB", (300, 300)).save(tmp_path / "blank.png")
    assert run(*(str(tmp_path / name) for name in names), "--out", str(tmp_path / "out")) == 1
    assert message in capsys.readouterr().err


def test_a_photograph_is_never_written_over(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A crop whose name is a photograph's stops the command, and the photograph stays."""
    other = photo.with_name("someone-0.jpg")
    other.write_bytes(photo.read_bytes())
    assert run(str(photo), str(other), "--out", str(photo.parent), "--encode.format", "jpeg") == 1
    assert f"would overwrite {other}" in capsys.readouterr().err
    assert other.read_bytes() == photo.read_bytes()


def test_a_missing_model_is_told_whatever_the_photographs(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any photograph is opened."""
    assert run(str(photo), "--out", str(tmp_path / "out"), "--detect.predictor", "none.dat") == 1
    assert "none.dat" in capsys.readouterr().err
