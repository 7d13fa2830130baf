"""Sets of public keys, read strictly: of one family, long enough, each name once.

All that reading keys and checking signatures takes is imported here and nowhere above: a worker that meets no token of
an issuer does without it (`gateway.security.tokens.prepared`).
"""

from __future__ import annotations

import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from gateway.security.jwks import KID, JwksError, KeySet, VerifyingKey
from policies.tokens import ALGORITHMS, Family

_MAX_KEYS = 100
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}


def read_key_set(document: bytes | str, family: Family) -> KeySet:
    """The usable keys of a JWK set: of the family, public, long enough, named once. Raises JwksError for no set."""
    try:
        found = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise JwksError("it is no JSON") from error
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list) or len(listed) > _MAX_KEYS:
        raise JwksError(f"it is no JWK set of up to {_MAX_KEYS} keys")
    usable: dict[str, VerifyingKey] = {}
    twice: set[str] = set()
    for each in listed:
        read = _read_key(each, family) if isinstance(each, dict) else None
        if read is None:
            continue
        kid, key = read
        if kid in usable:
            twice.add(kid)
        usable[kid] = key
    # Of two keys with one name nobody can say which is meant.
    return {kid: key for kid, key in usable.items() if kid not in twice}


def key_set_of_pem(pem: str) -> dict[str, Any]:
    """A JWK set of one public key in PEM; raises JwksError for anything else, a private key above all."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, TypeError, UnicodeEncodeError) as error:
        raise JwksError("it is no public key in PEM (BEGIN PUBLIC KEY)") from error
    except Exception as error:
        # What the library says of a key of an unknown kind.
        raise JwksError("it is a key of a kind that is not taken") from error
    if isinstance(key, RSAPublicKey):
        return {"keys": [RSAAlgorithm.to_jwk(key, as_dict=True)]}
    if isinstance(key, EllipticCurvePublicKey):
        return {"keys": [ECAlgorithm.to_jwk(key, as_dict=True)]}
    if isinstance(key, Ed25519PublicKey):
        return {"keys": [OKPAlgorithm.to_jwk(key, as_dict=True)]}
    raise JwksError("it is a key of a kind that is not taken")


def _read_key(jwk: dict[str, Any], family: Family) -> tuple[str, VerifyingKey] | None:
    kid = jwk.get("kid")
    if kid is not None and (not isinstance(kid, str) or KID.fullmatch(kid) is None):
        return None
    operations = jwk.get("key_ops")
    if jwk.get("use") not in (None, "sig") or (isinstance(operations, list) and "verify" not in operations):
        return None
    # A private key that was published is nobody's secret any more; a symmetric one never was.
    if "d" in jwk or "k" in jwk:
        return None
    algorithms = _algorithms(jwk, family)
    if not algorithms:
        return None
    try:
        key: Any = jwt.PyJWK.from_dict(jwk, algorithm=min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if isinstance(key, RSAPublicKey) and not (
        2048 <= key.key_size <= 8192 and 3 <= key.public_numbers().e < 1 << 32
    ):
        return None
    return kid or "", VerifyingKey(algorithms, key)


def _algorithms(jwk: dict[str, Any], family: Family) -> frozenset[str]:
    """What the key may verify within its family: its own `alg`, and for a curve the one that is made for it."""
    match family, jwk.get("kty"), jwk.get("crv"):
        case Family.RS, "RSA", _:
            fitting = ALGORITHMS[family]
        case Family.ES, "EC", curve if curve in _CURVES:
            fitting = frozenset({_CURVES[curve]})
        case Family.EDDSA, "OKP", "Ed25519":
            fitting = ALGORITHMS[family]
        case _:
            return frozenset()
    stated = jwk.get("alg")
    if stated is None or (family is Family.EDDSA and stated == "Ed25519"):
        return fitting
    return fitting & {stated} if isinstance(stated, str) else frozenset()
