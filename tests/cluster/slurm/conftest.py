"""A Slurm that answers as it is told to."""

from stand_in_slurm import asked, run, shards, site

__all__ = ["asked", "run", "shards", "site"]
