"""pydantic-ai's agents over OpenAI's chat completions, over Responses, and over Anthropic's Messages."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import openai
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.programs.answers import ASK, BREAKS, GATEWAY, KEYS, MODEL, raised, refusals, tell

LOOP = asyncio.new_event_loop()
OPENAI = openai.AsyncOpenAI(base_url=f"{GATEWAY}/v1", api_key="?", max_retries=0)
ANTHROPIC = anthropic.AsyncAnthropic(base_url=GATEWAY, api_key="?", max_retries=0)


class Shape(BaseModel):
    """What the model has to answer."""

    a: int


class Found(BaseModel):
    """What was found."""

    query: str
    limit: int


def model(kind: str, key: str = KEYS["demo"], name: str = MODEL) -> Any:
    """A model of that kind."""
    if kind == "messages":
        return AnthropicModel(
            name, provider=AnthropicProvider(anthropic_client=ANTHROPIC.with_options(api_key=key))
        )
    speaking = OpenAIResponsesModel if kind == "responses" else OpenAIChatModel
    return speaking(name, provider=OpenAIProvider(openai_client=OPENAI.with_options(api_key=key)))


def run(agent: Agent[Any, Any], said: str) -> Any:
    """A whole run of an agent."""
    return LOOP.run_until_complete(agent.run(said))


async def streamed(kind: str, said: str) -> str:
    """The text that a stream adds up to."""
    async with Agent(model(kind)).run_stream(said) as result:
        return await result.get_output()


def refused(kind: str, key: str, name: str, said: str, temperature: float | None) -> Any:
    """A call that will be."""
    settings: Any = {} if temperature is None else {"temperature": temperature}
    return run(Agent(model(kind, key, name), model_settings=settings), said)


def found(kind: str) -> dict[str, Any]:
    """Ask everything."""
    plain = run(Agent(model(kind)), ASK)
    usage: Any = plain.usage
    # It knows by their names which of Anthropic's models take a schema, and lets no other be asked for one.
    shaped = None if kind == "messages" else run(Agent(model(kind), output_type=NativeOutput(Shape)), "?")
    return {
        "plain": plain.output,
        "stream": LOOP.run_until_complete(streamed(kind, ASK)),
        "usage": [{"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}],
        "tools": [run(Agent(model(kind), output_type=Found), "?").output.model_dump()],
        "structured": None if shaped is None else shaped.output.model_dump(),
        "refusals": refusals(
            lambda key, model, said, temperature: refused(kind, key, model, said, temperature)
        ),
        "breaks": raised(lambda: LOOP.run_until_complete(streamed(kind, BREAKS))),
    }


tell({kind: found(kind) for kind in ("chat", "responses", "messages")})
