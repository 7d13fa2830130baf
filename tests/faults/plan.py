"""A script and a request turned into the steps of an answer: pure, cached, and so cheap to repeat.

The id of an answer is a placeholder of the same length until a step is sent, so that the step's length is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tests.faults import answers
from tests.faults.answers import CREATED, FINGERPRINT, dumps
from tests.faults.ask import Ask
from tests.faults.http11 import http_chunk
from tests.faults.script import Script


@dataclass(frozen=True, slots=True)
class Step:
    """Complete HTTP chunks that are written together, and how many tokens are out once they are."""

    data: bytes
    tokens: int
    place: Literal["token", "slice", "close"] = "token"  # a slice goes on with the event of the step before


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole answer. A stream has steps; a plain answer has a body and the tokens it carries."""

    steps: tuple[Step, ...]
    body: bytes
    tokens: int
    per_choice: int
    burst: bytes  # all steps joined: what an unpaced, faultless stream sends in one write


def json_text(schema: Any) -> Any:
    """The smallest value that satisfies a JSON schema, as far as tests need it."""
    if not isinstance(schema, dict):
        return {"answer": "w1"}
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "string":
            return "w1"
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case "array":
            return [json_text(schema.get("items", {"type": "string"}))]
        case "null":
            return None
        case _:
            return {
                name: json_text(inner) for name, inner in schema.get("properties", {"answer": None}).items()
            }


def _content(script: Script, ask: Ask) -> list[str]:
    """The texts of the tokens of one choice."""
    wanted = script.json
    if (
        not wanted
        and ask.response_format
        and ask.response_format.get("type") in ("json_object", "json_schema")
    ):
        wanted = dumps(json_text((ask.response_format.get("json_schema") or {}).get("schema")))
    if wanted:
        pieces = [wanted[at : at + 4] for at in range(0, len(wanted), 4)]
    elif script.text:
        words = script.text.split(" ")
        pieces = [word if at == 0 else f" {word}" for at, word in enumerate(words)]
    else:
        pieces = [f"w{at}" if at == 1 else f" w{at}" for at in range(1, script.tokens + 1)]
    return [*pieces[:-1], ""] if script.eos and pieces else pieces


def _tool_names(script: Script, ask: Ask) -> list[str]:
    forced = ask.forced_tool
    if forced is not None:
        return [forced]
    offered = [str(tool.get("function", {}).get("name", "")) for tool in ask.tools or []] or ["lookup"]
    count = script.tools or (1 if ask.tool_choice == "required" else 0)
    if ask.parallel_tool_calls is False:
        count = min(count, 1)
    return [offered[at % len(offered)] for at in range(count)]


def _tool_arguments(index: int) -> str:
    return dumps({"query": f"q{index}", "limit": index})


def _tool_deltas(names: list[str]) -> list[dict[str, Any]]:
    """Each call as vLLM streams it: the name first, then its arguments in pieces."""
    deltas: list[dict[str, Any]] = []
    for index, name in enumerate(names):
        head = {"id": f"chatcmpl-tool-{index:016x}", "type": "function", "index": index}
        deltas.append({"tool_calls": [{**head, "function": {"name": name, "arguments": ""}}]})
        arguments = _tool_arguments(index)
        for at in range(0, len(arguments), 8):
            piece = {"index": index, "function": {"arguments": arguments[at : at + 8]}}
            deltas.append({"tool_calls": [piece]})
    return deltas


@dataclass(frozen=True, slots=True)
class _Choice:
    """What every choice of an answer says: deltas (one a token), how it finishes, the plain message's parts."""

    deltas: list[Any]
    finish: str
    content: str | None
    tool_calls: list[dict[str, Any]]


def _choice(script: Script, ask: Ask, *, chat: bool) -> _Choice:
    names = _tool_names(script, ask) if chat else []
    deltas: list[Any] = _tool_deltas(names) if names else _content(script, ask)
    cut = ask.limit is not None and ask.limit < len(deltas)
    if cut:
        deltas = deltas[: ask.limit]
    finish = "length" if cut else "tool_calls" if names and ask.forced_tool is None else "stop"
    calls = [
        {
            "id": f"chatcmpl-tool-{index:016x}",
            "type": "function",
            "function": {"name": name, "arguments": _tool_arguments(index)},
        }
        for index, name in enumerate(names)
    ]
    content = None if names else "".join(deltas)
    return _Choice(deltas, script.finish or finish, content, [] if cut else calls)


def plan_plain(script: Script, ask: Ask, *, chat: bool, id_: str, prompt: int) -> Plan:
    """A plain answer."""
    choice = _choice(script, ask, chat=chat)
    n, per_choice = ask.n or 1, len(choice.deltas)
    ids = [1000 + at for at in range(per_choice)] if ask.return_token_ids else None
    if chat:
        message = answers.chat_message(choice.content, choice.tool_calls)
        body = answers.chat_answer(
            id_, ask.model, [(message, choice.finish, ids)] * n, script, prompt, n * per_choice
        )
    else:
        texts = [(choice.content or "", choice.finish, ids)] * n
        body = answers.text_answer(id_, ask.model, texts, script, prompt, n * per_choice)
    return Plan((), body, n * per_choice, per_choice, b"")


def plan_stream(script: Script, ask: Ask, *, chat: bool, id_: str, prompt: int) -> Plan:
    """A stream: one step a token (over all choices), then the closing step."""
    choice = _choice(script, ask, chat=chat)
    n, per_choice = ask.n or 1, len(choice.deltas)
    object_ = "chat.completion.chunk" if chat else "text_completion"
    head = (
        f'{{"id":{dumps(id_)},"object":"{object_}","created":{CREATED},"model":{dumps(ask.model)},"choices":'
    )

    def usage(completion: int) -> str:
        if not ask.continuous_usage or script.usage == "missing":
            return ""
        claimed = answers.reported_usage(script, prompt, completion)
        if claimed is not None and chat:
            claimed["completion_tokens_details"] = None
        return f',"usage":{dumps(claimed)}'

    def delta_frame(index: int, at: int) -> str:
        last = at == per_choice - 1
        ids = [1000 + at] if ask.return_token_ids else None
        finish = choice.finish if last else None
        if chat:
            delta = choice.deltas[at]
            fields: dict[str, Any] = {
                "index": index,
                "delta": {"content": delta} if isinstance(delta, str) else delta,
                "logprobs": None,
                "finish_reason": finish,
            }
            if last:
                fields["stop_reason"] = None
            fields["token_ids"] = ids
        else:
            fields = {"index": index, "text": choice.deltas[at], "logprobs": None, "finish_reason": finish}
            fields |= {"stop_reason": None, "prompt_token_ids": None, "token_ids": ids}
        tail = f',"system_fingerprint":"{FINGERPRINT}"' if last and not ask.include_usage else ""
        return f"{head}[{dumps(fields)}]{usage(at + 1)}{tail}}}"

    def role_frame(index: int) -> str:
        fields = {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        return f'{head}[{dumps(fields)}]{usage(0)},"prompt_token_ids":null,"prompt_text":null}}'

    opening = [role_frame(index) for index in range(n)] if chat else []
    steps: list[Step] = []
    for at in range(per_choice):
        for index in range(n):
            frames = [*opening, delta_frame(index, at)]
            opening = []
            steps += _steps(frames, script, 1)
    closing = opening
    if ask.include_usage and script.usage != "missing":
        claimed = answers.final_usage(script, prompt, n * per_choice)
        closing.append(f'{head}[],"usage":{dumps(claimed)},"system_fingerprint":"{FINGERPRINT}"}}')
    closing.append("[DONE]")
    steps += _steps(closing, script, 0)
    burst = b"".join(step.data for step in steps)
    return Plan(tuple(steps), b"", n * per_choice, per_choice, burst)


_ENDINGS = {
    "lf": ("\n", "\n\n"),
    "crlf": ("\r\n", "\r\n\r\n"),
    "cr": ("\r", "\r\r"),
    "mixed": ("\r\n", "\n\r\n"),
}


def _steps(frames: list[str], script: Script, tokens: int) -> list[Step]:
    place = "token" if tokens else "close"
    chunks = [chunk for frame in frames for chunk in _chunks(frame, script)]
    if not script.gap:
        return [Step(b"".join(chunks), tokens, place)]
    slices = [Step(chunk, 0, "slice") for chunk in chunks]
    slices[0] = Step(chunks[0], 0, place)
    slices[-1] = Step(chunks[-1], tokens, slices[-1].place)
    return slices


def encode_event(payload: str | bytes, script: Script) -> bytes:
    """One server-sent event in HTTP chunks, with the script's line ends, comments and slices."""
    return b"".join(_chunks(payload, script))


def _chunks(payload: str | bytes, script: Script) -> list[bytes]:
    line, end = _ENDINGS[script.lines]
    data = payload if isinstance(payload, bytes) else payload.encode()
    event = b"data: " + data + end.encode()
    if script.comments:
        event = f": keep-alive{line}{line}".encode() + event
    size = script.slice or len(event)
    return [http_chunk(event[at : at + size]) for at in range(0, len(event), size)]
