"""Marks on what is drawn: XMP that others and we ourselves read, and manifests that C2PA's own library holds true."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from PIL import Image

from certificates import SIGNER, PrivateKey, write_certificates
from preprocessing.crawl.readers import read_photograph
from preprocessing.crawl.signals import SignalsConfig, policy
from storage.errors import ConfigError
from storage.lineage.mp4 import XMP, boxes, uuid_content
from storage.lineage.origin import pixels_hold, read_provenance, sidecar_path
from training.data import ImageArray
from training.drawing.marks import SAID, Signer, xmp_packet
from training.drawing.pictures import read_grid_metadata, write_png
from training.drawing.video import write_video

LINEAGE = {
    "run_id": 'a run of "<&>"',
    "checkpoint": "000000032",
    "generator_sha256": "ab" * 32,
    "dataset": "faces@0123456789abcdef",
    "dataset_manifest_sha256": "cd" * 32,
    "seeds": [1, 2],
}
TERM = "http://cv.iptc.org/newscodes/digitalsourcetype/"
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"


def picture(side: int = 32) -> ImageArray:
    """A picture (side, side, 3)."""
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def films(path: Path, signer: Signer | None = None) -> dict[str, Any]:
    """A film of four pictures."""
    return write_video([picture(64)] * 4, path, 4, LINEAGE, signer)


def reported(path: Path) -> dict[str, Any]:
    """What C2PA's own reader says of a file."""
    with c2pa.Reader(str(path)) as reader:
        report: dict[str, Any] = json.loads(reader.json())
    return report


@pytest.mark.parametrize(
    ("kind", "term"),
    [
        ("grid", "trainedAlgorithmicMedia"),
        ("figure", "trainedAlgorithmicMedia"),
        ("projection", "compositeWithTrainedAlgorithmicMedia"),
        ("audit", "compositeWithTrainedAlgorithmicMedia"),
    ],
)
def test_a_picture_says_that_a_model_drew_it(tmp_path: Path, kind: str, term: str) -> None:
    """XMP has IPTC's source type, well-formed whatever a run is called; beside photographs it is a composite."""
    write_png(picture(), tmp_path / "p.png", {**LINEAGE, "kind": kind})
    with Image.open(tmp_path / "p.png") as image:
        packet = image.info["XML:com.adobe.xmp"]
    [description] = ElementTree.fromstring(packet.removeprefix("\ufeff")).iter(
        "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description"
    )
    assert description.attrib[f"{IPTC}DigitalSourceType"] == TERM + term
    assert LINEAGE["run_id"] in description.attrib[f"{IPTC}AISystemVersionUsed"]


@pytest.mark.parametrize("name", ["p.png", "v.mp4"])
def test_our_own_readers_refuse_what_we_draw(tmp_path: Path, name: str) -> None:
    """By XMP alone a drawn file is synthetic to whoever crawls it with likeness."""
    path = tmp_path / name
    films(path) if name == "v.mp4" else write_png(picture(), path, LINEAGE)
    verdict = policy(read_photograph(path.read_bytes()), SignalsConfig())
    assert (verdict.reason, verdict.rule) == ("synthetic", "synthetic: trainedAlgorithmicMedia")


def test_a_picture_knows_its_pixels(tmp_path: Path) -> None:
    """The pixels hold through another writer of PNG, and not after one value is changed."""
    carried = write_png(picture(), tmp_path / "p.png", LINEAGE)
    assert read_grid_metadata(tmp_path / "p.png") == carried
    with Image.open(tmp_path / "p.png") as image:
        image.save(tmp_path / "again.png", optimize=True)
        assert pixels_hold(tmp_path / "again.png", carried) is True
        pixels = np.array(image)
    pixels[7, 5, 0] ^= 1
    Image.fromarray(pixels).save(tmp_path / "altered.png")
    assert pixels_hold(tmp_path / "altered.png", carried) is False
    assert pixels_hold(tmp_path / "altered.png", LINEAGE) is None


def test_a_film_says_all_without_the_file_beside_it(tmp_path: Path) -> None:
    """Lineage and XMP stand in boxes that leave the film whole; its frames hold, and not after a bit is changed."""
    av = pytest.importorskip("av")
    carried = films(tmp_path / "v.mp4")
    sidecar_path(tmp_path / "v.mp4").unlink()
    assert read_provenance(tmp_path / "v.mp4") == carried
    assert uuid_content(tmp_path / "v.mp4", XMP) == xmp_packet(carried).encode()
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert len(list(container.decode(video=0))) == carried["frames"] == 4
    assert pixels_hold(tmp_path / "v.mp4", carried) is True
    with (tmp_path / "v.mp4").open("r+b") as file:
        [media] = [box for box in boxes(file) if box.kind == b"mdat"]
        file.seek(media.stop - 1)
        last = file.read(1)[0]
        file.seek(media.stop - 1)
        file.write(bytes([last ^ 1]))
    assert pixels_hold(tmp_path / "v.mp4", carried) is False


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ftyp",
        b"\0\0\0\x08ftyp\0\0\0\x02free",
        b"\0\0\0\x01ftyp" + b"\xff" * 8,
        b"\x89PNG\r\n\x1a\n" * 9,
    ],
    ids=["nothing", "no length", "a box shorter than its header", "a box longer than the file", "a PNG"],
)
def test_what_is_no_mp4_has_no_boxes_of_ours(tmp_path: Path, data: bytes) -> None:
    """Any bytes are read, and end."""
    (tmp_path / "x").write_bytes(data)
    assert uuid_content(tmp_path / "x", XMP) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: ec.generate_private_key(ec.SECP256R1()),
        lambda: ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate,
        lambda: rsa.generate_private_key(65537, 2048),
    ],
    ids=["es256", "es384", "ed25519", "ps256"],
)
@pytest.mark.parametrize("name", ["p.png", "v.mp4"])
def test_signed_files_hold_by_c2pas_own_reader(tmp_path: Path, make: Any, name: str) -> None:
    """Its reader names signer, generator, run, weights, and the dataset as ingredient; a changed byte breaks it."""
    key: PrivateKey = make()
    signer = Signer.open(*write_certificates(tmp_path, key))
    path = tmp_path / name
    carried = films(path, signer) if name == "v.mp4" else write_png(picture(), path, LINEAGE, signer)
    report = reported(path)
    assert report["validation_state"] == "Valid", report["validation_status"]
    [manifest] = report["manifests"].values()
    assert manifest["signature_info"]["common_name"] == SIGNER
    said = {one["label"]: one["data"] for one in manifest["assertions"]}
    [created] = said["c2pa.actions.v2"]["actions"]
    assert (created["action"], created["digitalSourceType"]) == (
        "c2pa.created",
        f"{TERM}trainedAlgorithmicMedia",
    )
    facts = {**carried, "generator": "likeness"}
    wanted = {"generator", "dataset", "dataset_manifest_sha256", *(set(SAID) & facts.keys())}
    assert said["likeness.lineage"] == {name: facts[name] for name in wanted}
    [ingredient] = manifest["ingredients"]
    assert (ingredient["title"], ingredient["instance_id"]) == (LINEAGE["dataset"], f"sha256:{'cd' * 32}")
    data = bytearray(path.read_bytes())
    at = data.rfind(b"mdat" if name == "v.mp4" else b"IDAT") + 200
    data[at] ^= 1
    path.write_bytes(data)
    assert reported(path)["validation_state"] == "Invalid"


def test_keys_that_cannot_sign_are_told(tmp_path: Path) -> None:
    """Files that are missing, no PEM, of two owners, or of a kind that C2PA refuses are one sentence each."""
    key, chain = write_certificates(tmp_path)
    (tmp_path / "other").mkdir()
    other, _ = write_certificates(tmp_path / "other")
    (tmp_path / "odd").mkdir()
    odd = write_certificates(tmp_path / "odd", ec.generate_private_key(ec.SECP256K1()))
    for files, message in (
        ((tmp_path / "no.pem", chain), "no.pem cannot be read: No such file"),
        ((chain, chain), "is no private key in PEM"),
        ((key, key), "holds no certificate in PEM"),
        ((other, chain), "is not that of the key"),
        (odd, "of a kind that C2PA does not take"),
    ):
        with pytest.raises(ConfigError, match=message):
            Signer.open(*files)


def test_certificates_that_cannot_sign_are_told_before_anything_is_drawn(tmp_path: Path) -> None:
    """Those of another purpose, of another time, self-signed, or in another order, by the name of their file."""
    for certificates, message in (
        ({"may_sign": False}, "cannot sign a C2PA manifest"),
        ({"days": (-20, -10)}, "cannot sign a C2PA manifest: .* not valid at time of signing"),
        ({"days": (10, 20)}, "cannot sign a C2PA manifest: .* not valid at time of signing"),
        ({"by_itself": True}, "is self-signed"),
    ):
        key, chain = write_certificates(tmp_path, **certificates)
        with pytest.raises(ConfigError, match=rf"certificates\.pem {message}"):
            Signer.open(key, chain)
    end = "-----END CERTIFICATE-----\n"
    _, other = write_certificates(tmp_path)[1].read_text().split(end)[:2]
    key, chain = write_certificates(tmp_path)
    own, root = chain.read_text().split(end)[:2]
    for order, message in (
        ((root, own), "is not that of the key"),
        ((own, own, root), "certificate 2 of .* did not issue the one before it"),
        ((own, other), "certificate 2 of .* did not issue the one before it"),
    ):
        chain.write_text("".join(one + end for one in order))
        with pytest.raises(ConfigError, match=message):
            Signer.open(key, chain)


@pytest.mark.parametrize(
    "form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8], ids=["traditional", "pkcs8"]
)
@pytest.mark.parametrize(
    "make",
    [lambda: ec.generate_private_key(ec.SECP256R1()), lambda: rsa.generate_private_key(65537, 2048)],
    ids=["es256", "ps256"],
)
def test_a_key_signs_in_whatever_pem_it_is_written(tmp_path: Path, make: Any, form: PrivateFormat) -> None:
    """As `openssl ecparam -genkey` writes it too, and beside its certificates in one file that begins with a mark."""
    private: PrivateKey = make()
    key, chain = write_certificates(tmp_path, private)
    written = private.private_bytes(Encoding.PEM, form, NoEncryption())
    key.write_bytes(b"\xef\xbb\xbf" + chain.read_bytes() + written)
    write_png(picture(), tmp_path / "p.png", LINEAGE, Signer.open(key, key))
    assert reported(tmp_path / "p.png")["validation_state"] == "Valid"
