"""Say how vLLM is started: the command and the environment, as pure functions of what is to be served.

No secret of the gateway is handed on: the engine's environment is built from an allow-list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SERVER = Path(__file__).with_name("server.py")
DEMO_MODEL = Path(__file__).with_name("model") / "mixtral-demo"
SHIPPED_ADAPTERS = DEMO_MODEL.with_name("adapters")
DEMO_NAME = "mixtral-demo"
DEMO_CONTEXT = 4096
EMBEDDER_NAME = "all-minilm-l6-v2"
"""What the small embedding model is served as."""
# sun_path holds 108 bytes with its closing zero.
LONGEST_SOCKET_PATH = 107

# In one batch; loaded; and the highest rank of any. Room for the first two is set aside on every start.
ADAPTERS_AT_ONCE = 4
ADAPTERS_KEPT = 32
LARGEST_RANK = 64

_KEPT = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "TZ",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "SSL_CERT_FILE",
    }
)
_KEPT_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "OMP_", "OPENBLAS_", "MKL_", "VLLM_", "HF_", "TORCH_")


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What one engine process serves, and where."""

    python: Path
    """The interpreter of the engine's own environment."""
    socket: Path | None
    """A local socket to listen on, which no other user or web page can reach; None means a loopback port."""
    cache: Path
    """Where vLLM keeps what it works out once, so that the next start is faster."""
    log: Path
    """Where its output goes, bounded."""
    host: str = "127.0.0.1"
    port: int = 8000
    model: str = str(DEMO_MODEL)
    served_name: str = DEMO_NAME
    also_named: tuple[str, ...] = ()
    """Other names that mean the same; answers have `served_name` all the same."""
    context: int = DEMO_CONTEXT
    device: Literal["cpu", "gpu"] = "cpu"
    threads: int = 1
    """Threads for one forward pass on a CPU; the demo model is too small to gain from more."""
    kv_cache_bytes: int = 256 << 20
    """Room for keys and values on a CPU: 262,144 tokens of the demo model."""
    card: str | None = None
    """The only GPUs that it may see, in the words of CUDA_VISIBLE_DEVICES; None leaves it all of them."""
    ready_within: float = 300.0
    """Seconds from a start to the first answer, after which it is started over."""
    embeds: bool = False
    """Whether it turns texts into vectors, in full precision, and generates nothing."""
    adapters: bool = True
    """Whether fine-tuned adapters (LoRA) may be loaded while it runs."""
    extra: tuple[str, ...] = ()
    """Further options of vLLM, last so that they win."""

    @property
    def url(self) -> str:
        """The address in the form that WEIGHBRIDGE_ENGINE_URL takes."""
        return f"unix:{self.socket}" if self.socket else f"http://{self.host}:{self.port}"


class SocketPathTooLong(ValueError):
    """The operating system limits the path of a local socket; use a shorter folder or a loopback port."""


def command(spec: EngineSpec) -> list[str]:
    """Build the argument list of one engine."""
    if spec.socket and len(str(spec.socket).encode()) > LONGEST_SOCKET_PATH:
        raise SocketPathTooLong(f"{spec.socket} is longer than {LONGEST_SOCKET_PATH} bytes")
    listen = ["--uds", str(spec.socket)] if spec.socket else ["--host", spec.host, "--port", str(spec.port)]
    arguments = [
        # -P: the folder of the script must not come before the engine's packages on the path.
        *(str(spec.python), "-P", str(SERVER), "--leash"),
        *("--model", spec.model, "--served-model-name", spec.served_name, *spec.also_named, *listen),
        *("--max-model-len", str(spec.context), "--dtype", "float32" if spec.embeds else "bfloat16"),
        *("--disable-uvicorn-access-log", "--disable-fastapi-docs"),
    ]
    if spec.embeds:
        arguments += ["--runner", "pooling"]
    else:
        arguments += ["--enable-prefix-caching", "--scheduling-policy", "priority"]
        arguments += ["--enable-prompt-tokens-details"]
    if spec.device == "cpu":
        arguments += [
            # Compiling needs a compiler on the machine and minutes; a small model gains nothing from it.
            "--enforce-eager",
            # One process for scheduling and computing: a separate worker imports everything once more.
            *("--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor"),
            *("--kv-cache-memory-bytes", str(spec.kv_cache_bytes), "--max-num-seqs", "128"),
        ]
    if spec.adapters:
        arguments += [
            *("--enable-lora", "--max-loras", str(ADAPTERS_AT_ONCE), "--max-lora-rank", str(LARGEST_RANK)),
            *("--max-cpu-loras", str(ADAPTERS_KEPT)),
        ]
        if spec.device == "cpu":
            # The experts' kernel for CPUs takes no adapter; attention does.
            arguments += ["--lora-target-modules", "q_proj", "k_proj", "v_proj", "o_proj"]
    return [*arguments, *spec.extra]


def environment(spec: EngineSpec, base: Mapping[str, str]) -> dict[str, str]:
    """Build the environment of one engine from the allowed part of ours."""
    kept = {name: value for name, value in base.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    quiet = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CACHE_ROOT": str(spec.cache),
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if spec.card is not None:
        quiet["CUDA_VISIBLE_DEVICES"] = spec.card
    if spec.adapters:
        # Only over the engine's own address, which no client reaches: the gateway decides who loads what.
        quiet["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if spec.device == "cpu":
        quiet |= {
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(spec.threads),
            # Pinned threads would sit on the core of a gateway worker even while that core is busy.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # A spinning OpenMP thread takes the core that the gateway needs between two tokens.
            "KMP_BLOCKTIME": "0",
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    return kept | quiet
