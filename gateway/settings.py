"""Everything the environment may say, read once at start.

A value that cannot be used raises SettingsError, whose text names the variable and what it takes.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines.local.serving import NoRecipe, read_wish

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
PREFIX = "WEIGHBRIDGE_"
MOST_REPLICAS = 64
LEAST_KEEP_DAYS = 35
"""The ledger keeps at least this: late records and reports of the last month find their rows."""


class SettingsError(ValueError):
    """An environment variable holds a value that cannot be used; the text says which and what it takes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Frozen settings of one process tree; built by `from_env` and passed down."""

    home: Path
    """Where embedded stores, keys, logs, the spool and the engine's environment live."""
    host: str
    """Address that the listeners bind."""
    port: int
    """Port of the data plane (and of everything else while `admin_port` is unset)."""
    admin_port: int | None
    """When set, `/admin/v1` and the console listen here instead of on `port`."""
    workers: int
    """Gateway worker processes that share the port."""
    database_url: str | None
    """The application's role in PostgreSQL; None means the embedded server."""
    migrate_database_url: str | None
    """The schema's owner in PostgreSQL; None means the embedded server's owner."""
    redis_url: str | None
    """Redis; None means the embedded server."""
    engine: Literal["vllm", "none"]
    """Whether a local engine is started."""
    engine_url: str | None
    """An engine that someone else runs (http://host:port or unix:/path); with commas between, its replicas."""
    secret_file: Path
    """The master key: at least 32 bytes, mode 0600; created on the first embedded start."""
    pg_port: int | None
    """Opens the embedded PostgreSQL on loopback with a password."""
    embedder: Literal["auto", "vllm", "none"] = "auto"
    """Whether the small embedding model is served here too; `auto`: where the machine can carry it."""
    embedder_url: str | None = None
    """Where it is (unix:/path or http://host:port)."""
    engine_replicas: int = 1
    """How many processes of the local engine are run here; calls are spread over them."""
    engine_model: str | None = None
    """What the local engine serves: a folder with a config.json, or a known name; None: the model that ships."""
    engine_recipe: str = ""
    """How: words such as `fp8,cards=2,context=16384`; what is not said is chosen from the model's shape and the cards."""
    upstream_client: Literal["http1", "aiohttp"] = "http1"
    """What speaks HTTP to engines and providers; aiohttp is there for an upstream that ours cannot talk to."""
    cache_max_mb: int = 64
    """What all stored answers together may take of Redis."""
    spool_max_mb: int = 1024
    """Mebibytes of a worker's spool that may wait for the ledger; at the cap new work is refused."""
    overload_ms: int = 100
    """How late a worker's event loop may be, in milliseconds, before calls are turned away."""
    max_calls: int = 4096
    """How many calls may run in one worker at once."""
    pin: Literal["auto", "yes", "no"] = "auto"
    """Whether each worker keeps to its share of the cores."""
    batch_percent: int = 80
    """How much of a limit that several share may be filled by batch work."""
    webhook_hosts: frozenset[str] = frozenset()
    """Hosts to which events may go although they are private, or by plain http."""
    provider_hosts: frozenset[str] = frozenset()
    """Hosts at which providers may be although they are private, or by plain http: engines of one's own."""
    credential_dir: Path | None = None
    """Folder of files that hold providers' credentials; None: `credentials` below `home`."""
    trusted_proxies: tuple[Network, ...] = ()
    """Proxies whose word on the client's address (x-forwarded-for) is believed."""

    audit_heads: Path = Path("audit-heads.jsonl")
    """File to which signed heads of the audit's chain are appended; best on a machine of its own."""
    audit_heads_seconds: int = 3600
    """How often one is exported, if the chain has grown."""
    ledger_keep_days: int | None = None
    """How long requests and attempts are kept after the end of their week; None: for ever."""
    payload_keep_days: int = 30
    """How long calls that are kept with what was asked and answered stay, in days."""
    verify_at: int | None = 180
    """Minute of the day, UTC, at which the drainer has everything verified; None: never."""

    @property
    def spool_dir(self) -> Path:
        """Folder of the workers' spools."""
        return self.home / "spool"

    @property
    def credentials(self) -> Path:
        """Folder of files that hold providers' credentials."""
        return self.credential_dir or self.home / "credentials"

    @property
    def embedded(self) -> bool:
        """True while at least one store is the embedded one."""
        return self.database_url is None or self.redis_url is None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read `WEIGHBRIDGE_*`; raises SettingsError for a value that cannot be used."""
        env = os.environ if environ is None else environ
        home = Path(env.get(f"{PREFIX}HOME") or "var").expanduser().absolute()
        engine = env.get(f"{PREFIX}ENGINE") or "vllm"
        if engine not in ("vllm", "none"):
            raise SettingsError(f"{PREFIX}ENGINE is {engine!r}; it takes vllm or none")
        embedder = env.get(f"{PREFIX}EMBEDDER") or "auto"
        if embedder not in ("auto", "vllm", "none"):
            raise SettingsError(f"{PREFIX}EMBEDDER is {embedder!r}; it takes auto, vllm or none")
        client = env.get(f"{PREFIX}UPSTREAM_CLIENT") or "http1"
        if client not in ("http1", "aiohttp"):
            raise SettingsError(f"{PREFIX}UPSTREAM_CLIENT is {client!r}; it takes http1 or aiohttp")
        pin = env.get(f"{PREFIX}PIN") or "auto"
        if pin not in ("auto", "yes", "no"):
            raise SettingsError(f"{PREFIX}PIN is {pin!r}; it takes auto, yes or no")
        secret = env.get(f"{PREFIX}SECRET_FILE")
        credentials = env.get(f"{PREFIX}CREDENTIAL_DIR")
        return cls(
            home=home,
            host=env.get(f"{PREFIX}HOST") or "127.0.0.1",
            port=_port(env, "PORT") or 8080,
            admin_port=_port(env, "ADMIN_PORT"),
            workers=_count(env, "WORKERS", default=min(2, os.cpu_count() or 1)),
            database_url=env.get(f"{PREFIX}DATABASE_URL") or None,
            migrate_database_url=env.get(f"{PREFIX}MIGRATE_DATABASE_URL") or None,
            redis_url=env.get(f"{PREFIX}REDIS_URL") or None,
            engine=engine,
            engine_url=env.get(f"{PREFIX}ENGINE_URL") or None,
            embedder=embedder,
            embedder_url=env.get(f"{PREFIX}EMBEDDER_URL") or None,
            secret_file=Path(secret).expanduser().absolute() if secret else home / "master.key",
            pg_port=_port(env, "PG_PORT"),
            engine_replicas=_count(env, "ENGINE_REPLICAS", default=1, most=MOST_REPLICAS),
            engine_model=_model(env),
            engine_recipe=_recipe(env),
            upstream_client=client,
            cache_max_mb=_count(env, "CACHE_MAX_MB", default=64, most=1 << 20),
            spool_max_mb=_count(env, "SPOOL_MAX_MB", default=1024, most=1 << 20),
            overload_ms=_count(env, "OVERLOAD_MS", default=100, most=60_000),
            max_calls=_count(env, "MAX_CALLS", default=4096, most=1 << 20),
            pin=pin,
            batch_percent=_count(env, "BATCH_PERCENT", default=80, most=100),
            webhook_hosts=_hosts(env, "WEBHOOK_HOSTS"),
            provider_hosts=_hosts(env, "PROVIDER_HOSTS"),
            credential_dir=Path(credentials).expanduser().absolute() if credentials else None,
            trusted_proxies=_networks(env, "TRUSTED_PROXIES"),
            audit_heads=Path(env.get(f"{PREFIX}AUDIT_HEADS") or home / "audit-heads.jsonl")
            .expanduser()
            .absolute(),
            audit_heads_seconds=_count(env, "AUDIT_HEADS_SECONDS", default=3600, most=86_400),
            ledger_keep_days=_keep(env, "LEDGER_KEEP_DAYS"),
            payload_keep_days=_count(env, "PAYLOAD_KEEP_DAYS", default=30, most=3650),
            verify_at=_minute(env, "VERIFY_AT"),
        )

    def to_env(self) -> dict[str, str]:
        """The variables that rebuild these settings in a child process."""
        values = {
            "HOME": str(self.home),
            "HOST": self.host,
            "PORT": str(self.port),
            "ADMIN_PORT": "" if self.admin_port is None else str(self.admin_port),
            "WORKERS": str(self.workers),
            "DATABASE_URL": self.database_url or "",
            "MIGRATE_DATABASE_URL": self.migrate_database_url or "",
            "REDIS_URL": self.redis_url or "",
            "ENGINE": self.engine,
            "ENGINE_URL": self.engine_url or "",
            "EMBEDDER": self.embedder,
            "EMBEDDER_URL": self.embedder_url or "",
            "ENGINE_REPLICAS": str(self.engine_replicas),
            "ENGINE_MODEL": self.engine_model or "",
            "ENGINE_RECIPE": self.engine_recipe,
            "SECRET_FILE": str(self.secret_file),
            "PG_PORT": "" if self.pg_port is None else str(self.pg_port),
            "UPSTREAM_CLIENT": self.upstream_client,
            "CACHE_MAX_MB": str(self.cache_max_mb),
            "SPOOL_MAX_MB": str(self.spool_max_mb),
            "OVERLOAD_MS": str(self.overload_ms),
            "MAX_CALLS": str(self.max_calls),
            "PIN": self.pin,
            "BATCH_PERCENT": str(self.batch_percent),
            "WEBHOOK_HOSTS": ",".join(sorted(self.webhook_hosts)),
            "PROVIDER_HOSTS": ",".join(sorted(self.provider_hosts)),
            "CREDENTIAL_DIR": "" if self.credential_dir is None else str(self.credential_dir),
            "AUDIT_HEADS": str(self.audit_heads),
            "AUDIT_HEADS_SECONDS": str(self.audit_heads_seconds),
            "LEDGER_KEEP_DAYS": "" if self.ledger_keep_days is None else str(self.ledger_keep_days),
            "PAYLOAD_KEEP_DAYS": str(self.payload_keep_days),
            "VERIFY_AT": "off"
            if self.verify_at is None
            else f"{self.verify_at // 60:02}:{self.verify_at % 60:02}",
            "TRUSTED_PROXIES": ",".join(str(each) for each in self.trusted_proxies),
        }
        return {PREFIX + name: value for name, value in values.items()}


def _networks(env: Mapping[str, str], name: str) -> tuple[Network, ...]:
    try:
        return tuple(
            ipaddress.ip_network(each.strip())
            for each in env.get(PREFIX + name, "").split(",")
            if each.strip()
        )
    except ValueError as error:
        raise SettingsError(
            f"{PREFIX}{name}: {error}; it takes addresses or networks, such as 10.0.0.0/8, with commas between"
        ) from error


def _model(env: Mapping[str, str]) -> str | None:
    text = env.get(f"{PREFIX}ENGINE_MODEL")
    folder = Path(text).expanduser() if text else None
    # Children run elsewhere: what is a folder here must be the same one there.
    return str(folder.absolute()) if folder is not None and folder.is_dir() else text or None


def _recipe(env: Mapping[str, str]) -> str:
    text = env.get(f"{PREFIX}ENGINE_RECIPE", "")
    try:
        read_wish(text)
    except NoRecipe as error:
        raise SettingsError(f"{PREFIX}ENGINE_RECIPE: {error}") from error
    return text


def _hosts(env: Mapping[str, str], name: str) -> frozenset[str]:
    return frozenset(each.strip().lower() for each in env.get(PREFIX + name, "").split(",") if each.strip())


def _port(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(PREFIX + name)
    if not text:
        return None
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise SettingsError(f"{PREFIX}{name} is {text!r}; it takes a port from 1 to 65535")
    return int(text)


def _count(env: Mapping[str, str], name: str, *, default: int, most: int = 256) -> int:
    text = env.get(PREFIX + name)
    if not text:
        return default
    if not text.isdecimal() or not 0 < int(text) <= most:
        raise SettingsError(f"{PREFIX}{name} is {text!r}; it takes a whole number from 1 to {most}")
    return int(text)


def _keep(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(PREFIX + name)
    if not text:
        return None
    if not text.isdecimal() or not LEAST_KEEP_DAYS <= int(text) <= 36_500:
        raise SettingsError(
            f"{PREFIX}{name} is {text!r}; it takes days from {LEAST_KEEP_DAYS} to 36500, or nothing: kept for ever"
        )
    return int(text)


def _minute(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(PREFIX + name) or "03:00"
    if text == "off":
        return None
    hours, _, minutes = text.partition(":")
    if not (hours.isdecimal() and minutes.isdecimal() and int(hours) < 24 and int(minutes) < 60):
        raise SettingsError(
            f"{PREFIX}{name} is {text!r}; it takes a time of the day, UTC, such as 03:00, or off"
        )
    return int(hours) * 60 + int(minutes)
