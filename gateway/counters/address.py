"""Where Redis is: the parts of a `redis://`, `rediss://` or `unix://` address."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """One server and how to log in; `repr` shows no password."""

    host: str | None
    port: int
    path: str | None
    database: int
    tls: bool
    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"RedisAddress({self})"

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Read an address; raises ValueError, whose text shows no password."""
        parts = urlsplit(url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError(
                f"a Redis address begins with redis://, rediss:// or unix://, not {parts.scheme or 'nothing'}"
            )
        username = unquote(parts.username) if parts.username else query.get("username")
        password = unquote(parts.password) if parts.password else query.get("password")
        database = query.get("db", "" if parts.scheme == "unix" else parts.path.strip("/")) or "0"
        if not database.isdecimal():
            raise ValueError(f"the Redis database is {database!r}; it takes a number")
        if parts.scheme == "unix":
            if not parts.path:
                raise ValueError("a unix:// address of Redis takes the socket's path")
            return cls(None, 0, unquote(parts.path), int(database), False, username, password)
        return cls(
            parts.hostname or "127.0.0.1", parts.port or 6379, None, int(database), parts.scheme == "rediss",
            username, password,
        )  # fmt: skip
