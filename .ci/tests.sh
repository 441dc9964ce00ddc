#!/usr/bin/env bash
# The suite on all cores. Tests on Slurm wait for most of their time: they run beside the others, and what they print
# comes last. The others wait for a third of theirs: there are half as many workers again as cores.
set -uo pipefail
cd "$(dirname "$0")/.."
# Else each worker, and each process that a test starts, compiles what it imports.
unset PYTHONDONTWRITEBYTECODE

said=$(mktemp)
.venv/bin/python -m pytest tests/slurm -n 2 --dist worksteal >"$said" 2>&1 &
slurm=$!
trap 'kill "$slurm" 2>/dev/null; cat "$said"; rm -f "$said"' EXIT

.venv/bin/python -m pytest -n $((($(nproc) * 3 + 1) / 2)) --maxprocesses 8 --dist worksteal --ignore=tests/slurm
others=$?
wait "$slurm"
exit $(($? || others))
