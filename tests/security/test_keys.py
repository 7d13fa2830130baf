"""API keys: what is made can be taken apart, what was not made cannot, and nothing tells which part was wrong."""

from __future__ import annotations

import base64
import hashlib
import statistics
import string
import time
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.security import keys
from gateway.security.keys import MintedKey, Peppers, digest, fingerprint, matches, mint, parse

PEPPERS = Peppers({1: b"a" * 32, 2: b"b" * 32})


def test_a_minted_key_has_its_shape_and_256_bits() -> None:
    key = mint(PEPPERS)
    prefix, environment, id_part, secret, checksum = key.text.split("_")
    assert (prefix, environment, len(id_part), len(secret), len(checksum)) == ("gk", "live", 12, 43, 6)
    assert parse(key.text) == id_part == key.id_part
    assert (len(key.digest), key.pepper_version) == (32, 2)
    with patch.object(keys.secrets, "randbits", return_value=2**256 - 1) as bits:
        assert len(mint(PEPPERS).text) == len(key.text)
    bits.assert_called_with(256)


def test_no_two_keys_are_alike_and_none_shows_its_secret() -> None:
    made = [mint(PEPPERS) for _ in range(500)]
    assert len({each.text for each in made}) == len({each.id_part for each in made}) == 500
    assert all(each.text.split("_")[3] not in repr(each) for each in made)
    assert "a" * 32 not in repr(PEPPERS)


@given(st.text(max_size=90))
def test_what_was_not_made_is_no_key(text: str) -> None:
    assert parse(text) is None


@given(st.integers(0, 71), st.sampled_from(string.ascii_letters + string.digits + "_-. \n"))
def test_a_changed_character_is_seen_before_the_database_is_asked(position: int, character: str) -> None:
    text = KEY.text
    changed = text[:position] + character + text[position + 1 :]
    assert parse(changed) is None or changed == text


@pytest.mark.parametrize(
    "text",
    ["", "gk_", "gk_live_", "sk-proj-abc", "Bearer x", "gk_live_" + "a" * 12 + "_" + "b" * 43 + "_000000"],
)
def test_a_malformed_key_is_none(text: str) -> None:
    assert parse(text) is None


def test_a_key_with_a_newline_behind_it_is_none() -> None:
    assert parse(KEY.text + "\n") is None


def test_only_the_whole_key_under_the_right_pepper_matches() -> None:
    other = mint(PEPPERS).text
    assert matches(KEY.text, KEY.digest, KEY.pepper_version, PEPPERS)
    assert not matches(other, KEY.digest, KEY.pepper_version, PEPPERS)
    assert not matches(KEY.text, KEY.digest, 1, PEPPERS)
    assert not matches(KEY.text, KEY.digest, 2, Peppers({1: b"a" * 32}))
    assert not matches(KEY.text, None, None, PEPPERS)
    assert not matches(KEY.text, bytes(32), 7, PEPPERS)


def test_the_digest_cannot_be_made_without_the_pepper() -> None:
    assert (
        digest(KEY.text, b"a" * 32)
        != digest(KEY.text, b"b" * 32)
        != hashlib.sha256(KEY.text.encode()).digest()
    )


def test_credentials_that_share_their_beginning_are_told_apart() -> None:
    beginning = base64.b64encode(b"x" * 300).decode()
    assert fingerprint(beginning + "a") != fingerprint(beginning + "b")
    assert len(fingerprint("\udc80")) == 32


def test_a_missing_key_costs_what_a_wrong_one_costs() -> None:
    def seconds(expected: bytes | None, version: int | None) -> float:
        began = time.perf_counter_ns()
        for _ in range(50):
            matches(KEY.text, expected, version, PEPPERS)
        return time.perf_counter_ns() - began

    samples: dict[str, list[float]] = {"missing": [], "wrong": [], "right": []}
    for _ in range(300):
        samples["missing"].append(seconds(None, None))
        samples["wrong"].append(seconds(bytes(32), 2))
        samples["right"].append(seconds(KEY.digest, 2))
    fastest = {name: statistics.quantiles(each, n=20)[0] for name, each in samples.items()}
    assert max(fastest.values()) < 1.25 * min(fastest.values())


KEY: MintedKey = mint(PEPPERS)
