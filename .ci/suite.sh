#!/usr/bin/env bash
# The whole suite: beside the other tests, those on two Slurm clusters, which wait for most of their time. What those say
# comes at the end. Words are given to both.
set -uo pipefail
cd "$(dirname "$0")/.."

said=$(mktemp)
.venv/bin/python -m pytest tests/slurm -n 2 --dist worksteal "$@" >"$said" 2>&1 &
slurm=$!
trap 'kill "$slurm" 2>/dev/null; rm -f "$said"' EXIT
.venv/bin/python -m pytest -n logical --maxprocesses 8 --dist worksteal --ignore=tests/slurm "$@"
status=$?
wait "$slurm"
of_slurm=$?
cat "$said"
exit $((status ? status : of_slurm))
