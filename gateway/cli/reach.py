"""How a command finds the deployment that the environment names: its database, its admin API, its administrator.

Nothing is started here; what does not run, or is not there, is a sentence with the remedy.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit, urlunsplit
from urllib.request import Request, urlopen

from gateway.settings import Settings

_SECONDS = 15.0
_UPLOAD_SECONDS = 600.0
"""Between two signs of life: what was sent is written through to the disk and read once more before the answer."""


class CannotReach(Exception):
    """The command cannot do its work; the text says why and what to do."""


def database_url(settings: Settings, role: str) -> str:
    """The database as `role`: the embedded one where the environment names no other."""
    if settings.database_url is not None:
        return settings.database_url
    try:
        note = (settings.home / "postgres" / "postmaster.pid").read_text().splitlines()
    except OSError:
        note = []
    # Line 4 is the port, line 5 the folder of the socket, line 8 the server's word on itself.
    if len(note) < 8 or note[7].strip() != "ready":
        raise CannotReach(
            f"No PostgreSQL runs in {settings.home}; start it with `weighbridge up`, or set WEIGHBRIDGE_DATABASE_URL."
        )
    query = {"host": note[4].strip()}
    if note[3].strip() != "5432":
        query["port"] = note[3].strip()
    return f"postgresql://{quote(role)}@/system?{urlencode(query, safe='/')}"


def role_url(settings: Settings, role: str) -> str:
    """The database as another role than the application's."""
    url = database_url(settings, role)
    if settings.database_url is None:
        return url
    # Somebody else's PostgreSQL: the same address, another role, whose password libpq's own places may hold.
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))


def redis_url(settings: Settings) -> str:
    """Redis: the embedded one where the environment names no other."""
    if settings.redis_url is not None:
        return settings.redis_url
    run = settings.home / "run"
    folders = [run]
    with suppress(OSError):
        # Where the home's path is too long for a socket, this file says where it is instead.
        folders.append(Path((run / "socket-folder").read_text().strip()))
    for folder in folders:
        if (folder / "redis" / "redis.sock").exists():
            return f"unix://{folder / 'redis' / 'redis.sock'}?db=0"
    raise CannotReach(
        f"No Redis runs in {settings.home}; start it with `weighbridge up`, or set WEIGHBRIDGE_REDIS_URL."
    )


def owner_url(settings: Settings) -> str:
    """The database as the schema's owner."""
    return settings.migrate_database_url or database_url(settings, "weighbridge_owner")


class AdminApi:
    """The admin API of the running gateway, as its administrator."""

    def __init__(self, settings: Settings, key_file: Path | None = None) -> None:
        path = key_file or settings.home / "admin.key"
        try:
            self._key = path.read_text().strip()
        except OSError as exc:
            raise CannotReach(
                f"The administrator's key {path} cannot be read ({exc.strerror}); "
                "name another file with --admin-key, or run `weighbridge seed` to make a new key."
            ) from exc
        host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - compared, not bound
        self._base = (
            f"http://{f'[{host}]' if ':' in host else host}:{settings.admin_port or settings.port}/admin/v1"
        )

    def get(self, path: str, **query: str | None) -> Any:
        """The answer's JSON."""
        return self._call("GET", path, query)[0]

    def pages(self, path: str, **query: str | None) -> list[Any]:
        """Every object of a list, page by page."""
        found: list[Any] = []
        after: str | None = None
        while True:
            page = self.get(path, limit="200", after=after, **query)
            found += page["items"]
            after = page["next"]
            if after is None:
                return found

    def post(self, path: str, body: Any) -> Any:
        """Create something."""
        return self._call("POST", path, {}, body)[0]

    def put(self, path: str, body: Any) -> Any:
        """Set something."""
        return self._call("PUT", path, {}, body)[0]

    def act(self, path: str, action: str, body: Any) -> Any:
        """Do something to what is at the path, as it is now."""
        _, etag = self._call("GET", path, {})
        return self._call("POST", f"{path}/{action}", {}, body, etag=etag)[0]

    def upload(self, path: str, parts: Mapping[str, Path]) -> Any:
        """Send files as the parts of a form, read as they are sent."""
        boundary = secrets.token_hex(16)
        heads = {
            part: f'--{boundary}\r\nContent-Disposition: form-data; name="{part}"; filename="{part}"\r\n\r\n'.encode()
            for part in parts
        }
        end = f"--{boundary}--\r\n".encode()
        length = len(end) + sum(len(heads[part]) + file.stat().st_size + 2 for part, file in parts.items())

        def pieces() -> Iterator[bytes]:
            for part, path in parts.items():
                yield heads[part]
                with path.open("rb") as file:
                    while piece := file.read(1 << 18):
                        yield piece
                yield b"\r\n"
            yield end

        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(length),
        }
        return self._ask("PUT", path, pieces(), headers, _UPLOAD_SECONDS)[0]

    def delete(self, path: str) -> Any:
        """Delete or revoke what is at the path, as it is now."""
        _, etag = self._call("GET", path, {})
        return self._call("DELETE", path, {}, etag=etag)[0]

    def _call(
        self, method: str, path: str, query: dict[str, str | None], body: Any = None, etag: str | None = None
    ) -> tuple[Any, str | None]:
        given = {name: value for name, value in query.items() if value is not None}
        headers = {"Content-Type": "application/json"}
        if etag is not None:
            headers["If-Match"] = etag
        data = None if body is None else json.dumps(body).encode()
        return self._ask(method, f"{path}{'?' + urlencode(given) if given else ''}", data, headers, _SECONDS)

    def _ask(
        self,
        method: str,
        path: str,
        data: bytes | Iterator[bytes] | None,
        headers: Mapping[str, str],
        seconds: float,
    ) -> tuple[Any, str | None]:
        sent = {"Authorization": f"Bearer {self._key}", **headers}
        try:
            with urlopen(Request(self._base + path, data, sent, method=method), timeout=seconds) as answer:  # noqa: S310 - http, from the settings
                text = answer.read()
                return (json.loads(text) if text else None), answer.headers.get("etag")
        except HTTPError as exc:
            raise CannotReach(_said(exc)) from exc
        except (URLError, OSError) as exc:
            raise CannotReach(
                f"The gateway does not answer at {self._base} ({getattr(exc, 'reason', exc)}); "
                "start it with `weighbridge up`, or set WEIGHBRIDGE_HOST and WEIGHBRIDGE_PORT to where it listens."
            ) from exc


def _said(error: HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"The gateway answered {error.code}."
