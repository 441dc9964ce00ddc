"""Options of sbatch: each is taken, or refused by its name."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from cluster import slurm
from cluster.errors import RunError

TAKEN = """
bb bbf begin comment cpu-freq dependency deadline delay-boot chdir export export-file get-user-env gres-flags
hold ignore-pbs input no-kill licenses container distribution mcs-label nice overcommit power priority profile propagate
reboot oversubscribe core-spec spread-job switches thread-spec time-min use-min-nodes verbose wckey cluster-constraint
contiguous nodefile mincpus reservation tmp nodelist exclude exclusive mem-per-cpu sockets-per-node cores-per-socket
threads-per-core extra-node-info ntasks-per-core ntasks-per-socket gpu-bind gpu-freq gpus-per-socket gpus-per-task
mem-per-gpu gres hint acctg-freq network prefer
"""


def test_each_option_of_sbatch_is_taken_or_refused_by_name() -> None:
    """All that `sbatch --help` of this machine has, long and short; the beginning of a name; `_` for `-`."""
    text = subprocess.run(["sbatch", "--help"], capture_output=True, text=True).stdout if shutil.which("sbatch") else ""
    listed = re.findall(r"^ +(?:-(\w),? +)?--([\w-]+)", text, re.MULTILINE)
    taken = TAKEN.split()
    names = {name for _, name in listed} | {*taken, *slurm.OURS, *slurm.BREAKING}
    for name in sorted(names - {"mem"}):
        refused = name in slurm.OURS or name in slurm.BREAKING
        assert refused != (name in taken), f"nobody has thought of {name}"
        for spelling in (name, name.replace("-", "_"), f" {name} "):
            for entry in (spelling, f"{spelling}=x", f"{spelling} x"):
                if refused:
                    with pytest.raises(RunError, match="leave it out"):
                        slurm.option(entry)
                else:
                    assert slurm.option(entry)[0] == name
    assert {short: name for short, name in listed if short} in ({}, slurm.SHORT)
    for short, name in slurm.SHORT.items():
        if name in taken:
            assert slurm.option(f"{short}=x") == (name, "x")
        else:
            with pytest.raises(RunError):
                slurm.option(short)
    for entry, says in {
        "sig=USR1@10": "site.signal_seconds",
        "no-req": "could not go on",
        "mem=4G": "site.memory_gb",
        "gres=gpu:4": "--gpus-per-node",
        "gres=lustre:1,gpu:a100:2": "--gpus-per-node",
        "": "without dashes",
    }.items():
        with pytest.raises(RunError, match=says):
            slurm.option(entry)
    assert slurm.option("mem=0") == ("mem", "0") and slurm.option("gres=lustre:1") == ("gres", "lustre:1")
    assert slurm.option("comment=a=b c") == ("comment", "a=b c")
