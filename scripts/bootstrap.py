"""Make `.venv` from the lock files with what a bare Python has; running it again mends what is unfinished.

Needs only Python >= 3.11 and pip, ensurepip or uv; never a compiler. Everything is checked against the lock's
hashes. A stamp (digest of lock and Python) is written last, so that a finished environment costs milliseconds and
an unfinished one is never taken for finished. This file must parse on old Pythons, to be able to refuse them.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCKS = {"gateway": ROOT / "locks" / "gateway.txt", "dev": ROOT / "locks" / "dev.txt"}
# Exists while pip is at work: packages may then be there in part.
UNFINISHED = VENV / ".unfinished"
OLDEST = (3, 11)
# A distribution builds its Python with profile-guided optimisation; it is used where the one on the path was not.
SYSTEM_PYTHON = "/usr/bin/python3"
OLDEST_PIP = (22, 3)
NEEDED_MB = {"gateway": 600, "dev": 1500}
QUIET_SECONDS = 4.0
BEGAN = time.time()

PIP_OPTIONS = [
    "--no-input",
    "--disable-pip-version-check",
    "--no-warn-script-location",
    "--progress-bar",
    "off",
]
WRAPPER = """#!/bin/sh
# Runs Weighbridge from its checkout; written by scripts/bootstrap.py.
bin=$(dirname "$(readlink -f "$0")")
root=$(dirname "$(dirname "$bin")")
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONPATH
exec "$bin/python" -m gateway "$@"
"""


def main(arguments):
    """Bring the environment to the state of the lock that `arguments` asks for."""
    kind = "dev" if "--dev" in arguments else "gateway"
    use_fit_python(arguments)
    with Path(__file__).open() as handle:
        take_turn(handle)
        if is_finished(kind):
            write_wrapper()
            return
        check_room(NEEDED_MB[kind])
        make_venv()
        install(kind)
        write_wrapper()
        write_stamp(kind)
        say("environment: ready")


def use_fit_python(arguments):
    """Go on with another Python of this machine where this one is too old or, unless told `--as-is`, needlessly slow."""
    if sys.version_info >= OLDEST:
        better = None if "--as-is" in arguments else better_python()
        if better:
            if not stamp_path("gateway").exists() and not stamp_path("dev").exists():
                say(
                    f"environment: {sys.executable} was built without --enable-optimizations, taking {better} "
                    f"(PYTHON={sys.executable} keeps it)"
                )
            go_on_with(better, arguments)
        return
    for minor in range(20, OLDEST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            go_on_with(found, arguments)
    fail(
        f"This is Python {version()}; Weighbridge needs Python 3.11 or newer. Install one, "
        "or name it: make run PYTHON=/path/to/python3"
    )


def go_on_with(python, arguments):
    """Become this file's run by another Python."""
    sys.stderr.flush()
    os.execv(python, [python, str(Path(__file__).resolve()), *arguments])


def better_python(own=None, system=SYSTEM_PYTHON):
    """The system's Python where it can do all this and our own was built without optimisation; else None.

    `own` is how our own was configured. A worker takes a sixth more of the processor for each call on a Python built so
    (docs/performance.md), and nobody who installed one by hand would think of it.
    """
    own = sysconfig.get_config_var("CONFIG_ARGS") or "" if own is None else own
    if "--enable-optimizations" in own or not os.access(system, os.X_OK):
        return None
    if os.path.realpath(system) == os.path.realpath(sys.executable):
        return None
    can = "import sys, venv, pip; print(sys.version_info >= %r and tuple(map(int, pip.__version__.split('.')[:2])) >= %r)"
    told = output([system, "-c", can % (OLDEST, OLDEST_PIP)])
    return system if told is not None and told.strip() == "True" else None


def take_turn(handle):
    """Two set-ups at once must not fill one environment."""
    waited = time.time()
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.time() - waited >= QUIET_SECONDS:
                say("environment: another set-up is at work, waiting for it")
                waited = time.time()
            time.sleep(0.2)


def stamp_path(kind):
    """The file that says which lock an environment was made from."""
    return VENV / f".weighbridge-{kind}"


def stamp(kind):
    """What a finished environment's stamp holds."""
    digest = hashlib.sha256(LOCKS[kind].read_bytes())
    digest.update(sys.version.encode())
    digest.update(os.fsencode(sys.base_prefix))
    return digest.hexdigest()


def is_finished(kind):
    """True when the environment was made from this lock by this Python and still runs."""
    # The development lock holds everything that the gateway's does.
    kinds = ["dev"] if kind == "dev" else ["gateway", "dev"]
    return any(read(stamp_path(each)) == stamp(each) for each in kinds) and os.access(str(PYTHON), os.X_OK)


def make_venv():
    """An empty environment, unless a sound one is there to be brought up to date."""
    if VENV.is_symlink() or VENV.exists():
        if not UNFINISHED.exists() and is_sound():
            return
        if not VENV.is_dir() or (any(VENV.iterdir()) and not (VENV / "bin").exists()):
            fail(f"{VENV} is not a virtual environment; move it away, then try again.")
        say("environment: the last set-up did not finish or is for another Python, starting it over")
        try:
            shutil.rmtree(str(VENV))
        except OSError as problem:
            fail(
                f"{problem.filename} cannot be removed ({problem.strerror}); remove {VENV} as the user that made it."
            )
    say(f"environment: making .venv with Python {version()}")
    # Without pip: Debian's python3 has the module venv but, without python3-venv, no ensurepip.
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(VENV)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if made.returncode:
        words = made.stdout.decode(errors="replace").strip().splitlines() or ["it gave no reason"]
        fail(f"Python could not make a virtual environment: {words[-1]}")


def is_sound():
    """True when the environment's Python runs and was made from this one."""
    told = output([str(PYTHON), "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.base_prefix)"])
    return told is not None and told.strip() == f"{version()} {sys.base_prefix}"


def installer():
    """The command that installs into the environment: a pip from anywhere, else uv."""
    # --python runs this machine's pip inside the environment, which PEP 668 does not concern.
    for command in ([sys.executable, "-m", "pip"], ["pip3"], ["pip"]):
        found = re.match(r"pip (\d+)\.(\d+)", output([*command, "--version"]) or "")
        if found and (int(found.group(1)), int(found.group(2))) >= OLDEST_PIP:
            return [*command, "--python", str(PYTHON), "install", *PIP_OPTIONS]
    if output([str(PYTHON), "-m", "ensurepip", "--default-pip"]) is not None:
        return [str(PYTHON), "-m", "pip", "install", *PIP_OPTIONS]
    uv = shutil.which("uv")
    if uv is None:
        fail(
            "This Python has no pip 22.3 or newer, no ensurepip, and there is no uv (Debian: apt install python3-pip)."
        )
    return [uv, "pip", "install", "--python", str(PYTHON)]


def install(kind):
    """Install what the lock lists, hashes checked, nothing resolved, nothing compiled."""
    command = [
        *installer(),
        "--require-hashes",
        "--no-deps",
        "--only-binary",
        ":all:",
        "-r",
        str(LOCKS[kind]),
    ]
    UNFINISHED.touch()
    total = len(re.findall(r"^[A-Za-z0-9].*==", LOCKS[kind].read_text(), re.MULTILINE))
    say(f"environment: installing up to {total} packages from locks/{kind}.txt")
    log = VENV / "install.log"
    progress = Progress(total)
    with log.open("w") as out:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=str(ROOT)
        )
        reader = threading.Thread(target=progress.follow, args=(child.stdout, out), daemon=True)
        reader.start()
        try:
            wait_aloud(child, progress)
        except BaseException:
            child.kill()
            child.wait()
            raise
        reader.join()
    if child.returncode:
        explain(progress.tail, log)
    UNFINISHED.unlink()


class Progress:
    """Pip's words: all in the log, the last few for a sentence, the packages counted."""

    def __init__(self, total):
        self.total = total
        self.seen = 0
        self.tail = []

    def follow(self, stream, out):
        """Read to the end."""
        for raw in stream:
            line = raw.decode(errors="replace").strip()
            out.write(line + "\n")
            out.flush()
            if line.startswith(("Collecting ", "Processing ", "Ignoring ", "Requirement already satisfied")):
                self.seen = min(self.seen + 1, self.total)
            if line and not line.startswith("WARNING"):
                self.tail = [*self.tail[-30:], line]

    def __str__(self):
        doing = self.tail[-1].split(" (from ")[0] if self.tail else "starting"
        if doing.startswith("Installing collected packages"):
            return f"unpacking {self.seen} packages"
        return f"{self.seen} of {self.total} packages, {doing[:70]}"


def wait_aloud(child, progress):
    """Wait for pip and say how far it is at least every five seconds."""
    said = time.time()
    while True:
        try:
            child.wait(timeout=0.25)
            return
        except subprocess.TimeoutExpired:
            if time.time() - said >= QUIET_SECONDS:
                said = time.time()
                say(f"environment: {progress}")


def explain(tail, log):
    """Turn pip's last words into one sentence."""
    text = "\n".join(tail)
    errors = [line for line in tail if line.startswith("ERROR")] or tail or ["no output"]
    if re.search(r"No space left on device|Errno 28|Disk quota exceeded", text):
        fail(f"The disk of {ROOT} is full; free some space, then run it again.")
    if re.search(r"NewConnectionError|ConnectTimeout|name resolution|dns error|Errno -2", text):
        fail(
            "The package index cannot be reached; check the network or pip's configuration, then run it again."
        )
    if "DO NOT MATCH THE HASHES" in text:
        fail(
            "A downloaded package is not the one that the lock file names (its hash differs); nothing was installed."
        )
    fail(f"Installing failed: {errors[-1]} (see {log})")


def check_room(needed):
    """Refuse to begin what cannot fit or may not be written."""
    if not os.access(str(ROOT), os.W_OK):
        fail(f"{ROOT} cannot be written to by this user; clone the project into a folder of yours.")
    free = shutil.disk_usage(str(ROOT)).free // 1000000
    if free < needed:
        fail(f"Only {free} MB are free on the disk of {ROOT}, and {needed} MB are needed; free some space.")


def write_wrapper():
    """The command `weighbridge`, which needs no installation of the project itself."""
    path = VENV / "bin" / "weighbridge"
    if read(path) != WRAPPER:
        fresh = path.with_name("weighbridge.new")
        fresh.write_text(WRAPPER)
        fresh.chmod(0o755)
        fresh.replace(path)


def write_stamp(kind):
    """Say that the environment is finished; what an older stamp said no longer holds."""
    for each in LOCKS:
        if stamp_path(each).exists():
            stamp_path(each).unlink()
    stamp_path(kind).write_text(stamp(kind))


def read(path):
    """A file's text, empty where there is none."""
    try:
        return path.read_text()
    except OSError:
        return ""


def output(command):
    """What a command prints; None when it cannot be run or fails."""
    try:
        told = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    except OSError:
        return None
    return told.stdout.decode(errors="replace") if told.returncode == 0 else None


def version():
    """This Python's version, as people write it."""
    return ".".join(str(part) for part in sys.version_info[:2])


def say(text):
    """One line of progress."""
    sys.stderr.write(f"[{time.time() - BEGAN:6.1f} s] {text}\n")
    sys.stderr.flush()


def fail(text) -> NoReturn:
    """End with one sentence."""
    sys.stderr.write(f"weighbridge: {text}\n")
    sys.exit(1)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
