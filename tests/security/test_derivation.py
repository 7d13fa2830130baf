"""Derived keys are HKDF's, as another implementation makes them: what was sealed or peppered before stays readable."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from gateway.security.derivation import derived


@given(key=st.binary(max_size=200), salt=st.binary(max_size=100), purpose=st.binary(max_size=100))
def test_a_derived_key_is_the_librarys(key: bytes, salt: bytes, purpose: bytes) -> None:
    assert derived(key, salt, purpose) == HKDF(SHA256(), 32, salt, purpose).derive(key)


def test_a_derived_key_is_the_standards_first_test_case() -> None:
    """RFC 5869, A.1: the first 32 of its 42 bytes."""
    made = derived(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)))
    assert made.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
