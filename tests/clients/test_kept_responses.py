"""`previous_response_id` through the official client: found at once by every worker, by its principal alone, for as long as is said."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, cast

import openai
import pytest
import pytest_asyncio

from gateway.errors import NotFound, Unavailable
from gateway.http.openai.kept import BASES
from gateway.pipeline.turns import Owner, Turn
from gateway.security.sealing import Sealing
from gateway.store import database
from gateway.store.payloads import drop_old_turns
from gateway.store.turns import StoredTurns
from tests.faults.upstream import Upstream
from tests.system.deployment import ENDPOINT, Deployment, Person

pytestmark = pytest.mark.asyncio(loop_scope="module")
TOOL: Any = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
SECRET = "Ottokar's birthday"


@pytest.fixture(scope="module")
def workers() -> int:
    """A turn and the one that follows it meet different ones."""
    return 2


@pytest.fixture(scope="module")
def people() -> dict[str, Person]:
    return {"other": Person()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def keeping(gateway: Deployment) -> str:
    """The id of the endpoint, which keeps responses for a day."""
    (found,) = (await gateway.administer("GET", f"/endpoints?name={ENDPOINT}"))["items"]
    await kept_for(gateway, found["id"], 24)
    return found["id"]


async def kept_for(gateway: Deployment, endpoint_id: str, hours: int) -> None:
    await gateway.administer(
        "PATCH", f"/endpoints/{endpoint_id}", {"calling": {"keep_responses_hours": hours}}
    )


def client(gateway: Deployment, who: str = "demo") -> openai.AsyncOpenAI:
    """A client of its own connection, which any worker may take."""
    return openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key=gateway.keys[who], max_retries=0, timeout=30
    )


async def say(gateway: Deployment, said: Any, *, stream: bool = False, who: str = "demo", **more: Any) -> Any:
    """One turn on a fresh connection; the whole response."""
    async with client(gateway, who) as ours:
        if not stream:
            return await ours.responses.create(model=ENDPOINT, input=said, **more)
        events = [
            each
            async for each in await ours.responses.create(model=ENDPOINT, input=said, stream=True, **more)
        ]
        assert events[0].response.id == events[-1].response.id
        return events[-1].response


async def none_is_found(*attempts: Awaitable[Any]) -> None:
    """Each ends with 404. At once: an id as young as these is looked for as long as it might be on its way."""
    for ended in await asyncio.gather(*attempts, return_exceptions=True):
        assert isinstance(ended, openai.NotFoundError), ended


def sent(upstream: Upstream) -> list[tuple[str, Any]]:
    """What the engine was asked last: who said what."""
    body = json.loads(upstream.received[-1].body)
    return [(each["role"], each["content"]) for each in body["messages"]]


async def test_a_conversation_goes_on_at_once_whichever_worker_answers_plain_and_streamed(
    gateway: Deployment, upstream: Upstream, keeping: str
) -> None:
    said: list[tuple[str, Any]] = []
    previous: str | None = None
    for number in range(12):
        words = f"turn {number} [[tokens=2]]"
        answer = await say(gateway, words, stream=bool(number % 2), previous_response_id=previous)
        said.append(("user", words))
        assert sent(upstream) == said
        said.append(("assistant", "w1 w2"))
        assert (answer.previous_response_id, answer.store) == (previous, True)
        assert answer.usage.input_tokens > 0
        previous = answer.id
    # It can go on from any of its turns, and from one twice.
    branch = await say(gateway, "again [[tokens=2]]", previous_response_id=previous)
    other = await say(gateway, "otherwise [[tokens=2]]", previous_response_id=previous)
    assert sent(upstream) == [*said, ("user", "otherwise [[tokens=2]]")]
    assert branch.id != other.id
    # Instructions are of one turn only.
    await say(gateway, "more [[tokens=2]]", previous_response_id=other.id, instructions="Be brief.")
    assert sent(upstream)[0] == ("system", "Be brief.")
    assert SECRET.encode() not in upstream.received[-1].body


async def test_results_of_tools_follow_the_calls_that_were_kept(
    gateway: Deployment, upstream: Upstream, keeping: str
) -> None:
    called = await say(gateway, "[[tools=1]]", tools=[TOOL])
    (call,) = called.output
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "seen"}
    answer = await say(
        gateway,
        [result, {"role": "user", "content": "[[tokens=2]]"}],
        tools=[TOOL],
        previous_response_id=called.id,
    )
    assert answer.output_text == "w1 w2"
    messages = json.loads(upstream.received[-1].body)["messages"]
    assert [each["role"] for each in messages] == ["user", "assistant", "tool", "user"]
    assert messages[1]["tool_calls"][0]["id"] == messages[2]["tool_call_id"] == call.call_id


async def test_a_response_is_its_principals_alone(
    gateway: Deployment, upstream: Upstream, keeping: str
) -> None:
    mine = await say(gateway, f"{SECRET} [[tokens=2]]")
    before = len(upstream.records)
    async with client(gateway, "other") as theirs, client(gateway) as ours:
        await none_is_found(
            theirs.responses.retrieve(mine.id),
            theirs.responses.delete(mine.id),
            theirs.responses.input_items.list(mine.id),
            theirs.responses.create(model=ENDPOINT, input="?", previous_response_id=mine.id),
            ours.responses.create(model=ENDPOINT, input="?", previous_response_id="resp_1"),
            ours.responses.retrieve("resp_" + "0" * 32),
            ours.responses.retrieve("x' OR ''='"),
        )
        assert len(upstream.records) == before
        assert (await ours.responses.retrieve(mine.id)).output_text == "w1 w2"
    async with openai.AsyncOpenAI(
        base_url=f"{gateway.url}/v1", api_key=gateway.admin_key, max_retries=0
    ) as admin:
        with pytest.raises(openai.NotFoundError):
            await admin.responses.retrieve(mine.id)
    # What is in the table says nothing to those who read it.
    rows = await gateway.query("SELECT * FROM gateway.kept_responses")
    assert rows
    assert not any(SECRET.encode() in each["content_sealed"] for each in rows)


async def test_what_is_read_is_what_was_answered_and_what_is_deleted_is_gone(
    gateway: Deployment, keeping: str
) -> None:
    first = await say(gateway, "one [[tokens=2]]", stream=True, metadata={"team": "a"})
    second = await say(gateway, "two [[tokens=2]]", previous_response_id=first.id)
    async with client(gateway) as ours:
        assert (await ours.responses.retrieve(first.id)).to_dict() == first.to_dict()
        await ours.responses.delete(first.id)
        await none_is_found(
            ours.responses.retrieve(first.id),
            ours.responses.delete(first.id),
            ours.responses.create(model=ENDPOINT, input="?", previous_response_id=first.id),
        )
        # The one that follows is there, but nothing can follow it.
        assert (await ours.responses.retrieve(second.id)).output_text == "w1 w2"
        with pytest.raises(openai.NotFoundError) as caught:
            await ours.responses.create(model=ENDPOINT, input="?", previous_response_id=second.id)
        assert caught.value.code == "previous_response_not_found"
    found = await gateway.query(
        "SELECT count(*) AS n FROM gateway.kept_responses WHERE id = $1::uuid", first.id[5:]
    )
    assert found[0]["n"] == 0


@pytest.mark.parametrize("base", BASES)
async def test_a_response_is_listed_read_and_deleted_below_every_path_that_makes_one(
    gateway: Deployment, keeping: str, base: str
) -> None:
    async with openai.AsyncOpenAI(
        base_url=gateway.url + base, api_key=gateway.demo_key, max_retries=0, timeout=30
    ) as ours:
        asked: list[Any] = [
            {"role": "developer", "content": "Be exact."},
            {"role": "user", "content": [{"type": "input_text", "text": "[[tools=1]]"}]},
        ]
        first = await ours.responses.create(model=ENDPOINT, input=asked, tools=[TOOL])
        (call,) = first.output
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "seen"}
        second = await ours.responses.create(
            model=ENDPOINT,
            input=[result, {"role": "user", "content": "[[tokens=2]]"}],
            previous_response_id=first.id,
        )
        found = [each async for each in ours.responses.input_items.list(second.id, order="asc", limit=2)]
        assert [each.type for each in found] == [
            "message", "message", "function_call", "function_call_output", "message",
        ]  # fmt: skip
        assert [each.content[0].text for each in found if each.type == "message"] == [
            "Be exact.", "[[tools=1]]", "[[tokens=2]]",
        ]  # fmt: skip
        assert found[2].to_dict() == call.to_dict()
        assert (found[3].output, found[3].status) == ("seen", "completed")
        ids = [each.id for each in found]
        assert len(set(ids)) == 5
        # The last item comes first unless it is said otherwise, and pages end where they end.
        backwards = await ours.responses.input_items.list(second.id)
        assert ([each.id for each in backwards.data], backwards.has_more) == (ids[::-1], False)
        page = await ours.responses.input_items.list(second.id, order="asc", after=ids[0], limit=3)
        assert ([each.id for each in page.data], page.has_more) == (ids[1:4], True)
        assert (page.first_id, page.last_id) == (ids[1], ids[3])
        for asked_for in (
            {"after": "msg_none"},
            {"limit": 0},
            {"limit": 101},
            {"order": "up"},
        ):
            with pytest.raises(openai.BadRequestError):
                await ours.responses.input_items.list(second.id, **asked_for)
        for unknown in ("resp_" + "0" * 32, "nothing"):
            with pytest.raises(openai.NotFoundError):
                await ours.responses.input_items.list(unknown)
        assert (await ours.responses.retrieve(second.id)).id == second.id
        await ours.responses.delete(first.id)
        # What it was made from cannot be told without its beginning.
        with pytest.raises(openai.NotFoundError):
            await ours.responses.input_items.list(second.id)
    for path in (second.id, f"{second.id}/input_items"):
        answer = await gateway.ask("GET", f"{base}/responses/{path}")
        assert answer.status == 401
        assert ("error_code" in answer.json()) == (base in ("/serving-endpoints", "/ai-gateway/mlflow/v1"))


async def test_an_endpoint_may_be_called_like_a_path_beside_it(gateway: Deployment) -> None:
    entity = {"name": "m", "kind": "local", "provider": "vllm", "model": "mixtral-demo"}
    for name in ("responses", "chat"):
        await gateway.administer("POST", "/endpoints", {"name": name, "served_entities": [entity]})
        body = {"messages": [{"role": "user", "content": "[[tokens=2]]"}]}
        for path in (f"/serving-endpoints/{name}/invocations", f"/serving-endpoints/{name}/invocations/"):
            answer = await gateway.ask("POST", path, body, key=gateway.admin_key)
            assert answer.status == 200, answer.body


async def test_nothing_is_kept_that_was_not_to_be_or_did_not_end(
    gateway: Deployment, upstream: Upstream, keeping: str
) -> None:
    answer = await say(gateway, "[[tokens=2]]", store=False)
    assert answer.store is False
    failed = await say(gateway, "[[tokens=20 delay=1ms fault=reset at=5]]", stream=True)
    assert failed.status == "failed"
    cut = await say(gateway, "[[tokens=12]]", max_output_tokens=5)
    assert cut.status == "incomplete"
    async with client(gateway) as ours:
        for each in (answer, failed):
            with pytest.raises(openai.NotFoundError):
                await ours.responses.retrieve(each.id)
        assert (await ours.responses.retrieve(cut.id)).status == "incomplete"
        with pytest.raises(openai.BadRequestError) as caught:
            await ours.responses.create(model=ENDPOINT, input="?", extra_body={"id": "resp_mine"})
        assert "'id'" in caught.value.message
        with pytest.raises(openai.PermissionDeniedError):
            # Whoever may not call the endpoint learns nothing of what it keeps.
            await gateway_stranger(gateway, cut.id)


async def test_a_response_that_is_kept_is_no_stored_answer(
    gateway: Deployment, upstream: Upstream, keeping: str
) -> None:
    await gateway.administer("PATCH", f"/endpoints/{keeping}", {"cache": {"enabled": True, "sampled": True}})
    try:
        before = len(upstream.records)
        first = await say(gateway, "one [[tokens=2]]")
        again = await say(gateway, "one [[tokens=2]]")
        assert first.id != again.id
        assert len(upstream.records) == before + 2
    finally:
        await gateway.administer("PATCH", f"/endpoints/{keeping}", {"cache": {"enabled": False}})


async def gateway_stranger(gateway: Deployment, previous: str) -> None:
    async with client(gateway, "stranger") as theirs:
        await theirs.responses.create(model=ENDPOINT, input="?", previous_response_id=previous, store=True)


async def test_an_endpoint_that_keeps_nothing_says_so_and_what_it_kept_goes(
    gateway: Deployment, upstream: Upstream, keeping: str
) -> None:
    kept = await say(gateway, "[[tokens=2]]")
    await kept_for(gateway, keeping, 0)
    try:
        before = len(upstream.records)
        for more, word in (
            ({"store": True}, "store"),
            ({"previous_response_id": kept.id}, "previous_response_id"),
        ):
            with pytest.raises(openai.BadRequestError) as caught:
                await say(gateway, "?", **more)
            assert (caught.value.code, caught.value.param) == ("unsupported_field", word)
            assert ENDPOINT in caught.value.message
        assert len(upstream.records) == before
        assert (await say(gateway, "[[tokens=2]]")).store is False
        async with client(gateway) as ours:
            with pytest.raises(openai.NotFoundError):
                await ours.responses.retrieve(kept.id)
        engine = database.engine(str(gateway.settings.database_url), size=0)
        try:
            assert await drop_old_turns(engine) > 0
        finally:
            await engine.dispose()
        assert await gateway.query("SELECT * FROM gateway.kept_responses") == []
    finally:
        await kept_for(gateway, keeping, 24)
    # An hour of another endpoint's is no hour of this one's: what is older is not found, deleted or not.
    old = await say(gateway, "[[tokens=2]]")
    after = await say(gateway, "[[tokens=2]]", previous_response_id=old.id)
    await written(gateway, after.id)
    await gateway.query(
        "WITH taken AS (DELETE FROM gateway.kept_responses WHERE id = $1::uuid RETURNING *)"
        " INSERT INTO gateway.kept_responses SELECT id, previous_id, principal_id, endpoint_id,"
        " kept_at - interval '25 hours', content_sealed FROM taken",
        await written(gateway, old.id),
    )
    async with client(gateway) as ours:
        with pytest.raises(openai.NotFoundError):
            await ours.responses.retrieve(old.id)
        # What followed it is young enough to be read, and has lost its beginning.
        assert (await ours.responses.retrieve(after.id)).id == after.id
        with pytest.raises(openai.NotFoundError):
            await ours.responses.input_items.list(after.id)
    for gone in (old, after):
        with pytest.raises(openai.NotFoundError):
            await say(gateway, "?", previous_response_id=gone.id)


async def written(gateway: Deployment, response_id: str) -> str:
    """The row's id, once it is there."""
    until = time.monotonic() + 20
    while not await gateway.query(
        "SELECT id FROM gateway.kept_responses WHERE id = $1::uuid", response_id[5:]
    ):
        assert time.monotonic() < until
        await asyncio.sleep(0.02)
    return response_id[5:]


async def test_with_postgresql_away_what_waits_is_found_and_the_rest_is_unavailable() -> None:
    connections = database.Connections("postgresql://nobody@127.0.0.1:1/none", size=1)
    turns = StoredTurns(connections, Sealing({1: b"k" * 32}))
    now = time.time_ns() // 1_000_000
    first = f"resp_{now << 80:032x}"
    second = f"resp_{(now << 80) + 1:032x}"
    elsewhere = f"resp_{(now << 80) + 2:032x}"

    def turn(turn_id: str, previous: str | None) -> Turn:
        return Turn(turn_id, previous, "p", "e", now, [{"role": "user", "content": "?"}], {"output": []})

    try:
        turns.keep(turn(first, None))
        turns.keep(turn(second, first))
        found = await turns.conversation(Owner("p", "e", 0), second)
        assert [each.id for each in found] == [first, second]
        for owner in (Owner("q", "e", 0), Owner("p", "f", 0)):
            with pytest.raises(NotFound):
                await turns.conversation(owner, second)
        with pytest.raises(NotFound):
            await turns.turn("q", second)
        with pytest.raises(Unavailable):
            await turns.turn("p", elsewhere)
        # It never holds more than it may: what is too much is not kept.
        large = Turn(elsewhere, None, "p", "e", now, ["x" * (65 << 20)], {"output": []})
        turns.keep(large)
        with pytest.raises(Unavailable):
            await turns.turn("p", elsewhere)
    finally:
        assert turns._writer is not None
        turns._writer.cancel()
        await connections.close()


async def test_what_is_deleted_while_it_waits_to_be_written_does_not_come_back() -> None:
    done: list[str] = []
    may_write = asyncio.Event()

    class Slow:
        """The port to PostgreSQL where writing takes as long as the test says."""

        @contextlib.asynccontextmanager
        async def begun(self) -> AsyncGenerator[Any]:
            yield self

        async def executemany(self, statement: str, rows: Any) -> None:
            await may_write.wait()
            done.append("written")

        async def execute(self, statement: str, *given: Any) -> None:
            done.append("deleted")

    turns = StoredTurns(cast("database.Connections", Slow()), Sealing({1: b"k" * 32}))
    now = time.time_ns() // 1_000_000
    turn_id = f"resp_{now << 80:032x}"
    turns.keep(Turn(turn_id, None, "p", "e", now, [], {"output": []}))
    try:
        deleting = asyncio.create_task(turns.forget("p", turn_id))
        for _ in range(10):
            await asyncio.sleep(0)
        assert done == []
        may_write.set()
        await deleting
        assert done == ["written", "deleted"]
    finally:
        await turns.close()
