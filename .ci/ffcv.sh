#!/usr/bin/env bash
# FFCV, which compiles against OpenCV and TurboJPEG (690 MB of Debian packages). Without root it is left out, and named.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive

python=.venv/bin/python
"$python" -c 'import ffcv.reader, ffcv.writer' 2>/dev/null && exit 0
needs="g++ pkg-config libturbojpeg0-dev libopencv-dev"
if ! pkg-config --exists opencv4 libturbojpeg 2>/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "FFCV is left out; for it, as root on Debian: apt-get install $needs" >&2
        exit 0
    fi
    apt-get update -qq
    # shellcheck disable=SC2086
    apt-get install -qq -y --no-install-recommends $needs >/dev/null
fi
pip() { "$python" -m pip --disable-pip-version-check "$@"; }
# Without its opencv-python, which needs libGL; the headless one is there.
pip install --quiet -c .ci/constraints.txt assertpy fastargs terminaltables pytorch-pfn-extras
pip install --quiet -c .ci/constraints.txt --no-deps --no-build-isolation ffcv
