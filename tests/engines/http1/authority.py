"""A certificate authority of the tests' own: its file of trust, and servers' contexts good and bad."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)
HERE = ("localhost", "127.0.0.1")


def _named(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


@dataclass
class Authority:
    """Signs for an intermediate, which signs for servers; nobody knows it but for `trust`."""

    folder: Path
    root: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    between: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    def __post_init__(self) -> None:
        self.trust = self.folder / f"trust-{id(self)}.pem"
        self.trust.write_bytes(
            self._certificate("root", self.root, "root", self.root).public_bytes(Encoding.PEM)
        )

    def server(
        self, *, names: Sequence[str] = HERE, age: int = 1, days: int = 2, chain: bool = True
    ) -> ssl.SSLContext:
        """What a server needs that is called so; its certificate began `age` days ago and is good for `days`."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self._certificate("server", key, "between", self.between, names=names, age=age, days=days)
        between = self._certificate("between", self.between, "root", self.root)
        shown = [leaf, between] if chain else [leaf]
        file = self.folder / f"server-{id(key)}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(private + b"".join(each.public_bytes(Encoding.PEM) for each in shown))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context

    def _certificate(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        by: str,
        signer: ec.EllipticCurvePrivateKey,
        *,
        names: Sequence[str] = (),
        age: int = 1,
        days: int = 2,
    ) -> x509.Certificate:
        began = datetime.datetime.now(datetime.UTC) - age * DAY
        made = (
            x509.CertificateBuilder()
            .subject_name(_named(name))
            .issuer_name(_named(by))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(began)
            .not_valid_after(began + days * DAY)
            .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
        )
        if names:
            called = [
                x509.IPAddress(ipaddress.ip_address(each)) if each[0].isdecimal() else x509.DNSName(each)
                for each in names
            ]
            made = made.add_extension(x509.SubjectAlternativeName(called), critical=False)
        return made.sign(signer, SHA256())
