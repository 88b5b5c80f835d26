#!/bin/sh
# Writes the locks anew: versions and hashes, no addresses. Needs `uv`.
set -eu
cd "$(dirname "$0")/.."
lock() { out=$1; shift; uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-annotate --no-header -q "$@" -o "locks/$out.txt"; }
lock server --extra server --extra s3 --extra traces --group build
lock runtime --extra server --extra worker --extra s3 --extra traces --extra embedded --group build
lock dev --extra server --extra worker --extra s3 --extra traces --extra embedded --group dev --override locks/overrides.txt
for tool in installer sbom audit fuzz; do
  uv pip compile "locks/$tool.in" --universal --python-version 3.11 --generate-hashes \
    --no-emit-index-url --no-annotate --no-header -q -o "locks/$tool.txt"
done
