"""What the administration's routes take and show of an endpoint, and the bounds of its fields.

Files and the Databricks routes take the same bounds from here, so that no way in accepts what another refuses.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.http.admin.calling import EndpointCache, EndpointCalling, EndpointPayloads, EntityCalling
from gateway.http.admin.versions import FreeText

EndpointName = Annotated[
    str,
    Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", examples=["databricks-mixtral-8x7b-instruct"]),
]
Aliases = Annotated[
    list[EndpointName],
    Meta(max_length=20, description="Other names that callers may use for it.", examples=[["mixtral"]]),
]
Task = Literal["llm/v1/chat", "llm/v1/completions", "llm/v1/embeddings"]
Level = Literal["CAN_VIEW", "CAN_QUERY", "CAN_MANAGE"]
Tags = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00]*$")],
        Annotated[str, Meta(max_length=256, pattern=r"^[^\x00]*$")],
    ],
    Meta(max_length=50),
]
Estimate = Annotated[
    int, Meta(ge=1, le=10_000, description="Estimated tokens per 1,000 bytes of text, for reservations.")
]
DefaultTokens = Annotated[
    int, Meta(ge=1, le=1_000_000, description="What a plain call without `max_tokens` is given.")
]


Options = Annotated[
    dict[
        Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")],
        Annotated[str, Meta(max_length=512, pattern=r"^[^\x00-\x1f\x7f]*$")],
    ],
    Meta(max_length=16),
]


class EntityView(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that answers for an endpoint; by name the same from version to version."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$", examples=["mixtral-demo"])]
    kind: Literal["local", "external"]
    provider: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$", examples=["vllm"])]
    model: Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
    base_url: Annotated[str, Meta(max_length=512, pattern=r"^https?://[!-~]+$")] | None = None
    """None for the local engine, whose address the deployment knows."""
    traffic_percent: Annotated[int, Meta(ge=0, le=100)] = 100
    fallback_position: Annotated[int, Meta(ge=1, le=100)] | None = None
    calling: EntityCalling = EntityCalling()
    """Time limits, places, replicas, circuit."""
    options: Options = {}
    """What its provider needs beside the address, no secret among it."""
    credential_id: UUID | None = None
    """The provider (of /admin/v1/providers) whose credential it is called with; left out: the one it has."""
    id: UUID | None = None
    """Set in answers; ignored in requests."""


class EndpointView(Struct, frozen=True, kw_only=True):
    """An endpoint."""

    id: str
    name: str
    aliases: list[str]
    task: str
    description: str
    tags: dict[str, str]
    estimate_milli: int
    default_max_tokens: int
    local_only: bool
    calling: EndpointCalling
    payloads: EndpointPayloads
    cache: EndpointCache
    served_entities: list[EntityView]
    config_version: int
    creator: str
    created_at: datetime
    managed_by: str | None
    updated_at: datetime


class NewEndpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint to create."""

    name: EndpointName
    aliases: Aliases = []
    task: Task = "llm/v1/chat"
    description: FreeText = ""
    tags: Tags = {}
    estimate_milli: Estimate = 500
    default_max_tokens: DefaultTokens = 1024
    local_only: bool = False
    """Requests never leave for another host, whatever the fallbacks say."""
    calling: EndpointCalling = EndpointCalling()
    """Stickiness, deadline, retries, fallback."""
    payloads: EndpointPayloads = EndpointPayloads()
    """Whether calls are kept with what was asked and answered."""
    cache: EndpointCache = EndpointCache()
    """Whether answers are stored and given again."""
    served_entities: Annotated[list[EntityView], Meta(min_length=1, max_length=32)]


class EndpointChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to change of an endpoint; `served_entities`, where given, is the whole new set."""

    aliases: Aliases | UnsetType = UNSET
    description: FreeText | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    estimate_milli: Estimate | UnsetType = UNSET
    default_max_tokens: DefaultTokens | UnsetType = UNSET
    local_only: bool | UnsetType = UNSET
    calling: EndpointCalling | UnsetType = UNSET
    payloads: EndpointPayloads | UnsetType = UNSET
    cache: EndpointCache | UnsetType = UNSET
    served_entities: Annotated[list[EntityView], Meta(min_length=1, max_length=32)] | UnsetType = UNSET


class ConfigurationView(Struct, frozen=True, kw_only=True):
    """What answered for an endpoint from some moment on."""

    config_version: int
    began_at: datetime
    served_entities: list[EntityView]


class RollBack(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The version of the configuration to go back to."""

    config_version: Annotated[int, Meta(ge=1, le=1_000_000_000)]
