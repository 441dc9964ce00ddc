#!/usr/bin/env bash
# The suite on all cores. Tests on Slurm wait for most of their time: they run beside the others, and what they print
# comes last.
set -uo pipefail
cd "$(dirname "$0")/.."

said=$(mktemp)
.venv/bin/python -m pytest tests/slurm -n 2 --dist worksteal >"$said" 2>&1 &
slurm=$!
trap 'kill "$slurm" 2>/dev/null; cat "$said"; rm -f "$said"' EXIT

.venv/bin/python -m pytest -n logical --maxprocesses 8 --dist worksteal --ignore=tests/slurm
others=$?
wait "$slurm"
exit $(($? || others))
