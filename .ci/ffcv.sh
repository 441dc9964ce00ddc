#!/usr/bin/env bash
# FFCV, which compiles against OpenCV and TurboJPEG (690 MB of Debian packages). Without root it is left out, and named.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive

works() { .venv/bin/python -c 'import ffcv.reader, ffcv.writer' 2>/dev/null; }
works && exit 0
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
# uv keeps what it has built; built against another OpenCV it does not import, and is built again.
# Without its opencv-python, which needs libGL; the headless one is there.
install() {
    .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation \
        -r pyproject.toml --extra ffcv "$@"
}
install && works || install --reinstall-package ffcv --refresh-package ffcv
works
