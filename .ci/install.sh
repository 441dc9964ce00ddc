#!/usr/bin/env bash
# Makes .venv and installs the project into it with the versions in .ci/constraints.txt.
# Called by make, which runs it again until the stamp at the end is written.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive

pythons=${PYTHON:-python3.11 python3.12 python3.13}
stamp=.venv/.installed

die() {
    echo "error: $*" >&2
    exit 1
}

has_python() {
    for python in $pythons; do
        "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && return
    done
    return 1
}
has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }

if ! { has_python && has_venv; }; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq
        apt-get install -qq -y --no-install-recommends python3 python3-venv
    fi
    has_python || die "no working ${pythons// /, }; on Debian 12: apt-get install python3 (elsewhere: make PYTHON=/path/to/python)"
    has_venv || die "$python cannot make a virtual environment; on Debian 12: apt-get install python3-venv"
fi

# One install at a time; an orphan of a killed one holds the lock until it is done.
exec 9<.ci/install.sh
flock 9

# No stamp: a first install, or one that was cut short and may have left half a package. Begin anew.
[ -e "$stamp" ] || "$python" -m venv --clear .venv
rm -f "$stamp"

echo "Installing into .venv (some 2.7 GB, with torch's CUDA build 5.6) ..."
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
pip install --quiet -c .ci/constraints.txt uv
# Where a site has its own wheels or a mirror, pip has been told; uv reads none of pip's settings.
of_pip() { pip config list | sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | sed 's/\\n/ /g' | xargs -n 1 | sort -u | paste -sd ,; }
export UV_FIND_LINKS="${UV_FIND_LINKS-$(of_pip find-links)}" UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX-$(of_pip index-url)}"
uv() { .venv/bin/uv pip "$@" --quiet --python .venv/bin/python; }
# exact: without what an earlier install left, such as what is added after the check.
uv install --exact -c .ci/constraints.txt -e '.[dev,augment,docs,onnx]' --group needs
uv check
# Without what they ask for: another torch, and OpenCV with windows, which needs libGL.
uv install --no-deps -c .ci/constraints.txt -r pyproject.toml --extra corruptions --group peer
# Python compiles what it imports when it first does. What starts need, now: on a cluster many would do it at the same time,
# and where they may not write to .venv, each anew. All of it would take four times as long as the rest of the install.
env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -c '
import cluster.train.evaluate, cluster.results.export, cluster.build.shards, cluster.jobs.processes, cluster.train.loop
import deepspeed.module_inject.auto_ep_layer, torch._dynamo
import hypothesis, matplotlib.pyplot, numba, pytest, scipy.io, sklearn.datasets, wandb, xdist'
touch "$stamp"
