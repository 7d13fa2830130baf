"""nginx as a bare proxy before the same upstream: the floor that every figure stands beside."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from bench.ports import free_port, until_open
from gateway.embedded.process import Child, spawn

_CONF = """
worker_processes 1;
daemon off;
{user}
pid {home}/nginx.pid;
error_log {home}/error.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {home}/body;
  proxy_temp_path {home}/proxy;
  fastcgi_temp_path {home}/fastcgi;
  uwsgi_temp_path {home}/uwsgi;
  scgi_temp_path {home}/scgi;
  keepalive_requests 100000000;
  tcp_nodelay on;
  client_max_body_size 8m;
  upstream engine {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""


def program() -> str | None:
    """Where nginx is, None where there is none."""
    return shutil.which("nginx") or next(
        (each for each in ("/usr/sbin/nginx", "/usr/local/sbin/nginx") if Path(each).exists()), None
    )


class Nginx:
    """One nginx with one worker."""

    def __init__(self, home: Path, upstream_port: int) -> None:
        self._home = home
        self._upstream = upstream_port
        self.port = 0
        self._child: Child | None = None

    @property
    def pid(self) -> int:
        """The master's process id."""
        assert self._child is not None
        return self._child.pid

    async def start(self, nginx: str, *, as_root: bool) -> None:
        """Start and wait until it listens."""
        self._home.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        conf = self._home / "nginx.conf"
        conf.write_text(
            _CONF.format(
                home=self._home,
                port=self.port,
                upstream=self._upstream,
                user="user root;" if as_root else "",
            )
        )
        self._child = spawn(
            "nginx",
            [nginx, "-p", self._home, "-c", conf],
            log=self._home / "nginx.log",
            death_signal=signal.SIGTERM,
            cwd=self._home,
        )
        await until_open(self.port, "nginx", self._home / "error.log")

    async def stop(self) -> None:
        """Stop it."""
        if self._child is not None:
            await self._child.stop(signal.SIGTERM, 5.0)
            self._child = None
