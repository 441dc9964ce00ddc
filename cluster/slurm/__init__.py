"""Slurm: what its states mean to a run, asking it with patience, what a job asks of sbatch, what a cluster has."""

from .asking import NoAnswer, asked, cancel, cluster, requeue, requeues, settled, state, states
from .job import ENDED, GOING, UNKNOWN, State, this_job
from .sbatch import BREAKING, OURS, SHORT, option, overriding
from .site import ABSENT, BUSY, Node, Partition, called, nodes, partitions, refusal, submission, submit

__all__ = [
    "ABSENT",
    "BREAKING",
    "BUSY",
    "ENDED",
    "GOING",
    "OURS",
    "SHORT",
    "UNKNOWN",
    "NoAnswer",
    "Node",
    "Partition",
    "State",
    "asked",
    "called",
    "cancel",
    "cluster",
    "nodes",
    "option",
    "overriding",
    "partitions",
    "refusal",
    "requeue",
    "requeues",
    "settled",
    "state",
    "states",
    "submission",
    "submit",
    "this_job",
]
