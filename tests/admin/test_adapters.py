"""Adapters over HTTP: what is taken, what is refused, and that nothing in place is ever overwritten."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from engines.local.adapters import CONFIG, LARGEST_BYTES, WEIGHTS, read_adapter
from engines.local.launch import SHIPPED_ADAPTERS
from gateway.__main__ import main
from gateway.http.admin import adapters as route

SHIPPED = SHIPPED_ADAPTERS / "mixtral-demo-sql"
GOOD: dict[str, Any] = json.loads((SHIPPED / CONFIG).read_bytes())
PATH = "/admin/v1/adapters"
QUERY = "base_model.model.model.layers.{}.self_attn.q_proj"


def weights(rank: int = 4, layer: int = 0, width: int = 128, **change: Any) -> bytes:
    """A file of one layer's query projection; `change` replaces fields of its first matrix."""
    size = 2 * rank * width
    name = QUERY.format(layer)
    first: dict[str, Any] = {"dtype": "BF16", "shape": [rank, width], "data_offsets": [0, size]}
    second = {"dtype": "BF16", "shape": [128, rank], "data_offsets": [size, size + 2 * rank * 128]}
    head = json.dumps({f"{name}.lora_A.weight": first | change, f"{name}.lora_B.weight": second}).encode()
    return len(head).to_bytes(8, "little") + head + bytes(size + 2 * rank * 128)


def config(**change: Any) -> bytes:
    return json.dumps(GOOD | {"r": 4, "target_modules": ["q_proj"]} | change).encode()


@pytest.fixture
def folder(deployment: Any) -> Iterator[Path]:
    """Where adapters of the deployment's home are; empty before and after."""
    found: Path = deployment.home / "adapters"
    shutil.rmtree(found, ignore_errors=True)
    yield found
    shutil.rmtree(found, ignore_errors=True)


async def send(deployment: Any, name: str, files: Any = None, as_: str = "admin", **headers: str) -> Any:
    sent = {"authorization": f"Bearer {deployment.keys[as_]}"} | headers
    files = {"config": ("a", config()), "weights": ("b", weights())} if files is None else files
    return await deployment.client.put(f"{PATH}/{name}", files=files, headers=sent)


def left(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir()) if folder.exists() else []


async def test_an_upload_is_in_place_whole_audited_and_can_be_read_and_deleted(
    deployment: Any, folder: Path
) -> None:
    answer = await send(deployment, "support")
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert made["sha256"] == {
        CONFIG: hashlib.sha256(config()).hexdigest(),
        WEIGHTS: hashlib.sha256(weights()).hexdigest(),
    }
    assert (made["rank"], made["loaded"], made["made_for"]) == (4, False, "mixtral-demo")
    assert sorted(each.name for each in (folder / "support").iterdir()) == [CONFIG, WEIGHTS]
    assert read_adapter(folder / "support").rank == 4
    listed = (await deployment.ask("GET", PATH, "auditor")).json()["items"]
    assert {each["name"]: each["ships"] for each in listed} == {"mixtral-demo-sql": True, "support": False}
    read = await deployment.ask("GET", f"{PATH}/support", "auditor")
    assert read.json()["sha256"] == made["sha256"]
    assert (await deployment.ask("DELETE", f"{PATH}/support")).status_code == 428
    assert (await deployment.ask("DELETE", f"{PATH}/support", if_match='"x"')).status_code == 412
    gone = await deployment.ask("DELETE", f"{PATH}/support", if_match=read.headers["etag"])
    assert gone.status_code == 204, gone.text
    assert left(folder) == []
    assert (await deployment.ask("GET", f"{PATH}/support")).status_code == 404
    audit = (await deployment.ask("GET", "/admin/v1/audit?object_kind=adapter&object_id=support")).json()
    assert [each["action"] for each in audit["items"]] == ["adapter.delete", "adapter.upload"]
    assert audit["items"][1]["after"]["sha256"] == made["sha256"]


async def test_the_same_files_again_change_nothing_and_others_are_refused(
    deployment: Any, folder: Path
) -> None:
    assert (await send(deployment, "again")).status_code == 201
    before = read_adapter(folder / "again").version
    assert (await send(deployment, "again")).status_code == 200
    other = await send(deployment, "again", {"config": config(lora_alpha=1), "weights": weights()})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "adapter_exists")
    assert read_adapter(folder / "again").version == before
    assert left(folder) == ["again"]


async def test_of_two_uploads_at_once_one_is_in_place_and_both_are_answered(
    deployment: Any, folder: Path
) -> None:
    forms = [{"config": config(lora_alpha=each), "weights": weights()} for each in (1, 2)]
    answers = await asyncio.gather(*(send(deployment, "race", each) for each in forms))
    assert sorted(each.status_code for each in answers) == [201, 409]
    won = next(number for number, each in enumerate(answers) if each.status_code == 201)
    assert json.loads((folder / "race" / CONFIG).read_bytes())["lora_alpha"] == won + 1
    assert left(folder) == ["race"]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"config": config()}, "lacks weights"),
        ({"weights": weights()}, "lacks config"),
        ({"config": config(), "weights": weights(), "more": b"x"}, "part 'more'"),
        ([("config", config()), ("config", config())], "config twice"),
        ({"../../escape": config(), "weights": weights()}, "part '../../escape'"),
        ({"config": b"[" * 100_000, "weights": weights()}, "cannot be read"),
        ({"config": config(peft_type="IA3"), "weights": weights()}, "peft_type"),
        ({"config": config(r=128), "weights": weights()}, "rank is 128"),
        ({"config": config(r=8), "weights": weights()}, "not of rank 8"),
        ({"config": config(modules_to_save=["lm_head"]), "weights": weights()}, "replaces whole modules"),
        ({"config": config(base_model_name_or_path="mistralai/Mixtral-8x7B-v0.1"), "weights": weights()}, "made for"),
        ({"config": config(), "weights": b"\x80\x05\x95pickle" * 9}, "safetensors format"),
        ({"config": config(), "weights": b"PK\x03\x04" + bytes(99)}, "safetensors format"),
        ({"config": config(), "weights": weights()[:-1]}, "not whole"),
        ({"config": config(), "weights": weights(dtype="I64")}, "holds I64"),
        ({"config": config(), "weights": weights(data_offsets=[0, 4])}, "contradicts itself"),
        ({"config": config(), "weights": weights(layer=4)}, "layer 4"),
        ({"config": config(), "weights": weights(width=256)}, "width of 256"),
    ],
)  # fmt: skip
async def test_what_cannot_be_served_is_refused_in_words_and_leaves_nothing(
    deployment: Any, folder: Path, files: Any, why: str
) -> None:
    answer = await send(deployment, "bad", files)
    assert answer.status_code == 400, answer.text
    assert why in answer.json()["error"]["message"], answer.text
    assert left(folder) == []


@pytest.mark.parametrize("name", ["UPPER", "a%20b", "%2e%2e", ".hidden", "x" * 64, "mixtral-demo", "a%5Cb"])
async def test_a_name_that_is_none_or_the_base_models_is_refused(
    deployment: Any, folder: Path, name: str
) -> None:
    answer = await send(deployment, name)
    assert answer.status_code in (400, 404, 405), answer.text
    assert left(folder) == []


async def test_a_file_says_nothing_about_where_it_goes(deployment: Any, folder: Path) -> None:
    form = {"config": ("../../../etc/passwd", config()), "weights": ("adapter_model.bin", weights())}
    assert (await send(deployment, "named", form)).status_code == 201
    assert sorted(each.name for each in (folder / "named").iterdir()) == [CONFIG, WEIGHTS]


@pytest.mark.parametrize("told", [True, False])
async def test_too_much_is_refused_with_413_before_it_is_kept(
    deployment: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    monkeypatch.setattr(route, "LARGEST_BYTES", 1000)
    monkeypatch.setattr(route, "_LARGEST_BODY", 2000 if told else LARGEST_BYTES)
    answer = await send(deployment, "large")
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert left(folder) == []


async def test_what_is_no_form_or_ends_early_is_refused(deployment: Any, folder: Path) -> None:
    answer = await deployment.ask("PUT", f"{PATH}/x", json={"config": 1})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")
    sent = {
        "authorization": f"Bearer {deployment.keys['admin']}",
        "content-type": "multipart/form-data; boundary=b",
    }

    async def cut() -> AsyncIterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="config"\r\n\r\n{"peft'

    answer = await deployment.client.put(f"{PATH}/x", content=cut(), headers=sent)
    assert answer.status_code == 400, answer.text
    assert left(folder) == []


async def test_a_full_disk_is_said_to_be_one(
    deployment: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.adapter_shelf._SPARE_BYTES", 1 << 62)
    answer = await send(deployment, "large")
    assert answer.status_code == 503
    assert "no room" in answer.json()["error"]["message"]


async def test_only_administrators_upload_and_delete(deployment: Any, folder: Path) -> None:
    for role in ("auditor", "demo"):
        assert (await send(deployment, "x", as_=role)).status_code == 403
        assert (await deployment.ask("DELETE", f"{PATH}/x", role)).status_code == 403
    assert left(folder) == []


async def test_what_a_served_entity_names_is_not_deleted_nor_what_ships(
    deployment: Any, folder: Path
) -> None:
    assert (await send(deployment, "called")).status_code == 201
    entity = {"name": "called", "kind": "local", "provider": "vllm", "model": "called"}
    endpoint = await deployment.made("/admin/v1/endpoints", {"name": "calls-it", "served_entities": [entity]})
    refused = await deployment.ask("DELETE", f"{PATH}/called", if_match="*")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "adapter_in_use")
    assert "calls-it" in refused.json()["error"]["message"]
    assert left(folder) == ["called"]
    await deployment.changed("DELETE", f"/admin/v1/endpoints/{endpoint['id']}")
    assert (await deployment.ask("DELETE", f"{PATH}/called", if_match="*")).status_code == 204
    shipped = await deployment.ask("DELETE", f"{PATH}/mixtral-demo-sql", if_match="*")
    assert shipped.status_code == 409
    assert "ships" in shipped.json()["error"]["message"]
    taken = await send(deployment, "mixtral-demo-sql")
    assert (taken.status_code, left(folder)) == (409, [])


async def test_a_gateway_whose_engine_is_somebody_elses_says_so(deployment: Any) -> None:
    shelf = deployment.control.adapters
    object.__setattr__(deployment.control, "adapters", None)
    try:
        for answer in (await send(deployment, "x"), await deployment.ask("GET", PATH)):
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_local_engine")
    finally:
        object.__setattr__(deployment.control, "adapters", shelf)


async def test_the_command_uploads_through_the_gateway(
    deployment: Any, served: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in served.items():
        monkeypatch.setenv(name, value)
    source = tmp_path / "Fine-Tuned"
    source.mkdir()
    (source / CONFIG).write_bytes(config())
    # Larger than what is sent at once.
    (source / WEIGHTS).write_bytes((SHIPPED / WEIGHTS).read_bytes())
    run = CliRunner()
    upload = ["engine", "adapters", "upload", str(source)]
    wrong = await asyncio.to_thread(run.invoke, main, upload)
    assert wrong.exit_code == 1
    assert "not of rank 4" in wrong.output
    (source / CONFIG).write_bytes((SHIPPED / CONFIG).read_bytes())
    done = await asyncio.to_thread(run.invoke, main, [*upload, "--name", "sent"])
    assert done.exit_code == 0, done.output
    assert hashlib.sha256((SHIPPED / WEIGHTS).read_bytes()).hexdigest() in done.output
    assert (folder / "sent" / WEIGHTS).read_bytes() == (SHIPPED / WEIGHTS).read_bytes()
    (source / WEIGHTS).unlink()
    missing = await asyncio.to_thread(run.invoke, main, upload)
    assert missing.exit_code == 1
    assert WEIGHTS in missing.output
