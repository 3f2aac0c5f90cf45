"""likeness verify FILE: a drawn file is held to what it says of itself, and builds refuse it as a photograph."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import tiny_run
from certificates import SIGNER, write_certificates
from commands import likeness
from flows.build import build, run_with
from flows.options import BuildOptions
from preprocessing.config import BuildConfig
from preprocessing.photo.claims import claims_of
from preprocessing.sources.sample import scene_bytes
from storage.errors import IntegrityError
from storage.lineage.trace import trace
from storage.runs import Run
from storage.store import Store


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A trained run in a store of its own."""
    store = Store(tmp_path_factory.mktemp("store"))
    return tiny_run.trained(store, tiny_run.tiny_dataset(store, tiny_run.noise_images(8)))


def drawn(
    run: Run, out: Path, capsys: pytest.CaptureFixture[str], *more: object, name: str = "generate"
) -> Path:
    """A picture by a command."""
    status, _, err = likeness(
        capsys, name, run.id, "--store", run.store.root, "--seeds", "0-2", "--out", out, *more
    )
    assert status == 0, err
    return out


def copied(path: Path, to: Path, *, red: int | None = None) -> Path:
    """The picture and its texts written again, one value of it another where that is given."""
    with Image.open(path) as image:
        texts = PngInfo()
        for key, text in image.info.items():
            if isinstance(key, str) and isinstance(text, str):
                texts.add_itxt(key, text)
        if red is not None:
            image.putpixel((0, 0), (red, 0, 0))
        image.save(to, pnginfo=texts)
    return to


def test_a_drawn_file_is_what_it_says(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lineage, pixels, both marks and the way back to the images are told, for a picture and for a film."""
    sign = ("--sign", *write_certificates(tmp_path))
    for path in (
        drawn(run, tmp_path / "grid.png", capsys, *sign),
        drawn(run, tmp_path / "film.mp4", capsys, *sign, "--seconds", "1", "--fps", "4", name="video"),
    ):
        status, out, _ = likeness(capsys, "verify", path, "--store", run.store.root, "--json")
        said = json.loads(out)
        assert (status, said["problems"], said["pixels_hold"]) == (0, [], True)
        assert said["iptc"] == said["c2pa"]["source_types"] == ["trainedAlgorithmicMedia"]
        assert (said["c2pa"]["state"], said["c2pa"]["is_trusted"]) == ("holds", False)
        assert said["c2pa"]["ingredients"] == [run.record.dataset.reference]
        assert len(said["chain"]["images"]) == 8
    status, out, _ = likeness(capsys, "verify", tmp_path / "grid.png", "--store", run.store.root)
    assert status == 0
    assert f"signed by {SIGNER}, Tests, and the signature holds" in out
    assert "grid < checkpoint < training run < dataset: 8 images with their photographs" in out


def test_the_environment_signs(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """LIKENESS_SIGN signs what a command draws without --sign; what is no pair of files is refused, and named."""
    key, certificates = write_certificates(tmp_path)
    monkeypatch.setenv("LIKENESS_SIGN", f"{key}:{certificates}")
    path = drawn(run, tmp_path / "grid.png", capsys)
    status, out, _ = likeness(capsys, "verify", path, "--store", run.store.root)
    assert (status, f"signed by {SIGNER}" in out) == (0, True)
    monkeypatch.setenv("LIKENESS_SIGN", str(key))
    status, _, err = likeness(capsys, "generate", run.id, "--out", path, "--store", run.store.root)
    assert status == 1
    assert err == f"likeness: $LIKENESS_SIGN is '{key}', and not KEY:CERTIFICATES, two files in PEM\n"


def test_altered_pixels_are_told(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One value of one pixel is enough, for verify and for trace; the same pixels in another file are not."""
    path = drawn(run, tmp_path / "grid.png", capsys)
    same, other = copied(path, tmp_path / "same.png"), copied(path, tmp_path / "other.png", red=77)
    assert likeness(capsys, "verify", same, "--store", run.store.root)[0] == 0
    assert trace(run.store, str(same)).images
    status, out, err = likeness(capsys, "verify", other, "--store", run.store.root)
    assert (status, "ALTERED" in out) == (1, True)
    assert err == f"likeness: {other} has other pixels than were drawn: it was altered\n"
    with pytest.raises(IntegrityError, match=r"other\.png has other pixels than were drawn"):
        trace(run.store, str(other))


def lineage_of(image: Image.Image, **changed: object) -> PngInfo:
    """A picture's lineage for a copy of it, some entries of which are `changed`."""
    carried = PngInfo()
    carried.add_itxt("likeness", json.dumps({**json.loads(image.info["likeness"]), **changed}))
    return carried


def test_what_hides_drawn_pixels_is_told(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture of which a viewer shows other frames, or holes, was altered; one that is opaque throughout was not."""
    path = drawn(run, tmp_path / "grid.png", capsys)
    with Image.open(path) as image:
        carried = lineage_of(image)
        image.save(tmp_path / "film.png", pnginfo=carried, save_all=True, append_images=[image.rotate(180)])
        clear = image.convert("RGBA")
        clear.save(tmp_path / "opaque.png", pnginfo=carried)
        clear.putpixel((3, 3), (*clear.getpixel((3, 3))[:3], 0))
        clear.save(tmp_path / "hole.png", pnginfo=carried)
    for name, wanted in (("opaque", 0), ("film", 1), ("hole", 1)):
        status, out, _ = likeness(capsys, "verify", tmp_path / f"{name}.png", "--store", run.store.root)
        assert (status, "ALTERED" in out) == (wanted, wanted == 1), name


def test_a_lineage_of_other_types_is_told(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Entries that are no text are one sentence, and all else of the file is told."""
    path = drawn(run, tmp_path / "grid.png", capsys)
    with Image.open(path) as image:
        image.save(tmp_path / "odd.png", pnginfo=lineage_of(image, kind={"a": 1}))
    status, out, err = likeness(capsys, "verify", tmp_path / "odd.png", "--store", run.store.root)
    assert (status, "as they were drawn" in out, len(err.splitlines())) == (1, True, 1)
    assert "kind: Input should be a valid string" in err


def test_a_signature_covers_what_pixels_do_not(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lineage that was rewritten, its checksum and all, is told by the signature alone."""
    path = drawn(run, tmp_path / "grid.png", capsys, "--sign", *write_certificates(tmp_path))
    data = path.read_bytes()
    at = data.index(b"iTXtlikeness\0")
    length = int.from_bytes(data[at - 4 : at], "big")
    chunk = data[at : at + 4 + length].replace(b'"seeds": [0, 1, 2]', b'"seeds": [9, 1, 2]')
    path.write_bytes(data[:at] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + data[at + 8 + length :])
    status, out, err = likeness(capsys, "verify", path, "--store", run.store.root)
    assert (status, "seeds [9, 1, 2]" in out, "as they were drawn" in out) == (1, True, True)
    assert "does not hold: assertion.dataHash.mismatch" in err


def test_a_manifest_of_another_picture_is_told(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a signed manifest says must be what the lineage says."""
    sign = ("--sign", *write_certificates(tmp_path))
    first = drawn(run, tmp_path / "a.png", capsys, *sign).read_bytes()
    second = drawn(run, tmp_path / "b.png", capsys, *sign, "--truncation-psi", "0.1").read_bytes()

    def store_of(data: bytes) -> slice:
        at = data.index(b"caBX") - 4
        return slice(at, at + 12 + int.from_bytes(data[at : at + 4], "big"))

    mixed = tmp_path / "mixed.png"
    place = store_of(first)
    mixed.write_bytes(first[: place.start] + second[store_of(second)] + first[place.stop :])
    status, _, err = likeness(capsys, "verify", mixed, "--store", run.store.root)
    assert status == 1
    assert "its signed manifest" in err


def test_what_says_nothing_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A picture without any mark, and a name that is neither file nor dataset, are one sentence and status 1."""
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    status, _, err = likeness(capsys, "verify", tmp_path / "plain.png", "--store", tmp_path)
    assert (status, len(err.splitlines())) == (1, 1)
    assert "plain.png says nothing of how it was made" in err
    status, _, err = likeness(capsys, "verify", "nothing", "--store", tmp_path)
    assert (status, len(err.splitlines())) == (1, 1)


def test_a_run_that_is_elsewhere_is_no_fault_of_the_file(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In another store the way back is not known, and all else holds."""
    path = drawn(run, tmp_path / "grid.png", capsys)
    status, out, _ = likeness(capsys, "verify", path, "--store", tmp_path / "elsewhere")
    assert (status, f"no training run '{run.id}'" in out) == (0, True)


def test_marks_of_others_are_read() -> None:
    """A manifest that another program made is read and checked: signer, state, and what it says of its making."""
    path = Path(__file__).parent / "data" / "marked" / "synthetic.jpg"
    credentials = claims_of(path).credentials
    assert credentials is not None
    assert credentials.source_types == ("trainedAlgorithmicMedia",)
    assert credentials.state in ("holds", "broken")
    assert credentials.lineage == {}


def test_a_build_refuses_what_was_drawn(
    run: Run, tmp_path: Path, cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A drawn face among the photographs of a folder is rejected as synthetic, unless that is allowed."""
    photos = tmp_path / "photos"
    photos.mkdir()
    drawn(run, photos / "drawn.png", capsys)
    (photos / "scene.jpg").write_bytes(scene_bytes(1))
    for is_refused in (True, False):
        settings = {"source": f"folder:{photos}", "fetch": {"reject_synthetic": is_refused}, "resolution": 32}
        options = BuildOptions(store=tmp_path / f"store{is_refused}", scheduler=cluster)
        config = BuildConfig.model_validate(settings)
        dataset = build(config, options, run_with(lambda _: None)).dataset
        rejected = {row["ref"]: row["reason"] for row in dataset.table("rejections").read().to_pylist()}
        assert (rejected.get("drawn.png") == "synthetic") is is_refused, rejected
        assert dataset.table("images").read().num_rows > 0
