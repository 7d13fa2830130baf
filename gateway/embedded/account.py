"""Under which user an embedded server runs: our own, or as root one without any rights of its own.

PostgreSQL refuses to run as root, and a Redis that runs as root would be root for whoever breaks into it.
No account is created: a server needs only a number that nobody else uses.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import TypedDict

from gateway.embedded.errors import EmbeddedError

# From the range that systemd sets aside for services without an account (61184 to 65519).
POSTGRES_ID = 61_432
REDIS_ID = 61_379


class PopenOptions(TypedDict):
    """What subprocess.Popen needs to change the user, or not to."""

    user: int | None
    group: int | None
    extra_groups: list[int] | None
    umask: int


@dataclass(frozen=True, slots=True)
class Account:
    """A user and group by number; root gives files to it and starts servers under it."""

    uid: int
    gid: int


def popen_options(account: Account | None) -> PopenOptions:
    """The change of user for subprocess.Popen; None keeps ours."""
    if account is None:
        return PopenOptions(user=None, group=None, extra_groups=None, umask=-1)
    return PopenOptions(user=account.uid, group=account.gid, extra_groups=[], umask=0o077)


def service_account(number: int) -> Account | None:
    """The account for a server when we are root; None means it runs as we do."""
    return Account(number, number) if os.geteuid() == 0 else None


def named_account() -> Account:
    """An existing account without rights: initdb insists on a name for the user that runs it."""
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedError(
            "PostgreSQL cannot be set up as root here because there is no user 'nobody'; "
            "start Weighbridge as an ordinary user, or set WEIGHBRIDGE_DATABASE_URL."
        ) from None
    return Account(entry.pw_uid, entry.pw_gid)


def own_name() -> str:
    """The name of the user we run as, which PostgreSQL compares with the peer of its socket."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise EmbeddedError(
            f"User id {os.geteuid()} has no name in the user database, which PostgreSQL needs; "
            "start Weighbridge as a user that has one, or set WEIGHBRIDGE_DATABASE_URL."
        ) from None
