"""How a call to a provider is paid for: in which header, signed for where and as whom."""

from __future__ import annotations

import json

import pytest

from engines.access import InHeader, NoCredential, Signed
from engines.errors import ConnectFailed

IDENTITY, KEY, TOKEN = "AKIA0123456789ABCDEF", "k" * 40, "session+token/of=one"
OWN = "https://bedrock-runtime.eu-west-3.amazonaws.com"


def signed(address: str, region: str | None, secret: str = f"{IDENTITY}:{KEY}") -> dict[str, str]:
    return dict(Signed(address, region).headers(secret, "/model/m/converse", b"{}"))


@pytest.mark.parametrize(
    ("address", "region", "signed_for"),
    [
        (OWN, None, "eu-west-3"),
        # What the entity says goes before what its address looks like.
        (OWN, "eu-central-1", "eu-central-1"),
        ("https://bedrock-runtime-fips.us-west-2.amazonaws.com", None, "us-west-2"),
        ("https://proxy.example.com", "ap-south-1", "ap-south-1"),
        ("https://proxy.example.com", None, "us-east-1"),
    ],
)
def test_a_call_is_signed_for_the_region_that_it_goes_to(
    address: str, region: str | None, signed_for: str
) -> None:
    told = signed(address, region)["authorization"]
    assert f"Credential={IDENTITY}/" in told
    assert f"/{signed_for}/bedrock/aws4_request, " in told


@pytest.mark.parametrize(
    "secret",
    [
        f"{IDENTITY}:{KEY}:{TOKEN}",
        json.dumps({"AccessKeyId": IDENTITY, "SecretAccessKey": KEY, "SessionToken": TOKEN}),
    ],
)
def test_a_sessions_token_goes_along_and_is_signed(secret: str) -> None:
    told = signed(OWN, None, secret)
    assert told["x-amz-security-token"] == TOKEN
    assert "x-amz-security-token" in told["authorization"].partition("SignedHeaders=")[2].partition(",")[0]
    plain = signed(OWN, None)
    assert "x-amz-security-token" not in plain


def test_a_key_of_bedrocks_own_is_told_as_it_is_and_half_a_pair_is_none() -> None:
    assert signed(OWN, None, "bedrock-api-key") == {"authorization": "Bearer bedrock-api-key"}
    with pytest.raises(NoCredential):
        signed(OWN, None, json.dumps({"AccessKeyId": IDENTITY}))


def test_a_header_takes_a_credential_bare_or_as_a_bearer_and_no_second_line() -> None:
    assert InHeader("bearer").headers("key", "/", b"") == {"authorization": "Bearer key"}
    assert InHeader("api-key").headers("key", "/", b"") == {"api-key": "key"}
    with pytest.raises(ConnectFailed):
        InHeader("api-key").headers("key\r\nx: y", "/", b"")
