#!/usr/bin/env bash
# Run the tests on the lowest versions of the direct dependencies that pyproject.toml admits, with the oldest Python.
# Arguments go to pytest. The environment is a temporary one; the project's own and its lock file stay as they are.
set -euo pipefail
cd "$(dirname "$0")/.."
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
uv venv --quiet --python 3.11 "$tree/venv"
export VIRTUAL_ENV="$tree/venv"
uv pip install --compile-bytecode --resolution lowest-direct --group dev --editable ".[tensorboard,imagenet]"
uv pip list --quiet
"$tree/venv/bin/python" -m pytest "$@"
