#!/usr/bin/env bash
# Makes .venv and installs the project into it with the versions in .ci/constraints.txt.
# Called by make, which runs it again until the stamp at the end is written.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive

python=${PYTHON:-python3.11}
stamp=.venv/.installed

die() {
    echo "error: $*" >&2
    exit 1
}

has_python() { "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }

if ! { has_python && has_venv; }; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq
        apt-get install -qq -y --no-install-recommends python3 python3-venv
    fi
    has_python || die "no working $python; on Debian 12: apt-get install python3 (elsewhere: make PYTHON=/path/to/python)"
    has_venv || die "$python cannot make a virtual environment; on Debian 12: apt-get install python3-venv"
fi

# One install at a time; an orphan of a killed one holds the lock until it is done.
exec 9<.ci/install.sh
flock 9

# No stamp: a first install, or one that was cut short and may have left half a package. Begin anew.
[ -e "$stamp" ] || "$python" -m venv --clear .venv
rm -f "$stamp"

echo "Installing into .venv (some 1.5 GB, a minute or two) ..."
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
# torch first and by its pin, so that no other requirement can choose its build.
pip install --quiet -c .ci/constraints.txt setuptools torch
pip install --quiet -c .ci/constraints.txt -e '.[dev,augment]' --no-build-isolation
# An earlier install's, whose needs are left out on purpose below; pip check would name them.
pip uninstall -qq --yes spikingjelly imagecorruptions-imaug ffcv
pip check
# The benchmarks' peer alone: what it asks for (torchaudio, cupy ...) is not needed, and would bring another torch.
pip install --quiet --no-deps spikingjelly==2.0.0 loguru==0.7.3
# Without its opencv-python, which needs libGL; the headless one is the same without windows.
pip install --quiet -c .ci/constraints.txt scikit-image opencv-python-headless
pip install --quiet -c .ci/constraints.txt --no-deps imagecorruptions-imaug
touch "$stamp"
