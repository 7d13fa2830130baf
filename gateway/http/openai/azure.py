"""Azure's paths to a model: /openai/deployments/{name}/…, where the path names the endpoint, and /openai/v1/…, where the body does.

Bodies, answers and errors are OpenAI's. `api-version` is taken as it comes, since every version gets the same shapes.
"""

from __future__ import annotations

from urllib.parse import unquote

from gateway.http.errors import Dialect
from gateway.http.openai.conversation import responses_api
from gateway.http.openai.embeddings import read_embedding
from gateway.http.openai.requests import read_chat, read_completion
from gateway.http.plane import Api

CHAT = Api("azure.chat", Dialect.OPENAI, lambda body, endpoint: read_chat(body, model=endpoint))
COMPLETIONS = Api(
    "azure.completions", Dialect.OPENAI, lambda body, endpoint: read_completion(body, model=endpoint)
)
EMBEDDINGS = Api(
    "azure.embeddings", Dialect.OPENAI, lambda body, endpoint: read_embedding(body, model=endpoint)
)
RESPONSES = responses_api("azure.responses", Dialect.OPENAI)

_OF_DEPLOYMENT = {b"chat/completions": CHAT, b"completions": COMPLETIONS, b"embeddings": EMBEDDINGS}
_OF_BODY = {
    b"v1/chat/completions": CHAT,
    b"v1/completions": COMPLETIONS,
    b"v1/embeddings": EMBEDDINGS,
    b"v1/responses": RESPONSES,
    # What Azure's client asks for its responses: no deployment is in that path.
    b"responses": RESPONSES,
}


def called(raw_path: bytes) -> tuple[Api | None, str | None]:
    """(what is called, the endpoint where the path names one) of a path below /openai; nothing for any other."""
    rest = raw_path.removeprefix(b"/openai/").removesuffix(b"/")
    if not rest.startswith(b"deployments/"):
        return _OF_BODY.get(rest), None
    name, _, kind = rest.removeprefix(b"deployments/").partition(b"/")
    endpoint = unquote(name.decode("ascii", "replace"))
    return (_OF_DEPLOYMENT.get(kind), endpoint) if endpoint else (None, None)
