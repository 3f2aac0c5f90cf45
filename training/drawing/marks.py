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
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from storage.errors import ConfigError
from storage.local import partial_beside

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
    certificates: bytes
    algorithm: str
    """As C2PA calls it, such as es256."""

    @classmethod
    def open(cls, key: Path, certificates: Path) -> Signer:
        """Read both files; ConfigError where they are not what C2PA takes, or do not belong together."""
        if importlib.util.find_spec("c2pa") is None:
            raise ConfigError("signing needs c2pa-python: pip install 'likeness[sign]'")
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from cryptography.x509 import load_pem_x509_certificates

        key_bytes, chain = _read(key), _read(certificates)
        try:
            private = load_pem_private_key(key_bytes, password=None)
        except (ValueError, TypeError) as error:  # the latter where it is encrypted
            raise ConfigError(f"sign: {key} is no private key in PEM without a password") from error
        try:
            signing = load_pem_x509_certificates(chain)[0]
        except ValueError as error:
            raise ConfigError(f"sign: {certificates} holds no certificate in PEM") from error
        if signing.public_key() != private.public_key():
            raise ConfigError(f"sign: the first certificate of {certificates} is not that of the key {key}")
        return cls(key_bytes, chain, _algorithm(private, key))

    def sign(self, path: Path, media_type: str, metadata: Mapping[str, Any]) -> None:
        """Put a signed manifest into a file, in place of the file; ConfigError where the certificates will not do."""
        import c2pa

        info = c2pa.C2paSignerInfo(self.algorithm, self.certificates, self.key, None)
        signed = partial_beside(path)
        try:
            with (
                c2pa.Context.from_dict(SETTINGS) as context,
                c2pa.Signer.from_info(info) as signer,
                c2pa.Builder(manifest(metadata), context) as builder,
                path.open("rb") as source,
                signed.open("w+b") as target,
            ):
                builder.sign(signer, media_type, source, target)
            os.replace(signed, path)
        except c2pa.C2paError as error:
            raise ConfigError(f"sign: these certificates cannot sign a C2PA manifest: {error}") from error
        finally:
            signed.unlink(missing_ok=True)


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
