"""What clients speak, by the path of their calls."""

from __future__ import annotations

from engines.anthropic.client_writing import MessagesClient
from engines.dialects import ClientDialect
from engines.errors import Unsupported
from engines.openai_chat.writing import ChatClient
from engines.openai_responses.writing import ResponsesClient

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
EMBEDDINGS = "/v1/embeddings"
RESPONSES = "/v1/responses"
_CLIENTS: dict[str, ClientDialect] = {
    CHAT: ChatClient(),
    MESSAGES: MessagesClient(),
    RESPONSES: ResponsesClient(),
}


def client_of(path: str) -> ClientDialect:
    """The dialect of a call that is to be translated; raises Unsupported for one that no other provider can answer."""
    client = _CLIENTS.get(path)
    if client is None:
        raise Unsupported("model", "this model's provider answers chat only")
    return client
