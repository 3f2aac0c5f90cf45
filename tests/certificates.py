"""A private key and its certificates, as C2PA asks for them: made for a test, and trusted by nobody."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
SIGNER = "A test"


def write_certificates(
    folder: Path,
    key: PrivateKey | None = None,
    *,
    may_sign: bool = True,
    days: tuple[int, int] = (-1, 1),
    by_itself: bool = False,
) -> tuple[Path, Path]:
    """The files of a key and of its chain: its own certificate, and that of the authority that gave it.

    The certificate holds from one of `days` from now to the other. With `by_itself` there is no authority.
    """
    authority = ec.generate_private_key(ec.SECP256R1())
    key = key or ec.generate_private_key(ec.SECP256R1())
    top, own = _name("An authority"), _name(SIGNER)
    above = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    root = (
        _certificate(top, top, authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(above, critical=False)
        .add_extension(_usage(sign_certificates=True), critical=True)
    )
    leaf = (
        _certificate(own, own if by_itself else top, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(above), critical=False)
        .add_extension(_usage(), critical=True)
    )
    if may_sign:
        purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        leaf = leaf.add_extension(purpose, critical=False)
    if by_itself:
        chain = [leaf.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)]
    else:
        chain = [made.sign(authority, hashes.SHA256()).public_bytes(Encoding.PEM) for made in (leaf, root)]
    paths = folder / "key.pem", folder / "certificates.pem"
    paths[0].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    paths[1].write_bytes(b"".join(chain))
    return paths


def _name(name: str) -> x509.Name:
    names = ((NameOID.ORGANIZATION_NAME, "Tests"), (NameOID.COMMON_NAME, name))
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in names])


def _certificate(
    of: x509.Name, by: x509.Name, key: PrivateKey, days: tuple[int, int] = (-30, 30)
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(of)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
    )


def _usage(*, sign_certificates: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
