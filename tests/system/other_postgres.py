"""Other PostgreSQL servers than the embedded one, of whatever majors the machine has: one is set up, started and removed.

Found are Debian's, and the folders that WEIGHBRIDGE_TEST_POSTGRES names: each has a `bin` with `postgres` and `initdb`.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from gateway.embedded.account import POSTGRES_ID, named_account, popen_options, service_account

OLDEST = 14


def installed() -> Mapping[str, Path]:
    """The folders of programs by version, one of each major."""
    named = os.environ.get("WEIGHBRIDGE_TEST_POSTGRES", "").split(os.pathsep)
    folders = [
        *(Path(each) for each in named if each),
        *sorted(Path("/usr/lib/postgresql").glob("*")),
    ]
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            answer = subprocess.run(
                [folder / "bin" / "postgres", "--version"],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        version = re.search(r"(\d+)\.\d+", answer.stdout)
        if version is not None and int(version[1]) >= OLDEST:
            found.setdefault(version[1], folder)
    return found


@asynccontextmanager
async def server(programs: Path) -> AsyncIterator[str]:
    """A running server, by the folder of its sockets; everybody there is trusted."""
    # As root it runs under the number of the embedded one, whose sockets are for that number alone.
    account = service_account(POSTGRES_ID)
    home = Path(tempfile.mkdtemp(prefix="wb-pg-"))
    data, log = home / "data", home / "log"
    maker = None if account is None else named_account()
    try:
        data.mkdir()
        if maker is not None:
            home.chmod(0o711)
            os.chown(data, maker.uid, maker.gid)
        await asyncio.to_thread(
            subprocess.run,
            [programs / "bin" / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale", "C", "--no-sync"],
            capture_output=True, check=True, cwd=data, **popen_options(maker),
        )  # fmt: skip
        if account is not None:
            for each in (home, data, *data.rglob("*")):
                os.chown(each, account.uid, account.gid)
        with log.open("wb") as output:
            running = subprocess.Popen(
                [programs / "bin" / "postgres", "-D", data, "-k", home, "-c", "listen_addresses=", "-c", "fsync=off"],
                stdout=output, stderr=output, cwd=data, **popen_options(account),
            )  # fmt: skip
        try:
            await _answers(home, running, log)
            yield str(home)
        finally:
            running.send_signal(signal.SIGQUIT)
            await asyncio.to_thread(running.wait)
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def _answers(home: Path, running: subprocess.Popen[bytes], log: Path) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                connection = await asyncpg.connect(host=str(home), user="postgres", database="postgres")
            except (OSError, asyncpg.PostgresError):
                assert running.poll() is None, log.read_text()
                await asyncio.sleep(0.1)
            else:
                await connection.close()
                return
