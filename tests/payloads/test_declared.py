"""A file says what is kept of an endpoint's calls."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.declarative.document import read
from gateway.declarative.making import _endpoint
from policies.declaration import CannotPlan
from policies.payloads import PayloadRules, payload_rules


def declared(payloads: dict[str, Any]) -> dict[str, Any]:
    model = {"name": "m", "kind": "local", "provider": "vllm", "model": "m"}
    (found,) = read({"endpoints": [{"name": "chat", "served_entities": [model], "payloads": payloads}]})
    return dict(found.spec)


def test_what_a_file_says_is_what_is_kept_and_other_features_stay() -> None:
    columns = _endpoint(
        declared({"enabled": True, "sampling_fraction": 0.25, "keep_days": 7}),
        {"ai_gateway": {"x": 1}, "payloads": {"max_bytes": 7}},
    )
    assert columns["settings"]["ai_gateway"] == {"x": 1}
    assert payload_rules(columns["settings"]["payloads"]) == PayloadRules(True, 0.25)
    assert columns["settings"]["payloads"]["keep_days"] == 7
    assert "payloads" not in columns
    assert "payloads" not in _endpoint(declared({}), {"payloads": {"enabled": True}})["settings"]


@pytest.mark.parametrize(
    "wrong", [{"sampling_fraction": 1.5}, {"max_bytes": -1}, {"keep_days": 0}, {"on": True}]
)
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(CannotPlan):
        declared(wrong)
