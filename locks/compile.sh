#!/bin/sh
# Writes the locks anew: versions and hashes, no addresses. Pins stay where they still fit; `compile.sh --upgrade` takes
# the newest releases instead. Needs `uv`; `make locks` brings it.
set -eu
cd "$(dirname "$0")/.."
upgrade=${1:-}
lock() { out=$1; shift; uv pip compile "$@" --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-annotate --no-header --quiet $upgrade -o "locks/$out.txt"; }
lock server pyproject.toml --extra server --extra s3 --extra traces --extra sql --extra delta --group build
lock runtime pyproject.toml --extra all --extra s3 --extra traces --extra channels --extra encryption --group build
lock dev pyproject.toml --extra all --extra s3 --extra traces --extra channels --extra encryption --group dev --override locks/overrides.txt
for tool in installer node sbom audit fuzz; do
  lock $tool "locks/$tool.in"
done
