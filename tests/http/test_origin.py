"""Where a request came from: only trusted proxies are believed, and only what they wrote themselves."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from gateway.http.origin import Origins
from gateway.settings import Settings, SettingsError

TRUSTED = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


def scope(peer: str | None, *forwarded: str) -> Any:
    headers = [(b"x-forwarded-for", each.encode()) for each in forwarded]
    return {"client": None if peer is None else (peer, 1), "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("192.0.2.7", [], "192.0.2.7"),
        ("192.0.2.7", ["198.51.100.1"], "192.0.2.7"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("fd00::1", ["2001:db8::5"], "2001:db8::5"),
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.1", ["198.51.100.1, what"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        (None, ["198.51.100.1"], None),
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_is(
    peer: str | None, forwarded: list[str], found: str | None
) -> None:
    assert Origins(TRUSTED).of(scope(peer, *forwarded)) == found


def test_nobody_is_believed_unless_the_operator_says_so() -> None:
    assert Origins().of(scope("10.0.0.1", "198.51.100.1")) == "10.0.0.1"


def test_proxies_are_read_from_the_environment_and_handed_on() -> None:
    settings = Settings.from_env({"WEIGHBRIDGE_TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8"})
    assert settings.trusted_proxies == TRUSTED
    assert Settings.from_env(settings.to_env()).trusted_proxies == TRUSTED
    with pytest.raises(SettingsError, match="TRUSTED_PROXIES"):
        Settings.from_env({"WEIGHBRIDGE_TRUSTED_PROXIES": "10.0.0.1/8"})
