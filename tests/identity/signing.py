"""Keys of issuers for tests, and tokens signed with them, well and badly."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from policies.principal import PrincipalKind
from policies.tokens import Family, Issuer

ISSUER = "https://login.example.com/realm"
AUDIENCE = "weighbridge"


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def public_jwk(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    public = key.public_key()
    if isinstance(key, rsa.RSAPrivateKey):
        found = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        found = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        assert isinstance(key, ed25519.Ed25519PrivateKey)
        found = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {**found, **({} if kid is None else {"kid": kid}), **more}


def pem(key: Any) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def claims(**more: Any) -> dict[str, Any]:
    """What a good token says; a value of None leaves the claim out."""
    now = int(time.time())
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 300, **more}
    return {name: value for name, value in said.items() if value is not None}


def encoded(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def raw(header: Any, payload: Any, signature: bytes = b"x") -> str:
    """A token of exactly these parts; text is taken as it is."""
    parts = [each if isinstance(each, str) else json.dumps(each) for each in (header, payload)]
    return ".".join([*(encoded(each.encode()) for each in parts), encoded(signature)])


@dataclass
class Signer:
    """An issuer's key."""

    key: Any = field(default_factory=rsa_key)
    kid: str | None = "first"
    algorithm: str = "RS256"

    def sign(self, said: dict[str, Any] | None = None, **headers: Any) -> str:
        merged = {"kid": self.kid, **headers}
        merged = {name: value for name, value in merged.items() if value is not None}
        return jwt.encode(
            claims() if said is None else said, self.key, merged.pop("alg", self.algorithm), headers=merged
        )

    def sign_raw(self, header: str, payload: str) -> str:
        """A token of these very texts under a signature that holds."""
        parts = f"{encoded(header.encode())}.{encoded(payload.encode())}"
        algorithm = jwt.get_algorithm_by_name(self.algorithm)
        return f"{parts}.{encoded(algorithm.sign(parts.encode(), algorithm.prepare_key(self.key)))}"

    @property
    def jwks(self) -> dict[str, Any]:
        return {"keys": [public_jwk(self.key, self.kid)]}

    @property
    def document(self) -> bytes:
        return json.dumps(self.jwks).encode()


def an_issuer(**more: Any) -> Issuer:
    """A configured issuer as policies see it."""
    values: dict[str, Any] = {
        "id": "00000000-0000-7000-8000-000000000001",
        "name": "login",
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "family": Family.RS,
        "kind": PrincipalKind.USER,
        **more,
    }
    return Issuer(**values)
