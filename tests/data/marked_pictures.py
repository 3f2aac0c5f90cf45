"""Draws pictures of 16 pixels and signs them with C2PA manifests that say what may be done with them.

    pip install c2pa-python cryptography pillow
    python tests/data/marked_pictures.py tests/data/marked

Made with c2pa-python 0.38.1, so that another implementation than ours wrote what our reader reads. The key is thrown
away. No photograph went into them.
"""

from __future__ import annotations

import datetime
import io
import json
import sys
from pathlib import Path
from typing import Any

import c2pa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

SOURCES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
TYPES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF", "avif": "AVIF"}
MIME = {suffix: f"image/{name.lower()}" for suffix, name in TYPES.items()}
Assertion = dict[str, Any]


def signer() -> c2pa.Signer:
    """A signer whose certificate nobody knows."""

    def name(text: str) -> x509.Name:
        parts = [(NameOID.ORGANIZATION_NAME, "likeness tests"), (NameOID.COMMON_NAME, text)]
        return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])

    def certificate(subject: str, key: ec.EllipticCurvePrivateKey, number: int) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("root"))
        builder = builder.public_key(key.public_key()).serial_number(number)
        return builder.not_valid_before(datetime.datetime(2026, 1, 1)).not_valid_after(
            datetime.datetime(2046, 1, 1)
        )

    def usage(**kinds: bool) -> x509.KeyUsage:
        names = [
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
        ]
        names += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
        return x509.KeyUsage(**{kind: kinds.get(kind, False) for kind in names})

    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_id = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
    root = (
        certificate("root", root_key, 1)
        .add_extension(x509.BasicConstraints(True, None), True)
        .add_extension(root_id, False)
        .add_extension(usage(key_cert_sign=True, crl_sign=True), True)
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        certificate("signer", key, 2)
        .add_extension(x509.BasicConstraints(False, None), True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root_id), False)
        .add_extension(usage(digital_signature=True), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), False)
        .sign(root_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain = leaf.public_bytes(pem) + root.public_bytes(pem)
    return c2pa.Signer.from_info(
        c2pa.C2paSignerInfo(alg=b"es256", sign_cert=chain, private_key=private, ta_url=None)
    )


def actions(source: str) -> Assertion:
    """The assertion that says how a picture came to be."""
    done = {"action": "c2pa.created", "digitalSourceType": SOURCES + source}
    return {"label": "c2pa.actions", "data": {"actions": [done]}}


def uses(owner: str, **entries: str) -> Assertion:
    """The assertion that says what a picture may be used for."""
    data = {f"{owner}.{name}": {"use": use} for name, use in entries.items()}
    return {"label": f"{owner}.training-mining", "data": {"entries": data}}


def picture(suffix: str) -> bytes:
    """A plain square."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 120, 90)).save(file, TYPES[suffix])
    return file.getvalue()


def signed(suffix: str, assertions: list[Assertion], parent: bytes | None = None) -> bytes:
    """A picture with a manifest, made from `parent` if given."""
    manifest = {
        "claim_generator_info": [{"name": "likeness tests", "version": "1"}],
        "title": "drawn",
        "assertions": assertions,
    }
    builder = c2pa.Builder(json.dumps(manifest))
    if parent is not None:
        of = {"title": "parent", "relationship": "parentOf", "instance_id": "xmp:iid:parent"}
        builder.add_ingredient(json.dumps(of), "image/jpeg", io.BytesIO(parent))
    file = io.BytesIO()
    builder.sign(signer(), MIME[suffix], io.BytesIO(picture(suffix)), file)
    return file.getvalue()


def main(folder: Path) -> None:
    """Write the pictures; c2pa-python must hold each of them for valid."""
    captured = actions("digitalCapture")
    no = {"data_mining": "notAllowed", "ai_training": "notAllowed", "ai_generative_training": "notAllowed"}
    ask = {"data_mining": "allowed", "ai_training": "constrained", "ai_generative_training": "constrained"}
    yes = dict.fromkeys([*no, "ai_inference"], "allowed")
    refusing = [captured, uses("c2pa", **no, ai_inference="allowed")]
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": ["xmp:iid:parent"]}}
    files = {
        **{f"not-allowed.{suffix}": signed(suffix, refusing) for suffix in TYPES},
        "not-allowed-in-parts.jpg": signed(
            "jpg", [*refusing, {"label": "org.example.long", "data": {"text": "x" * 70_000}}]
        ),
        "constrained.jpg": signed("jpg", [captured, uses("cawg", **ask, ai_inference="allowed")]),
        "allowed.jpg": signed("jpg", [captured, uses("c2pa", **yes)]),
        "captured.jpg": signed("jpg", [captured]),
        "synthetic.jpg": signed("jpg", [actions("trainedAlgorithmicMedia")]),
    }
    files["synthetic-parent.jpg"] = signed(
        "jpg", [{"label": "c2pa.actions", "data": {"actions": [opened]}}], files["synthetic.jpg"]
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        report = json.loads(c2pa.Reader(MIME[name.rpartition(".")[2]], io.BytesIO(data)).json())
        assert report["validation_state"] == "Valid", f"{name}: {report}"
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
