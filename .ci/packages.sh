#!/usr/bin/env bash
# What the tests need besides Python: a Slurm of their own, and a browser. Without root or apt those tests are skipped.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
PATH=$PATH:/usr/sbin
missing=()
for name in munged slurmctld slurmd sbatch; do
    command -v "$name" >/dev/null || missing=(slurmctld slurmd slurm-client munge)
done
browser=
for name in chromium-headless-shell chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && browser=$name
done
[ -n "$browser" ] || missing+=(chromium-headless-shell) # Debian 12 and later; 300 MB
[ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0
apt-get update -qq
apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
