"""OpenAI's calls to a model: chat and text completions, Responses and embeddings."""

from __future__ import annotations

from gateway.http.errors import Dialect
from gateway.http.openai.conversation import responses_api
from gateway.http.openai.embeddings import read_embedding
from gateway.http.openai.requests import read_chat, read_completion
from gateway.http.plane import Api

CHAT = Api("openai.chat", Dialect.OPENAI, read_chat)
COMPLETIONS = Api(
    "openai.completions", Dialect.OPENAI, lambda body, endpoint: read_completion(body, model=endpoint)
)
RESPONSES = responses_api("openai.responses", Dialect.OPENAI)
EMBEDDINGS = Api(
    "openai.embeddings", Dialect.OPENAI, lambda body, endpoint: read_embedding(body, model=endpoint)
)
CALLS = {
    # The unprefixed paths are what some clients use.
    f"{base}/{path}": api
    for base in ("/v1", "")
    for path, api in (
        ("chat/completions", CHAT),
        ("completions", COMPLETIONS),
        ("responses", RESPONSES),
        ("embeddings", EMBEDDINGS),
    )
}
"""By path."""
