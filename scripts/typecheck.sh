#!/usr/bin/env bash
# Type-check the package as it is installed: `callbacks/` is lit_aux.callbacks, which checkers cannot see in an
# editable install.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
cp -r lit_aux "$tree/lit_aux"
cp -r callbacks "$tree/lit_aux/callbacks"
cp -r scripts "$tree/scripts"
cd "$tree"
MYPYPATH=.:scripts uv run --project "$root" mypy --explicit-package-bases --config-file "$root/pyproject.toml" --cache-dir "$root/.mypy_cache" lit_aux scripts/*.py scripts/benchmarks/*.py scripts/peers/*.py
