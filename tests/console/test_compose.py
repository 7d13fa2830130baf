"""The container files: what they promise is checked here without a container engine, which none of this needs.

Where a Compose client is on the machine, it is asked as well; the images themselves are built and run elsewhere.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LONG_RUNNING = ("gateway", "postgres", "redis", "engine-cpu", "engine-gpu")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text("utf-8")


def client() -> list[str] | None:
    """A Compose client: named in WEIGHBRIDGE_TEST_COMPOSE, on the PATH, or the plugin of docker."""
    if found := shutil.which(os.environ.get("WEIGHBRIDGE_TEST_COMPOSE") or "docker-compose"):
        return [found]
    docker = shutil.which("docker")
    if (
        docker
        and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0
    ):
        return [docker, "compose"]
    return None


@pytest.mark.skipif(
    client() is None, reason="no Compose client on this machine (WEIGHBRIDGE_TEST_COMPOSE may name one)"
)
@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_a_compose_client_accepts_the_file(profile: str) -> None:
    command = client()
    assert command is not None
    found = subprocess.run(
        [*command, "--profile", profile, "config", "--quiet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr


def test_every_long_running_service_restarts_and_says_whether_it_is_healthy(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {*LONG_RUNNING, "setup"}
    for name in LONG_RUNNING:
        assert services[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert services[name]["restart"] == "unless-stopped", name
    assert services["setup"]["restart"] == "no"


def test_each_profile_brings_one_engine_under_the_same_name(compose: dict[str, Any]) -> None:
    engines = {name: service for name, service in compose["services"].items() if "profiles" in service}
    assert {name: service["profiles"] for name, service in engines.items()} == {
        "engine-cpu": ["cpu"],
        "engine-gpu": ["gpu"],
    }
    for service in engines.values():
        assert service["networks"]["engine"]["aliases"] == ["engine"]
    command = engines["engine-gpu"]["command"]
    assert "--model=mistralai/Mixtral-8x7B-Instruct-v0.1" in command
    # The first served name is what answers carry: never a bigger model than the one that runs.
    assert command[command.index("--served-model-name") + 1] == "mixtral-8x7b-instruct"


def test_no_secret_is_in_the_files_and_every_one_used_is_a_file_that_git_ignores(
    compose: dict[str, Any], dockerfile: str
) -> None:
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert "var/" in ignored
    for name, secret in compose["secrets"].items():
        assert secret == {"file": f"./var/secrets/{name}"}
    used = {secret for service in compose["services"].values() for secret in service.get("secrets", [])}
    assert used == set(compose["secrets"])
    text = (ROOT / "docker-compose.yml").read_text("utf-8") + dockerfile
    assert not re.search(
        r"(?i)(password|secret|token|key)\s*[:=]\s*['\"]?[A-Za-z0-9+/_-]{12,}['\"]?\s*$", text, re.MULTILINE
    )
    assert not re.search(r"gk_[a-z0-9]+_|hf_[A-Za-z0-9]{8}", text)


def test_what_must_outlive_a_container_is_on_a_volume(compose: dict[str, Any]) -> None:
    mounts = {name: service.get("volumes", []) for name, service in compose["services"].items()}
    assert "home:/var/lib/weighbridge" in mounts["gateway"]
    assert "postgres:/var/lib/postgresql" in mounts["postgres"]
    assert "redis:/data" in mounts["redis"]
    assert set(compose["volumes"]) == {mount.split(":")[0] for listed in mounts.values() for mount in listed}


def test_only_the_gateway_is_published_and_only_on_this_machine(compose: dict[str, Any]) -> None:
    published = {
        name: service["ports"] for name, service in compose["services"].items() if "ports" in service
    }
    assert published == {"gateway": ["${WEIGHBRIDGE_PUBLISH:-127.0.0.1:8080}:8080"]}
    assert compose["networks"]["stores"] == compose["networks"]["engine"] == {"internal": True}
    for name in ("postgres", "redis"):
        assert compose["services"][name]["networks"] == ["stores"]


def test_the_gateway_needs_nothing_but_its_volume_to_write_to(
    compose: dict[str, Any], dockerfile: str
) -> None:
    gateway = compose["services"]["gateway"]
    assert gateway["read_only"] is True
    assert gateway["cap_drop"] == ["ALL"]
    users = re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE)
    assert users == ["10001:10001", "10001:10001"]


def test_packages_are_installed_by_hash_and_no_index_is_named(dockerfile: str) -> None:
    assert "--require-hashes --no-deps -r /locks/gateway.txt" in dockerfile
    assert "://" not in re.sub(r"postgresql://|redis://|http://127\.0\.0\.1", "", dockerfile)


def test_every_image_is_named_with_a_version(compose: dict[str, Any], dockerfile: str) -> None:
    images = [service["image"] for service in compose["services"].values()] + re.findall(
        r"_IMAGE=(\S+)", dockerfile
    )
    for image in images:
        assert re.search(r":(local$|v?\d)", image), image


def test_everything_the_images_copy_is_in_the_build_context(dockerfile: str) -> None:
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")
    }
    copied = re.findall(r"^COPY (?!--)(\S+) ", dockerfile, re.MULTILINE)
    assert copied
    for source in copied:
        assert source.split("/")[0] in allowed, source
        assert (ROOT / source).exists(), source


def test_the_entry_point_puts_addresses_together_from_the_secret_files(
    tmp_path: Path, dockerfile: str
) -> None:
    script = re.search(r"<<'EOF' /usr/local/bin/weighbridge\n(.*?)\nEOF\n", dockerfile, re.DOTALL)
    assert script is not None
    (tmp_path / "secrets").mkdir()
    for name, value in {
        "postgres_app": "a1\n",
        "postgres_owner": "b2",
        "redis": "c3",
        "master_key": "d4",
    }.items():
        (tmp_path / "secrets" / name).write_text(value)
    interpreter = tmp_path / "python"
    interpreter.write_text('#!/bin/sh\necho "$@"\nenv | grep ^WEIGHBRIDGE_\n')
    interpreter.chmod(interpreter.stat().st_mode | stat.S_IXUSR)
    text = (
        script[1]
        .replace("/run/secrets", str(tmp_path / "secrets"))
        .replace("/opt/weighbridge/bin/python", str(interpreter))
    )
    path = {"PATH": os.environ["PATH"]}
    shown = subprocess.run(
        ["sh", "-c", text, "sh", "serve"], env=path, capture_output=True, text=True, check=True
    ).stdout
    assert set(shown.splitlines()) == {
        "-m gateway serve",
        "WEIGHBRIDGE_DATABASE_URL=postgresql://weighbridge:a1@postgres:5432/system",
        "WEIGHBRIDGE_MIGRATE_DATABASE_URL=postgresql://weighbridge_owner:b2@postgres:5432/system",
        "WEIGHBRIDGE_REDIS_URL=redis://:c3@redis:6379/0",
        f"WEIGHBRIDGE_SECRET_FILE={tmp_path}/secrets/master_key",
    }
