#!/usr/bin/env bash
# Gets real pictures, writes them as shards and trains the quick start on them.
# Every step sees what an earlier call has already done: after a kill, call it again.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive

package=dataset-fashion-mnist
if [ ! -d /usr/share/datasets/fashion-mnist ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        # A fresh machine has no package lists yet, an old one may have stale ones.
        apt-get install -qq -y --no-install-recommends "$package" ||
            { apt-get update -qq && apt-get install -qq -y --no-install-recommends "$package"; } ||
            echo "the Debian package $package cannot be had here" >&2
    else
        echo "for Fashion-MNIST, as root on Debian: apt-get install $package" >&2
    fi
fi

# Without Fashion-MNIST it says so, and names the recipe for scikit-learn's digits.
config=$(.venv/bin/tdformer prepare configs/quickstart.yaml)
exec .venv/bin/tdformer train "$config"
