"""What providers answer in the tests, in the one form: every kind of part, end and count."""

from __future__ import annotations

import json

from engines.canonical import Answer, Reasoning, Refusal, Stop, Text, ToolCall, Usage

MODEL = "model-1"
COUNT = Usage(fresh=11, output=7)
PATCH = '*** Begin Patch\n+say("Grüße", 世界 \\u{1F600}) \U0001f600\n\t*** End Patch\n'
"""What a custom tool is called with: no JSON, but it has to travel in it."""
WEATHER = '{"city":"Zürich","days":3}'

CASES = {
    "text": Answer((Text("Grüße, 世界! A mixture of experts."),), Stop.END, COUNT),
    "length": Answer((Text("This is cut"),), Stop.LENGTH, COUNT),
    "sequence": Answer((Text("Up to here"),), Stop.SEQUENCE, COUNT, sequence="END"),
    "structured": Answer((Text('{"name":"Ann","age":7}'),), Stop.END, COUNT),
    "tool": Answer((ToolCall("call_1", "weather", WEATHER),), Stop.TOOLS, COUNT),
    "tools at once": Answer(
        (
            Text("I will look."),
            ToolCall("call_1", "weather", WEATHER),
            ToolCall("call_2", "clock", "{}"),
            ToolCall("call_3", "weather", '{"city":"Uster","days":1}'),
        ),
        Stop.TOOLS,
        COUNT,
    ),
    "custom tool": Answer((ToolCall("call_1", "patch", json.dumps({"input": PATCH})),), Stop.TOOLS, COUNT),
    "reasoning": Answer(
        (Reasoning("First this, then that.", "c2lnbmF0dXJl"), Text("Forty-two.")),
        Stop.END,
        Usage(fresh=11, output=3, reasoning=4),
    ),
    "cached": Answer((Text("Again."),), Stop.END, Usage(fresh=2, cache_read=30, cache_write=5, output=2)),
    "filtered": Answer((Text("Well,"),), Stop.FILTER, COUNT),
    "declined": Answer((Refusal("I will not help with that."),), Stop.REFUSAL, COUNT),
}
