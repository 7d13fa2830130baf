"""Run vLLM's HTTP server inside the engine's own environment, started fast and tied to its parent.

It is a script, run by path, and imports nothing of the gateway. The invariant: when the process that holds the
other end of standard input goes away, however it goes, this server and all its children go too.
"""

# pyright: reportMissingImports=false
# What is imported inside functions exists only in the engine's environment.
from __future__ import annotations

import ctypes
import gc
import importlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1
GRACE_SECONDS = 5.0

# What the gateway tells as a call's priority: 0 for one that has a right to its slot, more for one that was lent it.
LENT = 1
LENT_PROMPT_TOKENS = 32
"""Of lent calls' prompts, read in one step while covered calls come: the step that one finds under way is short."""
COMING_SECONDS = 10.0
"""How long after a covered call others count as likely."""


def end_with_parent() -> None:
    """Follow standard input, a pipe that our parent keeps open, and end the whole process group at its end."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        # SIGTERM ends this process too, so the last word is left to one outside the group.
        insist = f"import os, time; time.sleep({GRACE_SECONDS}); os.killpg({os.getpgrp()}, 9)"
        subprocess.Popen(
            (sys.executable, "-IS", "-c", insist), stdin=subprocess.DEVNULL, start_new_session=True
        )
        os.killpg(0, signal.SIGTERM)

    def tie_child() -> None:
        # A forked engine core has no watching thread of its own; without this it would outlive a killed server.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    threading.Thread(target=watch, name="leash", daemon=True).start()
    if sys.platform == "linux":
        os.register_at_fork(after_in_child=tie_child)


def fork_on_cpu() -> None:
    """Let the engine core be forked from this process, which has imported everything, rather than spawned.

    vLLM's CPU platform asks for a spawn, which imports torch and vLLM a second time (about 12 s of two cores).
    Forking is vLLM's own default elsewhere, and safe here: no OpenMP region has run in this process yet.
    """
    from vllm.platforms.cpu import CpuPlatform

    configure = CpuPlatform.check_and_update_config.__func__

    def configure_and_fork(cls: type, vllm_config: object) -> None:
        configure(cls, vllm_config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    CpuPlatform.check_and_update_config = classmethod(configure_and_fork)


def adapters_on_cpu() -> None:
    """Let a mixture of experts take adapters of its attention projections on a CPU.

    With adapters enabled vLLM picks a Triton kernel for the experts whatever the adapters change, and there is no
    Triton on a CPU: its engine dies at the first call. The experts themselves take no adapter here.
    """
    from vllm.model_executor.layers.fused_moe import unquantized_fused_moe_method as method

    select = method.select_unquantized_moe_backend

    def select_without_adapters(moe_config: Any) -> object:
        moe_config.is_lora_enabled = False
        return select(moe_config)

    method.select_unquantized_moe_backend = select_without_adapters


def give_way(scheduler: type[Any], clock: Callable[[], float] = time.monotonic) -> None:
    """Let a covered call's prompt have the next step of vLLM's scheduler to itself, and keep the steps before it short.

    vLLM takes the most urgent of the calls that wait, and reads its prompt beside whatever runs: each of these makes the
    first token later. Here they pause for that step and go on after it, where they were. Without lent calls nothing differs.
    """
    schedule = scheduler.schedule

    def lent(request: Any) -> bool:
        return request.priority >= LENT

    def scheduled(self: Any, *arguments: Any) -> Any:
        running, waiting = self.running, self.waiting
        held = [each for each in running if lent(each)]
        # The most urgent come first; without lent calls nobody counts how many.
        urgent = sum(1 for _ in itertools.takewhile(lambda each: not lent(each), waiting)) if held else 0
        if not held and not (waiting and lent(waiting.peek_request())):
            if waiting:
                self.covered_at = clock()
            return schedule(self, *arguments)
        reading = any(
            not lent(each) and each.num_computed_tokens < each.num_prompt_tokens for each in running
        )
        if urgent or reading:
            self.covered_at = clock()
        seats, tokens = self.max_num_active_reqs, self.max_num_scheduled_tokens
        try:
            # A prompt for which there is no seat or no memory would keep the others waiting for nothing.
            if (
                held
                and (reading or (urgent and len(running) < seats))
                and not getattr(self, "held_in_vain", False)
            ):
                self.running = [each for each in running if not lent(each)]
                self.max_num_active_reqs = min(seats - len(held), len(self.running) + urgent)
                try:
                    found = schedule(self, *arguments)
                finally:
                    self.running += held
                self.held_in_vain = not found.total_num_scheduled_tokens
                return found
            self.held_in_vain = False
            coming = clock() - getattr(self, "covered_at", float("-inf")) < COMING_SECONDS
            if coming and not urgent and not reading:
                self.max_num_scheduled_tokens = min(tokens, len(running) + LENT_PROMPT_TOKENS)
            return schedule(self, *arguments)
        finally:
            self.max_num_active_reqs, self.max_num_scheduled_tokens = seats, tokens

    scheduler.schedule = scheduled


def main() -> None:
    if "--leash" in sys.argv:
        sys.argv.remove("--leash")
        end_with_parent()
    # Nothing that the imports make is garbage: collecting meanwhile only costs time.
    gc.disable()
    from vllm.entrypoints.launchers.api_server.entry import main as serve
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        # The forked engine core needs these: imported once, here.
        importlib.import_module("vllm.v1.engine.core")
        importlib.import_module("vllm.v1.worker.cpu_worker")

        fork_on_cpu()
        if "--enable-lora" in sys.argv:
            adapters_on_cpu()
        if "priority" in sys.argv:
            give_way(importlib.import_module("vllm.v1.core.sched.scheduler").Scheduler)
    gc.enable()
    serve()


if __name__ == "__main__":
    main()
