"""instructor's shapes: by a forced tool, whole and in part, and by a JSON schema."""

from __future__ import annotations

from typing import Any

import instructor
import openai
from pydantic import BaseModel

from tests.clients.programs.answers import BREAKS, GATEWAY, KEYS, MODEL, raised, refusals, tell


class Shape(BaseModel):
    """What the model has to answer."""

    a: int


class Found(BaseModel):
    """What was found."""

    query: str
    limit: int


def client(key: str = KEYS["demo"], mode: instructor.Mode = instructor.Mode.TOOLS) -> Any:
    """A client of that mode."""
    made = openai.OpenAI(base_url=f"{GATEWAY}/v1", api_key=key, max_retries=0)
    return instructor.from_openai(made, mode=mode).chat.completions


def asked(said: str, model: str = MODEL) -> dict[str, Any]:
    """What every call has; nothing is repeated where it fails."""
    return {"model": model, "messages": [{"role": "user", "content": said}], "max_retries": 1}


def ask(key: str, model: str, said: str, temperature: float | None) -> Any:
    """A call that will be refused."""
    more = {} if temperature is None else {"temperature": temperature}
    return client(key).create(response_model=Found, **asked(said, model), **more)


def partly(said: str) -> list[Any]:
    """All that is known on the way."""
    return list(client().create_partial(response_model=Found, **asked(said)))


def found() -> dict[str, Any]:
    """Ask everything."""
    whole, answer = client().create_with_completion(response_model=Found, **asked("?"))
    shaped = client(mode=instructor.Mode.JSON_SCHEMA).create(response_model=Shape, **asked("?"))
    return {
        "tools": [whole.model_dump()],
        "streamed_tools": [partly("?")[-1].model_dump()],
        "structured": shaped.model_dump(),
        "usage": [
            {"input_tokens": answer.usage.prompt_tokens, "output_tokens": answer.usage.completion_tokens}
        ],
        "refusals": refusals(ask),
        "breaks": raised(lambda: partly(BREAKS.replace("at=5", "at=1"))),
    }


tell({"chat": found()})
