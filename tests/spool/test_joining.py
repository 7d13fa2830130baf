"""What a request's records add up to, ended by its worker or by the drainer."""

from __future__ import annotations

import json

import msgspec
import pytest

from gateway.spool.books import Place
from gateway.spool.joining import Entry, settled
from gateway.spool.orphans import interrupted
from gateway.spool.records import Attempt, Charge, Intent, Priced, Progress
from tests.spool.making import attempt, intent, progress, settlement

WORKER = b"w" * 16


def entry(begun: Intent, *between: Attempt | Progress) -> Entry:
    made = Entry(begun, Place(1, 60))
    for each in between:
        made.take(each)
    return made


def test_an_ordinary_request_is_one_row_and_one_attempt() -> None:
    begun = intent(tags={"team": "search"}, end_user="u-7", client_request_id="mine")
    posting = settled(entry(begun), settlement(begun), WORKER)
    row = posting.request
    assert (row.status, row.http_status, row.attempts, row.cost_nano_usd) == ("ok", 200, 1, 207)
    assert (posting.prompt_tokens, posting.completion_tokens, row.usage_source) == (100, 50, "reported")
    assert json.loads(row.tags or "") == {"team": "search"}
    assert json.loads(row.charges) == [
        {"limit": "lim_1", "subject": "u_1", "metric": "total_tokens", "reserved": 120 + 256, "actual": 150},
        {
            "limit": "bud_1",
            "subject": "u_1",
            "metric": "money",
            "reserved": 500 + 2 * 256,
            "actual": 207,
            "period_ms": begun.admitted_at_ms,
        },
    ]
    assert [each.borne for each in posting.attempts] == [True]


def test_a_fallback_is_one_request_and_the_sum_of_its_attempts() -> None:
    begun = intent()
    failed = attempt(
        begun, 1, outcome="error", fresh_input=100, output=3, usage_source="counted", cost_nano_usd=113
    )
    left_out = attempt(
        begun, 2, outcome="excluded", fresh_input=0, output=0, usage_source="none", cost_nano_usd=0
    )
    last = attempt(
        begun, 3, entity_id="se_2", entity_name="other-model", price_id="price_2", cost_nano_usd=2_000
    )
    posting = settled(entry(begun, failed, left_out), settlement(begun, last), WORKER)
    row = posting.request
    assert (row.attempts, row.cost_nano_usd, row.output, row.usage_source) == (2, 2_113, 53, "counted")
    assert (row.entity_id, row.price_id) == ("se_2", "price_2")
    assert [each.attempt for each in posting.attempts] == [1, 2, 3]
    assert row.cost_nano_usd == sum(each.cost_nano_usd for each in posting.attempts if each.borne)


def test_an_attempt_cut_by_a_failure_of_ours_is_not_borne_by_the_caller() -> None:
    begun = intent()
    cut = attempt(begun, 1, outcome="interrupted", usage_source="estimated", cost_nano_usd=99)
    posting = settled(entry(begun, cut), settlement(begun, attempt(begun, 2)), WORKER)
    assert [(each.attempt, each.borne) for each in posting.attempts] == [(1, False), (2, True)]
    assert (posting.request.cost_nano_usd, posting.request.usage_source) == (207, "reported")


def test_a_request_refused_after_its_admission_costs_nothing() -> None:
    begun = intent()
    end = settlement(begun, status="error", http_status=400, error_code="blocked")
    posting = settled(
        entry(begun),
        type(end)(**{**{f: getattr(end, f) for f in end.__struct_fields__}, "last": None}),
        WORKER,
    )
    assert posting.attempts == []
    assert (posting.request.cost_nano_usd, posting.request.usage_source, posting.request.entity_id) == (
        0,
        "none",
        None,
    )


def test_top_ups_count_as_reserved() -> None:
    begun = intent(granted_output_tokens=256)
    more = [Charge("lim_1", "u_1", "total_tokens", "{wb}:w:lim_1:u_1", "r", 30, 256, 0, 60_000)]
    posting = settled(
        entry(begun, progress(begun, granted_output_tokens=512, charges=more)), settlement(begun), WORKER
    )
    assert json.loads(posting.request.charges)[0]["reserved"] == 120 + 512
    assert posting.request.granted_output_tokens == 512
    assert posting.charges == [*begun.charges, *more]


def test_texts_of_clients_cannot_keep_a_row_out_of_the_books() -> None:
    begun = intent(tags={"a\0": "b\0" * 3}, end_user="x\0y", client_request_id="z" * 5_000)
    row = settled(entry(begun), settlement(begun, finish_reason="a\0"), WORKER).request
    assert "\0" not in f"{row.end_user}{row.finish_reason}"
    assert "u0000" not in (row.tags or "")
    assert len(row.client_request_id or "") == 1_024


def test_an_orphan_without_a_byte_from_upstream_is_one_row_charged_nothing() -> None:
    begun = intent()
    for known in (
        entry(begun),
        entry(begun, progress(begun, first_byte=False, prompt_tokens=0, completion_tokens=0)),
    ):
        posting = interrupted(known, WORKER)
        row = posting.request
        assert (row.status, row.cost_nano_usd, row.usage_source, row.http_status) == (
            "interrupted",
            0,
            "none",
            None,
        )
        assert (posting.prompt_tokens, posting.completion_tokens) == (0, 0)
        assert all(each.cost_nano_usd == 0 for each in posting.attempts)


def test_an_orphan_is_charged_for_what_its_last_checkpoint_knew() -> None:
    begun = intent()
    known = entry(
        begun,
        progress(begun, completion_tokens=1),
        progress(begun, completion_tokens=128, cache_read_tokens=40),
    )
    posting = interrupted(known, WORKER)
    row = posting.request
    assert (row.status, row.usage_source, row.stopped_by) == ("interrupted", "estimated", None)
    assert (row.fresh_input, row.cache_read, row.output) == (60, 40, 128)
    assert row.cost_nano_usd == 60 + 20 + 256 + 7
    assert [(each.outcome, each.borne, each.price_id) for each in posting.attempts] == [
        ("interrupted", True, "price_1")
    ]


def test_an_orphan_is_charged_for_the_engines_time_as_far_as_it_is_known() -> None:
    by_time = Priced("se_1", "mixtral-demo", "price_3", 0, 0, 0, 0, 0, 0, 694_444)
    begun = intent(prices=[by_time])
    first = progress(begun, completion_tokens=1, at_ms=begun.admitted_at_ms + 20)
    later = progress(begun, completion_tokens=90, at_ms=begun.admitted_at_ms + 1520)
    posting = interrupted(entry(begun, first, later), WORKER)
    assert posting.attempts[0].duration_us == 1_500_000
    assert posting.request.cost_nano_usd == 1_041_666


def test_prices_of_segments_that_knew_no_engine_time_are_still_read() -> None:
    old = msgspec.msgpack.encode(["e", "n", "p", 1, 2, 3, 4, 5, 6])
    assert msgspec.msgpack.decode(old, type=Priced) == Priced("e", "n", "p", 1, 2, 3, 4, 5, 6, 0)


def test_an_orphan_whose_upstream_told_no_prompt_is_charged_the_estimate() -> None:
    begun = intent()
    posting = interrupted(entry(begun, progress(begun, prompt_tokens=0, completion_tokens=10)), WORKER)
    assert (posting.prompt_tokens, posting.completion_tokens) == (120, 10)


@pytest.mark.parametrize("first_byte", [False, True])
def test_an_orphan_keeps_the_attempts_that_had_ended(*, first_byte: bool) -> None:
    begun = intent()
    failed = attempt(begun, 1, outcome="error", output=3, cost_nano_usd=113, usage_source="counted")
    under_way = progress(
        begun, 2, entity_id="se_2", first_byte=first_byte, prompt_tokens=100, completion_tokens=10
    )
    posting = interrupted(entry(begun, failed, under_way), WORKER)
    assert [each.outcome for each in posting.attempts] == ["error", "interrupted"]
    assert posting.request.cost_nano_usd == 113 + (1_000 + 200 if first_byte else 0)
    assert posting.request.entity_id == "se_2"
