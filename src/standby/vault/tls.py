"""A certificate for a vault that has none of its own: signed by an authority that the vault key files bring along."""

from __future__ import annotations

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from standby.errors import NeedsPerson

AUTHORITY_LIFE: Final = timedelta(days=3650)
CERTIFICATE_LIFE: Final = timedelta(days=397)
RENEWED: Final = timedelta(days=60)
"""Before its end, from which on a start of the vault makes another certificate."""


class Identity(NamedTuple):
    """certificate, key: files for the server. authority: PEM of what clients check it against."""

    certificate: Path
    key: Path
    authority: str


class CertificateUnusable(NeedsPerson):
    """A file of the vault's TLS identity cannot be read as what it should be."""


def identity(folder: Path, names: list[str], now: datetime) -> Identity:
    """The vault's own, made where it is missing, near its end, or for other names. Raises CertificateUnusable."""
    authority_file, authority_key_file = folder / "authority.pem", folder / "authority.key"
    certificate_file, key_file = folder / "vault.pem", folder / "vault.key"
    if not authority_file.exists():
        _new_authority(authority_file, authority_key_file, now)
    try:
        authority = x509.load_pem_x509_certificate(authority_file.read_bytes())
        if not certificate_file.exists() or not _good(certificate_file, names, now):
            signer = serialization.load_pem_private_key(authority_key_file.read_bytes(), None)
            assert isinstance(signer, ec.EllipticCurvePrivateKey)
            _new_certificate(certificate_file, key_file, authority, signer, names, now)
    except (OSError, ValueError, TypeError) as error:
        raise CertificateUnusable(
            f"its certificates cannot be used: {error}",
            subject=str(folder),
            hint="put back authority.pem and authority.key from a backup: agents trust no others",
        ) from error
    return Identity(certificate_file, key_file, authority_file.read_text())


def _good(file: Path, names: list[str], now: datetime) -> bool:
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    there = {str(one.value) for one in named}
    return set(names) <= there and certificate.not_valid_after_utc - RENEWED > now


def _new_authority(file: Path, key_file: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "standby vault authority")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - timedelta(minutes=5))
        .not_valid_after(now.astimezone(UTC) + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(key_file, _private(key), 0o600)
    _write(file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _new_certificate(
    file: Path,
    key_file: Path,
    authority: x509.Certificate,
    signer: ec.EllipticCurvePrivateKey,
    names: list[str],
    now: datetime,
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - timedelta(minutes=5))
        .not_valid_after(min(now.astimezone(UTC) + CERTIFICATE_LIFE, authority.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(one) for one in names]), critical=False)
        .add_extension(issuer, critical=False)
        .sign(signer, hashes.SHA256())
    )
    _write(key_file, _private(key), 0o600)
    _write(file, certificate.public_bytes(serialization.Encoding.PEM), 0o644)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write(file: Path, content: bytes, mode: int) -> None:
    """Whole or not at all, and never readable by others while it is written."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.rename(file)
