"""Change whose tokens are taken: issuers with their keys, sealed where they are secret.

An issuer's `iss` and kind of signatures stay as they were made: another one is another issuer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gateway.errors import BadRequest
from gateway.security.jwks import JwksError
from gateway.security.key_sets import key_set_of_pem, read_key_set
from gateway.security.sealing import Sealing
from gateway.security.tokens import shared_secret_problem
from gateway.store.changes import Change
from gateway.store.reading import Row
from gateway.store.tables.identity import issuers
from policies.tokens import Family, address_problem

KIND = "issuer"
_SOURCES = ("jwks_uri", "public_keys", "public_key_pem", "secret")


async def create_issuer(change: Change, sealing: Sealing, values: Mapping[str, Any]) -> Row:
    """Take tokens of an issuer from now on."""
    wanted = {"id": change.new_id(), **values}
    if sum(wanted.get(name) is not None for name in _SOURCES) != 1:
        raise BadRequest(
            "An issuer takes exactly one of jwks_uri, public_keys, public_key_pem and (for HS) secret.",
            param="jwks_uri",
        )
    return await change.add(issuers, KIND, _stored(wanted, wanted, sealing))


async def update_issuer(change: Change, sealing: Sealing, before: Row, values: Mapping[str, Any]) -> Row:
    """Change an issuer; a new source of keys replaces the old one."""
    wanted = dict(values)
    given = [name for name in _SOURCES if wanted.get(name) is not None]
    if len(given) > 1:
        raise BadRequest(
            f"Give one of {' and '.join(given)}: an issuer's keys have one source.", param=given[1]
        )
    if not given and any(name in wanted for name in _SOURCES):
        raise BadRequest("An issuer cannot be without keys; give another source of them.", param="jwks_uri")
    for name in _SOURCES:
        wanted.pop(name, None)
    if given:
        wanted |= {"jwks_uri": None, "public_keys": None, "secret": None, given[0]: values[given[0]]}
    return await change.revise(issuers, KIND, before, **_stored(wanted, {**before, **wanted}, sealing))


async def delete_issuer(change: Change, before: Row) -> None:
    """Take its tokens no more; the principals that it knows stay, and so do their keys."""
    await change.remove(issuers, KIND, before)


def _stored(values: Mapping[str, Any], whole: Mapping[str, Any], sealing: Sealing) -> dict[str, Any]:
    """The values as the table holds them; raises BadRequest for keys that cannot be used."""
    stored = dict(values)
    family = Family(whole["family"])
    pem = stored.pop("public_key_pem", None)
    if pem is not None:
        try:
            stored["public_keys"] = key_set_of_pem(pem)
        except JwksError as error:
            raise BadRequest(f"public_key_pem: {error}.", param="public_key_pem") from error
    if stored.get("public_keys") is not None:
        _require_usable(stored["public_keys"], family, "public_keys" if pem is None else "public_key_pem")
    if whole.get("jwks_uri") is not None:
        problem = address_problem(whole["jwks_uri"], loopback=whole["allow_loopback_http"])
        if problem is not None:
            raise BadRequest(f"jwks_uri: {problem}.", param="jwks_uri")
    if "secret" in stored:
        secret = stored.pop("secret")
        stored["secret_sealed"] = None
        if secret is not None:
            if family is not Family.HS:
                raise BadRequest("Only issuers of the family HS have a secret.", param="secret")
            problem = shared_secret_problem(secret)
            if problem is not None:
                raise BadRequest(f"secret: {problem}.", param="secret")
            stored["secret_sealed"] = sealing.seal(secret.encode(), str(whole["id"]))
    if family is Family.HS and (whole.get("jwks_uri") or stored.get("public_keys")):
        raise BadRequest("An issuer of the family HS has a secret and no public keys.", param="family")
    return stored


def _require_usable(keys: Mapping[str, Any], family: Family, param: str) -> None:
    try:
        usable = read_key_set(json.dumps(keys), family)
    except JwksError as error:
        raise BadRequest(f"{param}: {error}.", param=param) from error
    if not usable:
        raise BadRequest(
            f"{param} holds no usable key of the family {family.value}: public, named once, RSA of 2048 bits or more.",
            param=param,
        )
