"""Certificates for TLS and keys for node authentication, as Flower reads them.

`python -m fl.runtimes.certificates FOLDER HOST...` makes the certificates of a SuperLink that several machines reach.
"""

import argparse
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK = ("localhost", "127.0.0.1")
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Certificates:
    """Files in PEM: the authority that every process trusts, and the SuperLink's certificate and key."""

    authority: Path
    server: Path
    server_key: Path


def make_certificates(folder: Path, hosts: tuple[str, ...] = LOOPBACK, days: int = 1) -> Certificates:
    """Make a new authority, and a certificate of one server for the names and IP addresses in `hosts`.

    The authority's own key is used here and never stored, so nobody can make another certificate under it.
    """
    authority_key = ec.generate_private_key(ec.SECP384R1())
    server_key = ec.generate_private_key(ec.SECP384R1())
    authority = _sign(_authority(authority_key), authority_key, days)
    server = _sign(_server(server_key, authority, hosts), authority_key, days)
    files = Certificates(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    files.authority.write_bytes(authority.public_bytes(Encoding.PEM))
    files.server.write_bytes(server.public_bytes(Encoding.PEM))
    _write_secret(files.server_key, server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def make_node_key(path: Path) -> Path:
    """Make a SuperNode's key pair on P-384 in OpenSSH's format: the private key at `path`; return the public's path."""
    key = ec.generate_private_key(ec.SECP384R1())
    public = path.with_suffix(".pub")
    _write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return public


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    name = _name("fedveil authority")
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True).add_extension(
        _usage(key_cert_sign=True), critical=True
    )


def _server(
    key: ec.EllipticCurvePrivateKey, authority: x509.Certificate, hosts: tuple[str, ...]
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(_name(hosts[0])).issuer_name(authority.subject)
    return (
        builder.public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False)
    )


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey, days: int) -> x509.Certificate:
    start = datetime.now(UTC) - CLOCK_SKEW
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start)
    return builder.not_valid_after(start + CLOCK_SKEW + timedelta(days=days)).sign(key, hashes.SHA384())


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])  # 64: the bound of RFC 5280


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_secret(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def main() -> None:
    """Make the certificates of a SuperLink, for the names and addresses that its clients use."""
    parser = argparse.ArgumentParser(prog="python -m fl.runtimes.certificates", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("hosts", nargs="+", metavar="HOST")
    parser.add_argument("--days", type=int, default=30)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    # The SuperLink's own child processes reach it on loopback.
    files = make_certificates(arguments.folder, (*arguments.hosts, *LOOPBACK), arguments.days)
    print(f"{files.authority} is for everybody; {files.server} and {files.server_key} are for the SuperLink alone")


if __name__ == "__main__":
    main()
