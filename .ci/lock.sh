#!/usr/bin/env bash
# Writes .ci/constraints.txt: one version of everything, for CPU and CUDA builds of torch and every Python we support.
# Versions that the file has are kept; `--upgrade` takes the newest, `--upgrade-package NAME` that one's.
set -euo pipefail
cd "$(dirname "$0")/.."
# From the public index alone: a site's own wheels and indexes must not decide what is pinned.
unset UV_FIND_LINKS UV_INDEX UV_EXTRA_INDEX_URL UV_DEFAULT_INDEX UV_INDEX_URL
exec .venv/bin/uv pip compile --quiet --no-config --universal --python-version 3.11 --strip-extras --no-annotate \
    --custom-compile-command "make lock" --extra dev --extra augment --extra docs --extra onnx --group needs \
    --output-file .ci/constraints.txt pyproject.toml "$@" >/dev/null
