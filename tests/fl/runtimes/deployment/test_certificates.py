"""Certificates that OpenSSL accepts only for their hosts, and keys that OpenSSH and Flower read."""

import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from fl.runtimes.certificates import Certificates, make_certificates, make_node_key


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


def shake_hands(shown: Certificates, trusted: Path, host: str) -> None:
    """A TLS handshake of Python's own client and server over a socket pair; raises what the client raises."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(shown.server, shown.server_key)
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            server.wrap_socket(theirs, server_side=True).close()
        except OSError:
            theirs.close()

    thread = Thread(target=serve)
    thread.start()
    try:
        ssl.create_default_context(cafile=trusted).wrap_socket(ours, server_hostname=host).close()
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_client_that_trusts_the_authority_accepts_the_server(certificates: Certificates, host: str) -> None:
    shake_hands(certificates, certificates.authority, host)


def test_another_host_is_refused(certificates: Certificates) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(certificates, certificates.authority, "example.org")


def test_another_authority_is_refused(certificates: Certificates, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = make_certificates(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(certificates, other.authority, "localhost")


def test_names_and_addresses_of_other_machines(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path, ("superlink.example.org", "192.0.2.7"))
    for host in ("superlink.example.org", "192.0.2.7"):
        shake_hands(certificates, certificates.authority, host)


def test_private_keys_are_readable_by_their_owner_alone_and_never_overwritten(certificates: Certificates) -> None:
    key = certificates.server_key.with_name("node")
    make_node_key(key)
    for secret in (certificates.server_key, key):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        make_node_key(key)


def test_the_authoritys_key_is_nowhere(certificates: Certificates) -> None:
    folder = certificates.authority.parent
    assert sorted(path.name for path in folder.iterdir()) == ["ca.crt", "server.crt", "server.key"]


def test_a_node_key_is_what_flower_asks_for(tmp_path: Path) -> None:
    public = make_node_key(tmp_path / "node.key")
    key = load_ssh_private_key((tmp_path / "node.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp384r1"
    assert public.read_bytes().startswith(b"ecdsa-sha2-nistp384 ")


def test_the_command_line_makes_them_for_its_hosts_and_for_loopback(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fl.runtimes.certificates", str(tmp_path / "tls"), "superlink.example.org"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "ca.crt is for everybody" in said
    files = Certificates(*(tmp_path / "tls" / name for name in ("ca.crt", "server.crt", "server.key")))
    for host in ("superlink.example.org", "localhost", "127.0.0.1"):
        shake_hands(files, files.authority, host)
