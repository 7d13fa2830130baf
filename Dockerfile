# syntax=docker/dockerfile:1
# One file, two images: `gateway` (the default) and `engine-cpu` (vLLM with the demo model, for trying things out).
# Every package is checked against the hashes of locks/; nothing is compiled or resolved here. Both images run as
# uid 10001 and write only to their volume and /tmp, so a read-only root file system is fine.

ARG PYTHON_IMAGE=python:3.12-slim-bookworm

# ---- the gateway's packages, in a stage of their own so that a change of code does not install them again
FROM ${PYTHON_IMAGE} AS packages
COPY locks/gateway.txt /locks/gateway.txt
RUN python -m venv /opt/weighbridge \
 && /opt/weighbridge/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary :all: \
      --require-hashes --no-deps -r /locks/gateway.txt

# ---- vLLM on a CPU with the demo model. The installer is the project's own: it takes the CPU build of torch where
# ---- it can be had (TORCH_INDEX may name an index that carries it), else the one of the package index.
FROM ${PYTHON_IMAGE} AS engine-cpu
ARG TORCH_INDEX=
WORKDIR /app
COPY locks locks
COPY engines engines
RUN apt-get update && apt-get install -y --no-install-recommends libgomp1 libnuma1 && rm -rf /var/lib/apt/lists/*
RUN WEIGHBRIDGE_TORCH_INDEX="${TORCH_INDEX}" python -c "import asyncio, pathlib; \
from engines.local.environment import install; asyncio.run(install(pathlib.Path('/opt/engine'), print))"
RUN groupadd --gid 10001 weighbridge && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp weighbridge
USER 10001:10001
ENV HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 VLLM_CACHE_ROOT=/tmp/vllm HOME=/tmp OMP_NUM_THREADS=1 \
    VLLM_CPU_OMP_THREADS_BIND=nobind TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=6 \
  CMD ["/opt/engine/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
CMD ["/opt/engine/bin/python", "-P", "/app/engines/local/server.py", \
     "--model", "/app/engines/local/model/mixtral-demo", "--served-model-name", "mixtral-demo", \
     "--host", "0.0.0.0", "--port", "8000", "--max-model-len", "4096", "--dtype", "bfloat16", "--enforce-eager", \
     "--distributed-executor-backend", "vllm.v1.executor.uniproc_executor.UniProcExecutor", \
     "--kv-cache-memory-bytes", "268435456", "--max-num-seqs", "128", "--enable-prefix-caching", \
     "--scheduling-policy", "priority", "--enable-prompt-tokens-details", \
     "--disable-uvicorn-access-log", "--disable-fastapi-docs"]

# ---- the gateway
FROM ${PYTHON_IMAGE} AS gateway
RUN groupadd --gid 10001 weighbridge \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/weighbridge weighbridge \
 && install -d -o 10001 -g 10001 -m 0700 /var/lib/weighbridge
COPY --from=packages /opt/weighbridge /opt/weighbridge
WORKDIR /app
COPY policies policies
COPY engines engines
COPY migrations migrations
COPY gateway gateway
RUN /opt/weighbridge/bin/python -m compileall -q /app

# Compose hands passwords over as files; the gateway takes addresses. This puts them together in the process's own
# environment, where `docker inspect` does not show them, and then becomes the command.
COPY --chmod=0755 <<'EOF' /usr/local/bin/weighbridge
#!/bin/sh
set -eu
held() { [ -r "/run/secrets/$1" ]; }
secret() { tr -d '\r\n' < "/run/secrets/$1"; }
stores="${WEIGHBRIDGE_POSTGRES_HOST:-postgres}:5432/${WEIGHBRIDGE_POSTGRES_DATABASE:-system}"
if held postgres_app; then
  export WEIGHBRIDGE_DATABASE_URL="postgresql://weighbridge:$(secret postgres_app)@$stores"
fi
if held postgres_owner; then
  export WEIGHBRIDGE_MIGRATE_DATABASE_URL="postgresql://weighbridge_owner:$(secret postgres_owner)@$stores"
fi
if held redis; then
  export WEIGHBRIDGE_REDIS_URL="redis://:$(secret redis)@${WEIGHBRIDGE_REDIS_HOST:-redis}:6379/0"
fi
if [ -e /run/secrets/master_key ]; then
  export WEIGHBRIDGE_SECRET_FILE=/run/secrets/master_key
fi
exec /opt/weighbridge/bin/python -m gateway "$@"
EOF

USER 10001:10001
ENV WEIGHBRIDGE_HOME=/var/lib/weighbridge WEIGHBRIDGE_HOST=0.0.0.0 WEIGHBRIDGE_PORT=8080 \
    PYTHONPATH=/app PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
VOLUME /var/lib/weighbridge
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=30s --retries=6 \
  CMD ["/opt/weighbridge/bin/python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/healthz', timeout=3)"]
ENTRYPOINT ["weighbridge"]
CMD ["serve"]
