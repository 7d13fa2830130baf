"""The embedded Redis: private, without persistence, refusing rather than forgetting."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from redis import Redis

from gateway.embedded.errors import EmbeddedError
from gateway.embedded.redis import EmbeddedRedis


def test_it_keeps_nothing_on_disk_and_evicts_nothing(redis_url: str) -> None:
    with Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.config_get("save") == {"save": ""}
        assert client.config_get("appendonly") == {"appendonly": "no"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_only_its_own_user_reaches_the_socket_and_no_port_is_open(redis_url: str) -> None:
    with Redis.from_url(redis_url, decode_responses=True) as client:
        assert client.config_get("port") == {"port": "0"}
        path = Path(str(client.config_get("unixsocket")["unixsocket"]))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_second_server_on_the_same_home_is_refused_in_one_sentence(
    redis_server: EmbeddedRedis, stores_home: Path
) -> None:
    with pytest.raises(EmbeddedError, match="already run by another process"):
        await EmbeddedRedis(stores_home).start()
    assert redis_server.child.running


async def test_a_killed_server_can_be_started_again(redis_server: EmbeddedRedis, redis_url: str) -> None:
    redis_server.child.kill_group()
    await redis_server.child.wait()
    await redis_server.start()
    with Redis.from_url(redis_url) as client:
        assert client.ping()
