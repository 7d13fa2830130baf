"""A chat completion's body, written from the one form for clients of other dialects.

What the one form holds and this dialect has no field for (a number of thinking tokens) becomes the nearest that it has;
proofs and sealed thoughts of other providers are left out, as no provider takes another's.
"""

from __future__ import annotations

from typing import Any

from engines.canonical import Image, Message, Refusal, Request, Text, Tool, ToolCall, ToolResult, in_one


def chat_body(request: Request) -> dict[str, Any]:
    """The body of a chat completion, without `model`, stream and bounds."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": text} for text in request.system]
    for message in request.messages:
        messages += _messages(message)
    body: dict[str, Any] = {"messages": messages, **request.extra}
    for name in ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "seed"):
        value = getattr(request, name)
        if value is not None:
            body[name] = value
    if request.stop:
        body["stop"] = list(request.stop)
    if request.tools:
        body["tools"] = [_tool(each) for each in request.tools]
        if request.tool_choice is not None:
            choice = request.tool_choice
            body["tool_choice"] = (
                {"type": "function", "function": {"name": choice.name}}
                if choice.mode == "named"
                else choice.mode
            )
        if request.parallel_tools is not None:
            body["parallel_tool_calls"] = request.parallel_tools
    if request.format is not None:
        wanted = request.format
        if wanted.schema is None:
            body["response_format"] = {"type": "json_object"}
        else:
            schema: dict[str, Any] = {"name": wanted.name, "schema": wanted.schema}
            if wanted.description:
                schema["description"] = wanted.description
            if wanted.strict is not None:
                schema["strict"] = wanted.strict
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
    thinking = request.thinking
    if thinking is not None and (effort := thinking.effort or _effort(thinking.budget)) is not None:
        body["reasoning_effort"] = effort
    return body


def _messages(message: Message) -> list[dict[str, Any]]:
    if message.role == "user":
        return _user(message)
    text = "".join(part.text for part in message.parts if isinstance(part, Text))
    # Thoughts are left out: providers of this family take none back.
    refusal = "".join(part.text for part in message.parts if isinstance(part, Refusal))
    calls = [
        {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
        for part in message.parts
        if isinstance(part, ToolCall)
    ]
    written: dict[str, Any] = {"role": "assistant", "content": text or (None if calls or refusal else "")}
    if refusal:
        written["refusal"] = refusal
    if calls:
        written["tool_calls"] = calls
    return [written]


def _user(message: Message) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    shown: list[Text | Image] = []
    for part in message.parts:
        match part:
            case ToolResult():
                out.append({"role": "tool", "tool_call_id": part.call_id, "content": part.words_alone})
                # Results take words only; a picture goes along with what the user says next.
                shown += [each for each in part.content if isinstance(each, Image)]
            case Text() | Image():
                shown.append(part)
            case _:
                continue
    if shown and all(isinstance(part, Text) for part in shown):
        words = in_one(part.text for part in shown if isinstance(part, Text))
        out.append({"role": "user", "content": words})
    elif shown:
        out.append({"role": "user", "content": [_part(part) for part in shown]})
    return out


def _part(part: Text | Image) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    url = part.url or f"data:{part.media_type};base64,{part.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters}
    if tool.description:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _effort(budget: int | None) -> str | None:
    if budget is None:
        return None
    return "low" if budget <= 2048 else "medium" if budget <= 12_288 else "high"
