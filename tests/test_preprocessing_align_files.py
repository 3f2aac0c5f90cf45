"""`likeness align`: photographs as files in, crops as files out, and a reason for everything else."""

from __future__ import annotations

import json
import os
import shutil
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
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert [crop["file"] for crop in result["crops"]] == [str(out / "someone.jpg-0.png")]
    assert result["crops"][0]["quad_side_px"] > 48
    with Image.open(out / "someone.jpg-0.png") as image:
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
    assert lines[2].startswith(f"{tmp_path / 'someone.jpg-0.webp'}  from ")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["nothing.jpg"],
            "1 of 1 photographs could not be aligned: {}/nothing.jpg: cannot be read: No such file",
        ),
        (["x" * 300, "someone.jpg"], "File name too long"),
        (["blank.png"], "no face was aligned"),
    ],
)
def test_mistakes_are_one_sentence(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], message: str
) -> None:
    """A wrong name, or nothing to show for it: exit 1 with the reason, after all others were aligned."""
    Image.new("RGB", (300, 300)).save(tmp_path / "blank.png")
    assert run(*(str(tmp_path / name) for name in names), "--out", str(tmp_path / "out")) == 1
    assert message.format(tmp_path) in capsys.readouterr().err
    crops = [path.name for path in (tmp_path / "out").rglob("*")]
    assert crops == (["someone.jpg-0.webp"] if "someone.jpg" in names else [])


def test_folders_are_taken_and_no_two_crops_share_a_name(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Photographs of one stem in one folder or several, tables passed over, one line of JSON each.

    In this process, and then in two workers, for which what the first left in `out` is no photograph.
    """
    for name in ("a/x.jpg", "a/x.png", "b/x.jpg", "b/ü x.jpg"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(photo.read_bytes())
    (tmp_path / "set" / "about.jsonl").write_text('{"file": "a/x.jpg"}')
    out = tmp_path / "set" / "crops"
    for workers in ("1", "2"):
        assert run(str(tmp_path / "set"), "--out", str(out), "--workers", workers, "--json") == 0
        results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        files = sorted(crop["file"] for result in results for crop in result["crops"])
        names = ["a/x.jpg-0.webp", "a/x.png-0.webp", "b/x.jpg-0.webp", "b/ü x.jpg-0.webp"]
        assert files == [str(out / name) for name in names]
        assert all(Path(file).stat().st_size > 0 for file in files)
        for file in files:
            Path(file).write_bytes(b"")  # so that the workers must write it too
        assert [result["problem"] for result in results] == [None] * 4


def test_crops_never_lie_among_the_photographs_of_a_folder(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--out` that is the folder of the photographs is refused: the next time they would be photographs too."""
    assert run(str(photo.parent), "--out", str(photo.parent)) == 1
    assert "is a folder of photographs" in capsys.readouterr().err


def test_crops_may_lie_above_their_photographs(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where `--out` holds the folder of the photographs these are aligned all the same, and none is written over."""
    folder = tmp_path / "all" / "some"
    folder.mkdir(parents=True)
    shutil.copy(photo, folder / "x.jpg")
    assert run(str(folder), "--out", str(folder.parent), "--align.output-px", "64") == 0
    assert capsys.readouterr().out.startswith(str(folder.parent / "x.jpg-0.webp"))
    assert (folder / "x.jpg").read_bytes() == photo.read_bytes()


def test_a_name_that_is_no_utf8_ends_nothing(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its crop is written beside those of the others, and both are told in text that can be shown."""
    folder = tmp_path / "set"
    folder.mkdir()
    try:
        Path(os.fsdecode(os.fsencode(folder) + b"/\xff.jpg")).write_bytes(photo.read_bytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert run(str(folder), "--out", str(tmp_path / "out")) == 0
    assert r"out/\xff.jpg-0.webp  from" in capsys.readouterr().out


def test_a_photograph_is_never_written_over(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A crop whose name is a photograph's is not written, the photograph stays, and the others are aligned."""
    other = photo.with_name("someone.jpg-0.jpg")
    other.write_bytes(photo.read_bytes())
    assert run(str(photo), str(other), "--out", str(photo.parent), "--encode.format", "jpeg") == 1
    assert f"{other} cannot be written: it is one of the photographs" in capsys.readouterr().err
    assert other.read_bytes() == photo.read_bytes()
    assert photo.with_name("someone.jpg-0.jpg-0.jpg").is_file()


def test_a_missing_model_is_told_whatever_the_photographs(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any photograph is opened."""
    assert run(str(photo), "--out", str(tmp_path / "out"), "--detect.predictor", "none.dat") == 1
    assert "none.dat" in capsys.readouterr().err
