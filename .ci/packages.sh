#!/usr/bin/env bash
# What the tests need besides Python: a Slurm of their own. Without root or apt those tests are skipped.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
PATH=$PATH:/usr/sbin
missing=
for name in munged slurmctld slurmd sbatch; do
    command -v "$name" >/dev/null || missing=1
done
[ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || exit 0
apt-get update -qq
apt-get install -qq -y --no-install-recommends slurmctld slurmd slurm-client munge >/dev/null
