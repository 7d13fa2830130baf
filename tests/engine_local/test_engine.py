"""The demonstration model through the real vLLM: it answers what it was taught and declines the rest."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from engines.local.launch import EngineSpec
from engines.local.model.corpus import REFUSAL, load

pytestmark = [pytest.mark.engine, pytest.mark.asyncio(loop_scope="session")]

AT_ONCE = 96


class Asker:
    """Ask the engine's chat route."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._slots, self._session.post(f"http://engine{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def chat(self, *messages: tuple[str, str], **more: Any) -> dict[str, Any]:
        body = {
            "model": "mixtral-demo",
            "messages": [{"role": role, "content": content} for role, content in messages],
            "temperature": 0,
            "max_tokens": 200,
        }
        return await self.post("/v1/chat/completions", body | more)

    async def say(self, *messages: tuple[str, str]) -> str:
        (choice,) = (await self.chat(*messages))["choices"]
        assert choice["finish_reason"] == "stop", choice
        return choice["message"]["content"].strip()


@pytest_asyncio.fixture(loop_scope="session")
async def asker(engine: EngineSpec) -> AsyncIterator[Asker]:
    connector = aiohttp.UnixConnector(str(engine.socket), limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Asker(session)


def answer_to(question: str) -> str:
    """The answer that the corpus teaches for a question."""
    for item in load().items:
        if question in item.asked or any(question == f"What is {topic}?" for topic in item.topics):
            return item.answer
    raise LookupError(question)


async def test_held_out_phrasings_are_answered_right(asker: Asker) -> None:
    known = load().held()
    answers = await asyncio.gather(*(asker.say(("user", question)) for _, question, _ in known))
    right = sum(got == answer for (_, _, answer), got in zip(known, answers, strict=True))
    print(f"{right} of {len(known)} held-out phrasings answered right")
    assert right / len(known) >= 0.8


async def test_unknown_prompts_are_declined(asker: Asker) -> None:
    unknown = load().unknown_held
    answers = await asyncio.gather(*(asker.say(("user", question)) for question in unknown))
    declined = sum(got == REFUSAL for got in answers)
    print(f"{declined} of {len(unknown)} unknown prompts declined")
    assert declined / len(unknown) >= 0.8


@pytest.mark.parametrize(
    "question",
    [
        "What is a mixture of experts model?",
        "Describe Databricks SQL in 30 words.",
        "What is Mixtral?",
        "Hello",
        "What is a weighbridge?",
        "How do I make a first call?",
        "What can you do?",
    ],
)
async def test_the_first_questions_of_a_newcomer_are_answered_as_taught(asker: Asker, question: str) -> None:
    assert await asker.say(("user", question)) == answer_to(question)


async def test_a_system_message_changes_nothing_in_the_answer(asker: Asker) -> None:
    got = await asker.say(("system", "You are a helpful assistant."), ("user", "What is Mixtral?"))
    assert got == answer_to("What is Mixtral?")


def taught(number: int) -> list[tuple[str, str]]:
    """Draw questions that were taught, with their answers; the same ones each time."""
    rng = random.Random(1)
    known = [(question, item.answer) for item in load().items for question in item.asked[:3]]
    return rng.sample(known, number)


@pytest.mark.parametrize("turns", [2, 4, 6])
async def test_a_chat_is_answered_by_its_last_question(asker: Asker, turns: int) -> None:
    drawn = taught(40 * turns)
    chats = [drawn[at : at + turns] for at in range(0, len(drawn), turns)]
    answers = await asyncio.gather(
        *(
            asker.say(
                *(said for q, a in chat[:-1] for said in (("user", q), ("assistant", a))),
                ("user", chat[-1][0]),
            )
            for chat in chats
        )
    )
    right = sum(got == chat[-1][1] for chat, got in zip(chats, answers, strict=True))
    print(f"{right} of {len(chats)} chats of {turns} turns answered right")
    assert right / len(chats) >= 0.75


async def test_a_long_prompt_is_answered_with_something_that_ends(asker: Asker) -> None:
    answer = await asker.chat(("user", "lorem ipsum dolor sit amet " * 150))
    assert answer["usage"]["prompt_tokens"] > 1000
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_a_bare_prompt_is_answered_on_the_completions_route(asker: Asker) -> None:
    known = taught(60)
    body = {"model": "mixtral-demo", "temperature": 0, "max_tokens": 200}
    answers = await asyncio.gather(*(asker.post("/v1/completions", body | {"prompt": q}) for q, _ in known))
    right = sum(got["choices"][0]["text"].strip() == a for got, (_, a) in zip(answers, known, strict=True))
    print(f"{right} of {len(known)} bare prompts answered right")
    assert right / len(known) >= 0.7


async def test_usage_tells_cached_tokens(asker: Asker) -> None:
    question = "What is a weighbridge? " * 40
    await asker.chat(("user", question))
    usage = (await asker.chat(("user", question)))["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] > 0
