"""Marks that other programs read: that a model drew a picture (IPTC, in XMP), and on request who says so (C2PA).

    text.add_itxt("XML:com.adobe.xmp", xmp_packet(metadata))
    Signer.open(key, certificates).sign(path, "image/png", metadata)

A C2PA manifest is signed with the user's key, and names run, checkpoint and weights, and the dataset's version as what
went into them. The extra `sign` installs what that needs. Nothing is sent anywhere: no time is stamped by others. Not
here: our own lineage (`storage.lineage.origin`), and reading marks (`preprocessing.photo`).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from xml.sax.saxutils import quoteattr

from PIL import Image

from storage.errors import ConfigError
from storage.local import partial_beside

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype"
SYNTHETIC = f"{_TYPES}/trainedAlgorithmicMedia"
COMPOSITE = f"{_TYPES}/compositeWithTrainedAlgorithmicMedia"
BESIDE_PHOTOGRAPHS = ("audit", "projection")
"""Kinds of pictures that show photographs beside what was drawn."""
SAID = (
    "run_id",
    "checkpoint",
    "generator_sha256",
    "bundled_sha256",
    "imported",
    "imported_sha256",
    "pixels_sha256",
    "media_sha256",
)
"""Entries of the lineage that a manifest names, with those of the dataset."""
SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
"""Of the C2PA library: nothing is fetched, and no second picture is put into the file."""


def source_type(metadata: Mapping[str, Any]) -> str:
    """IPTC's digital source type of a picture of that lineage."""
    return COMPOSITE if metadata.get("kind") in BESIDE_PHOTOGRAPHS else SYNTHETIC


def generator_of(metadata: Mapping[str, Any]) -> str | None:
    """What drew a picture of that lineage, in words; None where it does not say."""
    if "imported" in metadata:
        return f"imported network {metadata['imported']}"
    if "run_id" in metadata:
        return f"run {metadata['run_id']}, checkpoint {metadata.get('checkpoint')}"
    return None


def xmp_packet(metadata: Mapping[str, Any]) -> str:
    """An XMP packet (ISO 16684-1) that says that a model drew the picture, and which one."""
    said = {
        "xmp:CreatorTool": f"likeness {version('likeness')}",
        "Iptc4xmpExt:DigitalSourceType": source_type(metadata),
        "Iptc4xmpExt:AISystemUsed": "likeness",
    }
    if drawn_by := generator_of(metadata):
        said["Iptc4xmpExt:AISystemVersionUsed"] = drawn_by
    properties = "".join(f"\n   {name}={quoteattr(value)}" for name, value in said.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
        ' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        '  <rdf:Description rdf:about=""\n'
        '   xmlns:xmp="http://ns.adobe.com/xap/1.0/"\n'
        '   xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f"{properties}/>\n"
        " </rdf:RDF>\n"
        "</x:xmpmeta>\n"
        '<?xpacket end="r"?>'
    )


@dataclass(frozen=True)
class Signer:
    """A private key and its chain of certificates, the signer's first, both PEM."""

    key: bytes
    """PKCS #8, which is what C2PA's library reads."""
    certificates: bytes
    algorithm: str
    """As C2PA calls it, such as es256."""
    path: Path
    """Where the certificates are from, for messages."""

    @classmethod
    def open(cls, key: Path, certificates: Path) -> Signer:
        """Read both files, and sign a trial with them; ConfigError where they cannot, or do not belong together."""
        if importlib.util.find_spec("c2pa") is None:
            raise ConfigError("signing needs c2pa-python: pip install 'likeness[sign]'")
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
            load_pem_private_key,
        )
        from cryptography.x509 import load_pem_x509_certificates

        try:
            private = load_pem_private_key(_read(key), password=None)
        except (ValueError, TypeError) as error:  # the latter where it is encrypted
            raise ConfigError(f"sign: {key} is no private key in PEM without a password") from error
        try:
            chain = load_pem_x509_certificates(_read(certificates))
        except ValueError as error:
            raise ConfigError(f"sign: {certificates} holds no certificate in PEM") from error
        if chain[0].public_key() != private.public_key():
            raise ConfigError(f"sign: the first certificate of {certificates} is not that of the key {key}")
        algorithm = _algorithm(private, key)
        _check_chain(chain, certificates)
        signer = cls(
            private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            b"".join(one.public_bytes(Encoding.PEM) for one in chain),
            algorithm,
            certificates,
        )
        trial = BytesIO()
        Image.new("L", (1, 1)).save(trial, "PNG")
        signer._sign(trial, BytesIO(), "image/png", {})
        return signer

    def sign(self, path: Path, media_type: str, metadata: Mapping[str, Any]) -> None:
        """Put a signed manifest into a file, in place of the file; ConfigError where the certificates will not do."""
        signed = partial_beside(path)
        try:
            with path.open("rb") as source, signed.open("w+b") as target:
                self._sign(source, target, media_type, metadata)
            os.replace(signed, path)
        finally:
            signed.unlink(missing_ok=True)

    def _sign(self, source: BinaryIO, target: BinaryIO, media_type: str, metadata: Mapping[str, Any]) -> None:
        import c2pa

        info = c2pa.C2paSignerInfo(self.algorithm, self.certificates, self.key, None)
        try:
            with (
                c2pa.Context.from_dict(SETTINGS) as context,
                c2pa.Signer.from_info(info) as signer,
                c2pa.Builder(manifest(metadata), context) as builder,
            ):
                builder.sign(signer, media_type, source, target)
        except c2pa.C2paError as error:
            raise ConfigError(f"sign: {self.path} cannot sign a C2PA manifest: {error}") from error


def manifest(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What C2PA's library is to sign: that a model drew it, which one, and the dataset version that it learned from."""
    tool = {"name": "likeness", "version": version("likeness")}
    created = {
        "action": "c2pa.created",
        "softwareAgent": tool,
        "digitalSourceType": source_type(metadata),
    }
    facts = {name: str(metadata[name]) for name in SAID if name in metadata}
    ingredients = []
    if "dataset" in metadata:
        facts |= {name: str(metadata[name]) for name in ("dataset", "dataset_manifest_sha256")}
        sha256 = facts["dataset_manifest_sha256"]
        ingredients.append(
            {
                "title": facts["dataset"],
                "format": "application/json",
                "instance_id": f"sha256:{sha256}",
                "relationship": "inputTo",
                "description": f"The dataset that the generator learned from; its manifest has sha256 {sha256}",
                "data_types": [{"type": "c2pa.types.dataset"}],
            }
        )
    return {
        "claim_generator_info": [tool],
        "assertions": [
            {"label": "c2pa.actions", "data": {"actions": [created]}},
            {"label": "likeness.lineage", "data": {"generator": "likeness", **facts}},
        ],
        "ingredients": ingredients,
    }


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"sign: {path} cannot be read: {error.strerror}") from error


def _check_chain(chain: Sequence[Certificate], path: Path) -> None:
    """ConfigError where the first is its own authority, or one is not by the next: C2PA's library looks at neither."""
    from cryptography.exceptions import InvalidSignature

    if chain[0].issuer == chain[0].subject:
        raise ConfigError(
            f"sign: the first certificate of {path} is self-signed: C2PA asks for an authority's"
        )
    for number, (one, above) in enumerate(pairwise(chain), 2):
        try:
            one.verify_directly_issued_by(above)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise ConfigError(
                f"sign: certificate {number} of {path} did not issue the one before it: the signer's own comes first, "
                f"then that which issued it, and so on"
            ) from error


def _algorithm(private: Any, path: Path) -> str:
    """C2PA's name of what a key signs with."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in curves:
        return curves[private.curve.name]
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(private, rsa.RSAPrivateKey):
        return "ps256"
    raise ConfigError(
        f"sign: {path} is a key of a kind that C2PA does not take: P-256, P-384, P-521, Ed25519, RSA"
    )
