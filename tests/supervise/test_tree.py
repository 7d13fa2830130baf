"""The whole tree with real stores and stand-in children: order, restarts, kills, refusals, the stop."""

from __future__ import annotations

import json
import os
import signal
import socket

from gateway.embedded.process import alive
from tests.supervise.terminal import Instance, wait_for


def test_everything_starts_in_order_and_the_screen_says_how_to_begin(instance: Instance) -> None:
    instance.launch()
    instance.until_up()
    wait_for(lambda: "Engine: ready after" in instance.screen)
    wait_for(lambda: sum(event.endswith(" begins") for event in instance.events) == 7)
    begins = [event.removesuffix(" begins") for event in instance.events if event.endswith(" begins")]
    assert begins[:2] == ["migrate", "seed"]
    assert set(begins[2:]) == {"worker-0", "worker-1", "drain", "sql-calls", "engine"}
    # It is started once a worker answers; whoever was started before says so in its own time.
    assert begins[2] != "engine"
    assert f"curl http://127.0.0.1:{instance.port}/v1/chat/completions" in instance.screen
    assert set(instance.children) == {
        "postgres",
        "redis",
        "worker-0",
        "worker-1",
        "drainer",
        "sql-calls",
        "engine",
    }


def test_an_interrupt_stops_everything_in_order_and_leaves_no_process(instance: Instance) -> None:
    process = instance.launch()
    instance.until_up()
    wait_for(lambda: "Engine: ready after" in instance.screen)
    pids = [note["pid"] for note in instance.children.values()]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    ends = [event.removesuffix(" ends") for event in instance.events if event.endswith(" ends")]
    assert set(ends[2:5]) == {"worker-0", "worker-1", "sql-calls"}
    assert ends[5:] == ["drain", "engine"]
    assert not any(alive(pid) for pid in pids)
    assert instance.answers() is None


def test_a_second_start_keeps_the_data(instance: Instance) -> None:
    process = instance.launch()
    instance.until_up()
    before = (instance.home / "postgres" / "PG_VERSION").resolve().stat().st_ino
    process.terminate()
    process.wait(20)
    instance.launch()
    instance.until_up()
    assert (instance.home / "postgres" / "PG_VERSION").resolve().stat().st_ino == before
    assert "PostgreSQL: starting" in instance.screen


def test_killed_stores_come_back_by_themselves(instance: Instance) -> None:
    instance.launch()
    instance.until_up()
    for store in ("redis", "postgres"):
        victim = instance.children[store]["pid"]
        os.kill(victim, signal.SIGKILL)
        wait_for(
            lambda store=store, victim=victim: (
                instance.children.get(store, {}).get("pid") not in (None, victim)
            )
        )
    wait_for(lambda: alive(instance.children["postgres"]["pid"]))


def test_after_a_killed_supervisor_the_next_start_takes_over(instance: Instance) -> None:
    process = instance.launch()
    instance.until_up()
    earlier = [note["pid"] for note in instance.children.values()]
    process.kill()
    process.wait()
    instance.launch()
    instance.until_up()
    assert not any(alive(pid) for pid in earlier)


def test_a_second_instance_on_the_same_home_is_refused_in_one_sentence(light: Instance) -> None:
    process = light.launch()
    light.until_up()
    refused = light.run()
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert f"already runs from {light.home} (process {process.pid}" in refused.stderr


def test_what_a_killed_worker_said_of_the_present_is_taken_back_and_what_it_counted_stays(
    light: Instance,
) -> None:
    folder = light.home / "run" / "metrics"
    folder.mkdir(parents=True)
    earlier = folder / "gauge_livesum_1.db"
    earlier.touch()
    light.launch()
    light.until_up()
    assert not earlier.exists()
    victim, other = (light.children[name]["pid"] for name in ("worker-0", "worker-1"))
    left = {each: folder / f"gauge_livesum_{each}.db" for each in (victim, other)}
    counted = folder / f"counter_{victim}.db"
    for each in (*left.values(), counted):
        each.touch()
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: not left[victim].exists())
    assert left[other].exists()
    assert counted.exists()


def test_a_port_in_use_is_refused_with_the_process_that_holds_it(instance: Instance) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", instance.port))
        taken.listen()
        refused = instance.run()
    assert refused.returncode == 1
    assert f"Port {instance.port} of 127.0.0.1 is in use by process {os.getpid()}" in refused.stderr
    assert not (instance.home / "postgres").exists()


def test_a_failed_migration_stops_the_start_with_its_last_line(light: Instance) -> None:
    light.extra["FAKE_MISBEHAVE"] = "migrate"
    refused = light.run()
    assert refused.returncode == 1
    assert "`weighbridge migrate` failed: revision 0001 cannot be applied" in refused.stderr
    assert "worker-0 begins" not in light.events


def test_workers_that_end_at_once_stop_the_start_with_their_last_line(light: Instance) -> None:
    light.extra["FAKE_MISBEHAVE"] = "worker"
    refused = light.run()
    assert refused.returncode == 1
    assert "ends again and again: worker: no such table" in refused.stderr


def test_an_engine_that_gives_up_is_not_started_again_and_the_gateway_stays(light: Instance) -> None:
    light.extra["FAKE_MISBEHAVE"] = "engine"
    light.launch()
    light.until_up()
    wait_for(lambda: "engine says that it cannot run here" in light.screen)
    assert light.answers() is not None
    assert light.events.count("engine begins") == 1


def test_a_second_interrupt_hastens_a_stop_that_a_worker_holds_up(light: Instance) -> None:
    light.extra["FAKE_MISBEHAVE"] = "deaf"
    process = light.launch()
    light.until_up()
    process.send_signal(signal.SIGINT)
    wait_for(lambda: "Gateway: finishing calls" in light.screen)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0


def test_without_an_engine_none_is_started(light: Instance) -> None:
    light.extra["WEIGHBRIDGE_ENGINE"] = "none"
    light.launch()
    light.until_up()
    assert "engine" not in light.children
    assert "none (WEIGHBRIDGE_ENGINE=none)" in light.screen


def test_stores_of_ones_own_replace_the_embedded_ones(light: Instance) -> None:
    process = light.launch()
    light.until_up()
    assert not {"postgres", "redis"} & set(light.children)
    assert "yours (WEIGHBRIDGE_DATABASE_URL)" in light.screen
    process.terminate()
    process.wait(20)
    assert not (light.home / "postgres").exists()


def test_serve_refuses_to_start_without_stores_of_its_own(instance: Instance) -> None:
    refused = instance.run("serve")
    assert refused.returncode == 1
    assert "needs WEIGHBRIDGE_DATABASE_URL and WEIGHBRIDGE_REDIS_URL" in refused.stderr


def test_the_engine_and_the_workers_are_told_an_address_for_each_replica(light: Instance) -> None:
    light.extra["WEIGHBRIDGE_ENGINE_REPLICAS"] = "2"
    light.launch()
    light.until_up()
    wait_for(lambda: any(event.startswith("engine at ") for event in light.events))
    (told,) = [event.removeprefix("engine at ") for event in light.events if event.startswith("engine at ")]
    one, two = told.split(",")
    assert one.startswith("unix:/") and two.startswith("unix:/") and one != two
    state = json.loads((light.home / "run" / "state.json").read_text())
    assert state["engine_url"] == told
    assert "2 replicas starting" in light.screen


def test_the_embedding_model_is_a_child_of_its_own_that_ends_with_the_engine(light: Instance) -> None:
    light.extra["WEIGHBRIDGE_EMBEDDER"] = "vllm"
    process = light.launch()
    light.until_up()
    wait_for(lambda: any(event.startswith("embedder at ") for event in light.events))
    assert "embedder" in light.children
    told = next(event for event in light.events if event.startswith("embedder at "))
    assert told.startswith("embedder at unix:/")
    process.terminate()
    assert process.wait(20) == 0
    ends = [event for event in light.events if event.endswith(" ends")]
    assert set(ends[-2:]) == {"engine ends", "embedder ends"}
