"""Tokens of a real OIDC provider that this project did not write, from the sign-in page to the caller."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest

# The provider uses a module that its own library is about to rename.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

CLIENT = "weighbridge-console"
REDIRECT = "http://127.0.0.1:1/callback"


@dataclass
class Provider:
    """The provider, as a user's browser meets it."""

    url: str

    def describe(self) -> dict[str, Any]:
        return httpx.get(f"{self.url}/.well-known/openid-configuration").json()

    def user(self, subject: str, **said: Any) -> None:
        httpx.put(f"{self.url}/users/{subject}", json=said).raise_for_status()

    def sign_in(self, subject: str, client: str = CLIENT) -> str:
        """The ID token that the code flow ends with."""
        asked = {
            "client_id": client, "redirect_uri": REDIRECT, "response_type": "code", "scope": "openid profile email",
            "state": "s", "nonce": str(time.time_ns()),
        }  # fmt: skip
        page = httpx.post(f"{self.url}/oauth2/authorize?{urlencode(asked)}", data={"sub": subject})
        code = parse_qs(urlsplit(page.headers["location"]).query)["code"][0]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT}
        answer = httpx.post(f"{self.url}/oauth2/token", data=form, auth=(client, "any"))
        answer.raise_for_status()
        return answer.json()["id_token"]


@pytest.fixture
def provider() -> Iterator[Provider]:
    import oidc_provider_mock

    with oidc_provider_mock.run_server_in_thread() as server:
        yield Provider(f"http://localhost:{server.server_port}")


async def configured(deployment: Any, provider: Provider, **more: Any) -> Any:
    described = provider.describe()
    wanted = {
        "name": "provider", "issuer": described["issuer"], "audience": CLIENT, "jwks_uri": described["jwks_uri"],
        "allow_loopback_http": True, "name_claim": "email", "groups_claim": "groups", "create_principals": True, **more,
    }  # fmt: skip
    return await deployment.made("/admin/v1/issuers", wanted)


async def me(deployment: Any, token: str) -> httpx.Response:
    return await deployment.client.get("/admin/v1/me", headers={"authorization": f"Bearer {token}"})


async def test_a_user_who_signs_in_is_known_with_the_groups_that_are_claimed(
    deployment: Any, provider: Provider
) -> None:
    issuer = await configured(deployment, provider)
    await deployment.made("/admin/v1/groups", {"name": "analysts"})
    provider.user("u1", email="ada@example.com", groups=["analysts", "elsewhere"])
    token = provider.sign_in("u1")
    who = (await me(deployment, token)).json()
    assert (who["kind"], who["name"], who["groups"]) == ("user", "ada@example.com", ["analysts"])
    assert (await me(deployment, provider.sign_in("u1"))).json()["id"] == who["id"]
    user = (await deployment.ask("GET", f"/admin/v1/users/{who['id']}")).json()
    assert (user["issuer"], user["subject"]) == (issuer["issuer"], "u1")
    # A token for another client of the same provider is another's.
    assert (await me(deployment, provider.sign_in("u1", "another-client"))).status_code == 401
    await deployment.changed(
        "PATCH", f"/admin/v1/users/{who['id']}", {"tokens_not_before": "2099-01-01T00:00:00Z"}
    )
    assert (await me(deployment, token)).status_code == 401
    await deployment.changed("PATCH", f"/admin/v1/users/{who['id']}", {"tokens_not_before": None})
    assert (await me(deployment, token)).status_code == 200
    await deployment.changed("PATCH", f"/admin/v1/users/{who['id']}", {"active": False})
    assert (await me(deployment, token)).status_code == 401
    assert (await me(deployment, provider.sign_in("u1"))).status_code == 401


async def test_the_same_tokens_mean_nothing_until_the_issuer_is_configured(
    deployment: Any, provider: Provider
) -> None:
    provider.user("u2", email="grace@example.com")
    token = provider.sign_in("u2")
    assert (await me(deployment, token)).status_code == 401
    await configured(deployment, provider, name="later")
    assert (await me(deployment, token)).status_code == 200


async def test_a_secret_is_written_and_never_read(deployment: Any) -> None:
    secret = "a shared secret of more than 32 bytes, 0123456789"
    wanted = {
        "name": "hs",
        "issuer": "https://hs.example.com",
        "audience": "w",
        "family": "HS",
        "secret": secret,
    }
    made = await deployment.made("/admin/v1/issuers", wanted)
    assert made["has_secret"] is True
    path = f"/admin/v1/issuers/{made['id']}"
    changed = await deployment.changed("PATCH", path, {"secret": secret[::-1], "audience": "v"})
    assert changed.status_code == 200
    shown = [
        json.dumps(made),
        changed.text,
        (await deployment.ask("GET", path)).text,
        (await deployment.ask("GET", "/admin/v1/issuers?limit=200")).text,
        (await deployment.ask("GET", f"/admin/v1/audit?object_id={made['id']}")).text,
    ]
    assert all(secret not in each and secret[::-1] not in each and "sealed" not in each for each in shown)
    assert (await deployment.ask("PATCH", path, json={"audience": "u"})).status_code == 428
    assert (await deployment.ask("PATCH", path, json={"audience": "u"}, if_match='"0"')).status_code == 412
    assert (await deployment.changed("DELETE", path)).status_code == 204
    assert (await deployment.ask("GET", path)).status_code == 404


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"jwks_uri": "https://a.example.com/keys", "public_key_pem": "x"},
        {"jwks_uri": "http://a.example.com/keys"},
        {"jwks_uri": "http://127.0.0.1/keys"},
        {"jwks_uri": "https://user@a.example.com/keys"},
        {"public_keys": {"keys": []}},
        {"public_keys": {"keys": [{"kty": "oct", "k": "AAAA"}]}},
        {"public_key_pem": "-----BEGIN PUBLIC KEY-----"},
        {"secret": "0123456789abcdef0123456789abcdef"},
        {"family": "HS", "secret": "short"},
        {"family": "HS", "secret": "a" * 64},
        {"family": "HS", "jwks_uri": "https://a.example.com/keys"},
        {"family": "none", "jwks_uri": "https://a.example.com/keys"},
        {"family": "RS", "jwks_uri": "https://a.example.com/keys", "leeway_seconds": 31},
        {"jwks_uri": "https://a.example.com/keys", "max_age_seconds": 3601},
        {"jwks_uri": "https://a.example.com/keys", "algorithms": ["none"]},
        {"jwks_uri": "https://a.example.com/keys", "issuer": "urn:weighbridge:session"},
    ],
)
async def test_an_issuer_that_could_not_be_trusted_is_refused(deployment: Any, wrong: dict[str, Any]) -> None:
    wanted = {"name": "wrong", "issuer": "https://wrong.example.com", "audience": "weighbridge", **wrong}
    answer = await deployment.ask("POST", "/admin/v1/issuers", json=wanted)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]
