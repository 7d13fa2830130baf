"""Stands for `python -m gateway` below the supervisor: small children that behave, or misbehave as told.

FAKE_MISBEHAVE is a space-separated list: `migrate` fails, `worker` ends at once, `engine` gives up (78),
`deaf` workers ignore SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import FrameType

HOME = Path(os.environ["WEIGHBRIDGE_HOME"])
MISBEHAVE = os.environ.get("FAKE_MISBEHAVE", "").split()


def note(text: str) -> None:
    """Append to the order of events that tests read."""
    with (HOME / "events").open("a") as file:
        file.write(text + "\n")


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ready = self.path != "/readyz" or (HOME / "engine-ready").exists()
        body = str(os.getpid()).encode()
        if self.path == "/slow":
            time.sleep(1)
        self.send_response(200 if ready else 503)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        print(format % args, flush=True)


def work(descriptor: int) -> None:
    if "worker" in MISBEHAVE:
        sys.exit("worker: no such table")
    server = HTTPServer(("", 0), Answer, bind_and_activate=False)
    server.socket = socket.socket(fileno=descriptor)
    server.server_address = server.socket.getsockname()[:2]
    server.server_name, server.server_port = "fake", server.server_address[1]

    def stop(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in MISBEHAVE else stop)
    server.serve_forever(poll_interval=0.05)
    server.server_close()


def idle(name: str) -> None:
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: asked.set())
    if name == "engine":
        if "engine" in MISBEHAVE:
            print("no engine for this machine", flush=True)
            sys.exit(78)
        note(f"engine at {os.environ['WEIGHBRIDGE_ENGINE_URL']}")
        (HOME / "engine-ready").touch()
    if name == "embedder":
        note(f"embedder at {os.environ['WEIGHBRIDGE_EMBEDDER_URL']}")
    asked.wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command")
    parser.add_argument("--index")
    parser.add_argument("--fd", type=int)
    arguments = parser.parse_args()
    name = arguments.command + (f"-{arguments.index}" if arguments.index else "")
    note(f"{name} begins")
    match arguments.command:
        case "migrate" if "migrate" in MISBEHAVE:
            sys.exit("revision 0001 cannot be applied")
        case "migrate" | "seed":
            assert "weighbridge_owner" in os.environ["WEIGHBRIDGE_MIGRATE_DATABASE_URL"]
        case "worker":
            work(arguments.fd)
        case _:
            idle(name)
    note(f"{name} ends")


main()
