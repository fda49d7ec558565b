"""A certificate authority of this installation's own, and leaf certificates made by it.

Two places end TLS for provider names on this machine: egress (what a sandbox is shown) and the
simulator. A self-signed leaf is not accepted by the CLIs; an authority and leaves are. The keys
are made on the machine, kept with mode 0600, and trusted only inside sandboxes or by egress when
`egress.upstream_ca` says so.
"""

import datetime as dt
import ipaddress
import os
import ssl
import tempfile
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFETIME = dt.timedelta(days=3650)
_LEAF_LIFETIME = dt.timedelta(days=30)


class Authority:
    """Makes leaf certificates; knows its own PEM."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())

    @classmethod
    def create(cls, name: str) -> "Authority":
        return cls._generate(name)[0]

    @classmethod
    def _generate(cls, name: str) -> "tuple[Authority, ec.EllipticCurvePrivateKey]":
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + _LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate), key

    @classmethod
    def load_or_create(cls, directory: Path, name: str) -> "Authority":
        """The authority kept in `directory` (`ca.pem`, `ca.key`), made there the first time."""
        certificate_path, key_path = directory / "ca.pem", directory / "ca.key"
        if certificate_path.exists() and key_path.exists():
            key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError(f"{key_path} holds a key of another kind")
            return cls(key, x509.load_pem_x509_certificate(certificate_path.read_bytes()))
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority, key = cls._generate(name)
        _write_private(key_path, _key_pem(key))
        _write_private(certificate_path, authority.pem())
        return authority

    def pem(self) -> bytes:
        """The authority's certificate, to be trusted by those who shall believe its leaves."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    def server_context(self, *hosts: str) -> ssl.SSLContext:
        """A TLS server context with a fresh leaf for `hosts`; HTTP/1.1 only."""
        now = dt.datetime.now(dt.UTC)
        leaf = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])]))
            .issuer_name(self._certificate.subject)
            .public_key(self._leaf_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + _LEAF_LIFETIME)
            .add_extension(
                x509.SubjectAlternativeName([_name_of(host) for host in hosts]),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        # The ssl module takes certificates only from files.
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(leaf.public_bytes(serialization.Encoding.PEM) + _key_pem(self._leaf_key))
            file.flush()
            context.load_cert_chain(file.name)
        return context


def _name_of(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write_private(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
