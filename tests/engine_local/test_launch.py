"""What is said to vLLM: the command, the environment, the address."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engines.local.launch import (
    DEMO_CONTEXT,
    LONGEST_SOCKET_PATH,
    EngineSpec,
    SocketPathTooLong,
    command,
    environment,
)

SPEC = EngineSpec(
    python=Path("/engine/bin/python"),
    socket=Path("/run/with a space/engine.sock"),
    cache=Path("/home/cache"),
    log=Path("/home/engine.log"),
)


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_the_demo_model_is_served_under_its_own_name_on_a_socket() -> None:
    arguments = command(SPEC)
    assert arguments[:2] == ["/engine/bin/python", "-P"]
    assert option(arguments, "--served-model-name") == "mixtral-demo"
    assert option(arguments, "--uds") == "/run/with a space/engine.sock"
    assert "--port" not in arguments
    assert option(arguments, "--max-model-len") == str(DEMO_CONTEXT)
    assert SPEC.url == "unix:/run/with a space/engine.sock"


def test_without_a_socket_it_listens_on_loopback_only() -> None:
    spec = replace(SPEC, socket=None, port=4321)
    arguments = command(spec)
    assert option(arguments, "--host") == "127.0.0.1"
    assert option(arguments, "--port") == "4321"
    assert "--uds" not in arguments
    assert spec.url == "http://127.0.0.1:4321"


def test_the_flags_that_the_gateway_relies_on_are_set_on_every_device() -> None:
    for device in ("cpu", "gpu"):
        arguments = command(replace(SPEC, device=device))
        assert option(arguments, "--scheduling-policy") == "priority"
        assert "--enable-prompt-tokens-details" in arguments
        assert "--enable-prefix-caching" in arguments
        assert "--leash" in arguments


def test_a_model_that_embeds_is_served_in_full_precision_and_generates_nothing() -> None:
    arguments = command(replace(SPEC, embeds=True, adapters=False, served_name="vectors", context=256))
    assert option(arguments, "--runner") == "pooling"
    assert option(arguments, "--dtype") == "float32"
    assert option(arguments, "--served-model-name") == "vectors"
    assert "--leash" in arguments
    assert not {"--enable-prefix-caching", "--scheduling-policy", "--enable-lora"} & set(arguments)
    assert "--runner" not in command(SPEC)


def test_what_spares_a_cpu_is_not_said_to_a_gpu() -> None:
    assert "--enforce-eager" in command(SPEC)
    assert "--enforce-eager" not in command(replace(SPEC, device="gpu"))


def test_the_operators_own_options_come_last() -> None:
    assert command(replace(SPEC, extra=("--max-num-seqs", "4")))[-2:] == ["--max-num-seqs", "4"]


def test_a_socket_path_that_the_system_would_cut_is_refused() -> None:
    with pytest.raises(SocketPathTooLong, match=str(LONGEST_SOCKET_PATH)):
        command(replace(SPEC, socket=Path("/" + "x" * LONGEST_SOCKET_PATH)))


def test_no_secret_of_the_gateway_reaches_the_engine() -> None:
    given = environment(
        SPEC,
        {
            "PATH": "/bin",
            "WEIGHBRIDGE_DATABASE_URL": "postgresql://u:secret@h/d",
            "OPENAI_API_KEY": "secret",
            "DATABRICKS_TOKEN": "secret",
            "PYTHONPATH": "/gateway",
            "VIRTUAL_ENV": "/gateway/.venv",
        },
    )
    assert "secret" not in " ".join(given.values())
    assert given["PATH"] == "/bin"
    assert "PYTHONPATH" not in given
    assert "VIRTUAL_ENV" not in given


def test_the_engine_tells_nobody_about_its_use_and_asks_no_hub() -> None:
    given = environment(SPEC, {})
    assert given["VLLM_NO_USAGE_STATS"] == given["DO_NOT_TRACK"] == given["HF_HUB_OFFLINE"] == "1"


def test_threads_leave_the_cores_to_the_gateway_between_tokens() -> None:
    given = environment(replace(SPEC, threads=2), {"OMP_NUM_THREADS": "64"})
    assert given["OMP_NUM_THREADS"] == "2"
    assert given["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
