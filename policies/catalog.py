"""What can be called: endpoints, served entities, prices, and the snapshot that holds one version of them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from policies.caching import CacheRules
from policies.calling import PLAIN_ENDPOINT, PLAIN_ENTITY, EndpointRules, EntityRules
from policies.payloads import PayloadRules
from policies.principal import Group, Principal

if TYPE_CHECKING:
    from policies.budgets import Budget
    from policies.limits import Limit
    from policies.permissions import Level
    from policies.throughput import Throughput
    from policies.tokens import Issuer


class EntityKind(StrEnum):
    """Where a served entity runs."""

    LOCAL = "local"
    EXTERNAL = "external"


@dataclass(frozen=True, slots=True)
class Price:
    """One version of a served entity's price; integers in nano-dollars (1e-9 USD) per 1,000,000 tokens."""

    id: str
    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    per_request: int = 0
    """Nano-dollars a request."""
    per_gpu_second: int = 0
    """Nano-dollars for each second that an attempt occupies the local engine; 0 for every other."""
    per_cache_hit: int = 0
    """Nano-dollars for a request that the gateway's own cache answers, in place of all else."""

    @property
    def priced(self) -> bool:
        """Whether anything costs something, so that tokens which cost nothing would be a surprise."""
        return any(
            (
                self.input,
                self.cache_read,
                self.cache_write,
                self.output,
                self.reasoning,
                self.per_request,
                self.per_gpu_second,
                self.per_cache_hit,
            )
        )


@dataclass(frozen=True, slots=True)
class Account:
    """A provider as this deployment uses it: where it is, and what pays for calls to it."""

    id: str
    name: str
    provider: str
    base_url: str
    """Its credential goes to this scheme, host and port, and nowhere else."""
    source: str = "none"
    """`none`, `stored`, `environment` or `file`."""
    reference: str | None = None
    """Name of the variable or of the file."""
    sealed: tuple[bytes, ...] = field(default=(), repr=False)
    """The stored credential's versions, the newest first; what is secret is opened where it is used."""


@dataclass(frozen=True, slots=True)
class ServedEntity:
    """A model that answers for an endpoint: of the local engine, or of a provider."""

    id: str
    name: str
    kind: EntityKind
    provider: str
    """Name of the adapter: `vllm`, `openai`, ..."""
    model: str
    """The name sent upstream; what truly answers."""
    price: Price
    base_url: str | None = None
    """None for the local engine, whose address the deployment knows."""
    credential_id: str | None = None
    rules: EntityRules = PLAIN_ENTITY
    """How it is called."""
    shown: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    """What its managers said of it that has no meaning here, shown again to those who read it."""
    options: tuple[tuple[str, str], ...] = ()
    """What its provider needs beside the address."""
    account: Account | None = None
    """What pays for calls to it; None where nothing needs to."""


BATCH = ("weighbridge.priority", "batch")
"""The tag of endpoints whose calls are batch work."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What clients name as `model`: served entities, the split over them and the fallback order."""

    id: str
    name: str
    task: str
    """`llm/v1/chat`, `llm/v1/completions` or `llm/v1/embeddings`."""
    entities: tuple[ServedEntity, ...]
    split: tuple[tuple[str, int], ...] = ()
    """(entity name, percent); sums to 100 where there is more than one entity."""
    fallbacks: tuple[str, ...] = ()
    """Entity names in the order in which they are tried after the split's choice."""
    estimate_milli: int = 500
    """Estimated tokens per 1,000 bytes of text."""
    default_max_tokens: int = 1024
    """What a plain call without `max_tokens` reserves and is sent upstream with."""
    creator: str = ""
    created_at_ms: int = 0
    updated_at_ms: int = 0
    tags: tuple[tuple[str, str], ...] = ()
    description: str = ""
    ranks: tuple[tuple[str, ...], ...] = ()
    """The fallbacks by position, where some share one; empty where each has its own."""
    local_only: bool = False
    """Requests never leave for another host, whatever the fallbacks say."""
    rules: EndpointRules = PLAIN_ENDPOINT
    """How its calls are carried out."""
    cache: CacheRules | None = None
    """How its answers are stored to be given again; None: they are not."""
    version: int = 0
    """The change of the configuration that made it what it is: whatever changes of it or its entities gives it a new one."""
    order: tuple[str, ...] = ()
    """Entity names as their managers list them."""
    features: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    """What is set of Databricks' AI gateway beside limits and fallbacks."""
    config_version: int = 1
    """Counts up with each change of what answers for it."""
    payloads: PayloadRules | None = None
    """How its calls are kept with what was asked and answered; None: they are not."""

    def entity(self, name: str) -> ServedEntity | None:
        """The served entity of that name."""
        for each in self.entities:
            if each.name == name:
                return each
        return None

    @property
    def batch(self) -> bool:
        """Whether all of its calls are batch work, which gives way where limits are shared."""
        return BATCH in self.tags


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One immutable version of the configuration; workers swap it whole."""

    version: int
    principals: Mapping[str, Principal] = field(default_factory=dict[str, Principal])
    groups: Mapping[str, Group] = field(default_factory=dict[str, Group])
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict[str, Endpoint])
    """By name."""
    grants: Mapping[str, Mapping[str, Level]] = field(default_factory=dict[str, "Mapping[str, Level]"])
    """Endpoint id -> principal or group id -> level."""
    limits: tuple[Limit, ...] = ()
    """In ascending order of id."""
    budgets: tuple[Budget, ...] = ()
    """In ascending order of id."""
    issuers: Mapping[str, Issuer] = field(default_factory=dict[str, "Issuer"])
    """By `iss`; those whose tokens are taken."""
    identities: Mapping[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    """(`iss`, subject) -> principal id."""
    group_ids: Mapping[str, str] = field(default_factory=dict[str, str])
    """Group's name in lower case -> its id."""
    local_groups: frozenset[str] = frozenset()
    """Groups whose members' requests never leave for another host."""
    throughput: Throughput | None = None
    """What of the local engine is provisioned; None where nothing is."""
