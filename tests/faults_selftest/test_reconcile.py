"""The reconciler by planted defects: each is named, and books that balance are left alone."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.faults.journal import OracleRecord
from tests.faults.reconcile import reconcile, report
from tests.faults.transcript import How, Transcript

ID = str(uuid.UUID(int=0x0190A0A000007000800000000000BEEF))


def row(status: str = "ok", completion: int = 10, prompt: int = 5, request_id: str = ID) -> dict[str, Any]:
    tokens = {"prompt_tokens": prompt, "completion_tokens": completion}
    return {"request_id": request_id, "status": status, "usage_source": "reported", **tokens}


def oracle(
    emitted: int = 10, ended: str = "complete", request_id: str = ID, prompt: int = 5, stream: bool = True
) -> OracleRecord:
    return OracleRecord(
        seq=1, path="/v1/chat/completions", started_at=0.0, request_id=request_id, prompt_tokens=prompt,
        stream=stream, emitted=emitted, status=200, ended=ended,
    )  # fmt: skip


def client(
    delivered: int = 10, how: How = "complete", status: int = 200, told: int | None = None
) -> Transcript:
    return Transcript(
        call=1, kind="stream", request_id=ID, status=status, how=how, acknowledged=True, delivered=delivered,
        usage_completion=told,
    )  # fmt: skip


def kinds(rows: list[dict[str, Any]], records: list[OracleRecord], seen: list[Transcript]) -> list[str]:
    return [discrepancy.kind for discrepancy in reconcile(rows, records, seen)]


@pytest.mark.parametrize(
    ("rows", "records", "seen"),
    [
        ([row()], [oracle()], [client(told=10)]),
        ([row(request_id=ID.replace("-", ""))], [oracle()], [client()]),
        ([row("cut", 40)], [oracle(90, "peer_closed")], [client(30, "left")]),
        ([row("interrupted", 0, 0)], [oracle(3, "peer_closed")], []),
        ([row("interrupted", 0, 0)], [oracle(300, "peer_closed", stream=False)], []),
        ([row("error", 0, 0)], [], [client(0, "refused", 502)]),
        ([row()], [oracle(0, "refused"), oracle()], [client()]),
        ([], [], [client(0, "refused", 429)]),
        ([], [], []),
    ],
)
def test_books_that_balance_are_left_alone(
    rows: list[dict[str, Any]], records: list[OracleRecord], seen: list[Transcript]
) -> None:
    assert kinds(rows, records, seen) == []


def test_a_missing_row_is_named_by_either_witness() -> None:
    assert kinds([], [oracle()], [client()]) == ["missing_row"]
    assert kinds([], [], [client()]) == ["missing_row"]
    assert kinds([], [oracle()], []) == ["missing_row"]


def test_a_doubled_row_is_named() -> None:
    assert kinds([row(), row()], [oracle()], [client()]) == ["doubled_row"]


def test_a_row_that_nobody_saw_is_named() -> None:
    assert kinds([row()], [], []) == ["unexplained_row"]


@pytest.mark.parametrize("completion", [9, 11, 0, 20])
def test_wrong_tokens_of_a_complete_call_are_named(completion: int) -> None:
    assert "wrong_completion_tokens" in kinds([row(completion=completion)], [oracle()], [client()])


def test_wrong_prompt_tokens_are_named() -> None:
    assert kinds([row(prompt=6)], [oracle()], [client()]) == ["wrong_prompt_tokens"]
    assert kinds([row("cut", prompt=6)], [oracle(10, "reset")], []) == ["wrong_prompt_tokens"]


def test_tokens_of_a_cut_call_stay_between_delivered_and_emitted() -> None:
    assert kinds([row("cut", 29)], [oracle(90, "peer_closed")], [client(30, "left")]) == ["below_delivered"]
    assert kinds([row("cut", 91)], [oracle(90, "peer_closed")], [client(30, "left")]) == ["above_emitted"]
    assert kinds([row("cut", 35)], [oracle(100, "peer_closed")], [client(30, "left")]) == ["far_from_emitted"]


def test_a_client_that_was_told_other_tokens_is_named() -> None:
    assert kinds([row()], [oracle()], [client(told=12)]) == ["differs_from_client"]


def test_a_status_that_contradicts_both_witnesses_is_named() -> None:
    assert kinds([row()], [oracle(10, "peer_closed")], [client(how="left")]) == ["ok_but_not_complete"]
    assert kinds([row("cut")], [oracle()], [client()]) == ["complete_but_not_ok"]


def test_a_report_counts_the_kinds_and_shows_the_first() -> None:
    text = report(reconcile([row(), row()], [oracle(3)], [client()]))
    assert text.splitlines()[0] == "doubled_row 1, wrong_completion_tokens 2"
    assert ID in text
    assert report([]) == "the books balance"


def test_a_client_that_left_before_it_had_an_id_explains_one_empty_row_and_no_more() -> None:
    gone = Transcript(call=2, kind="plain", how="left")
    other = str(uuid.UUID(int=7))
    empty = row("cut", 0, 0)
    assert kinds([empty], [], [gone]) == []
    assert kinds([empty, row("cut", 0, 0, other)], [], [gone]) == ["unexplained_row"]
    assert kinds([row("cut", 3, 0)], [], [gone]) == ["unexplained_row"]
    # The upstream's nameless call is this client's already.
    assert kinds([empty, row("cut", 0, 0, other)], [oracle(0, "peer_closed", other)], [gone]) == [
        "unexplained_row"
    ]
