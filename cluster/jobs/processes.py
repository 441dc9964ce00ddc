"""Starting a run's processes on this machine, and what they leave when one of them fails."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import re
import signal
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.queues import SimpleQueue
from typing import NoReturn

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tdformer.policies import POLICIES, smallest

from ..build import devices, heap, planner
from ..build.memory import GIB, here
from ..build.operations import operations
from ..build.setup import Setup
from ..config import Config, resolve
from ..config.plugins import take
from ..config.values import AUTO
from ..errors import NoMeeting, RunError, memory_errors, user_errors
from ..plan.choice import fitting
from ..plan.machine import Machine
from ..run.folder import RunFolder
from ..run.kept import Summary
from ..run.lock import WAIT
from ..run.monitor import Monitor
from ..run.surroundings import surroundings
from ..run.weights import settle
from ..signals import Leave, Notice, heard
from ..train.hooks import chosen
from . import opening
from .waiting import waits

START = "spawn"
"""How ranks are started: a process that has touched CUDA cannot be forked."""


def start(config: Config, processes: int = 0, began: float | None = None) -> int:
    """Train `config` with `processes` processes on this machine (or as the one rank that torchrun started). began:
    `time.monotonic()` when this start did, where that was before this call.

    A finished run says so; an interrupted one goes on from its newest good checkpoint. Returns the exit code: 0 done,
    2 a user's error (one line), 143 stopped by a signal and saved, else a crash. Raises RunError for what can be seen
    before anything starts.
    """
    began = time.monotonic() if began is None else began
    folder = RunFolder(config.run_path)
    devices.hide(config.engine.device)
    place = given_place()
    launched = place is not None
    rank, world = place or (0, processes or torch.cuda.device_count() or 1)
    ranks = planner.ranks_here(world)
    folder.settle(config)
    done = folder.summary()
    if launched and not planner.first_here(rank):  # the first one of a machine looks at what is the same for all there
        # A copy may take longer to compare than ranks wait for each other: all of them do it at once.
        if done is not None:
            return 0
        return worker(rank, world, None, Setup.to_train(config, world, trusted=config.data.form.copy is None))
    settle(folder, config)
    speaks = not rank and done is None
    if speaks:
        waits(f"reading {config.data.folder}")
    setup = check_inputs(config, world, begun=not folder.unsaved())
    if done is None:
        if not launched:  # else all ranks look, and agree
            devices.places([devices.look(config.engine.device)] * world)
        if speaks:
            waits("planning the memory of a step")
        memory, why = here(config, ranks), None
        if config.train.micro_batch == AUTO:
            found = fitting(setup, Machine.seen(config, ranks, world, memory), folder.micro_batch(world))
            setup, config, why = found.setup, found.setup.config, found.line()
        warning = setup.check_memory(memory)
        if warning and not rank:
            print(f"warning: {warning}", file=sys.stderr, flush=True)
    if rank:  # the first rank speaks for all and keeps the folder
        return 0 if done is not None else worker(rank, world, None, setup)
    folder.check(config)
    if speaks:
        print(opening.block(setup, memory, threads(config, world), why), flush=True)
    with folder.lock(wait=WAIT if launched else 0):
        if done is not None:
            print(f"{folder.path} is finished: {describe(done)}; another run needs another name=...", flush=True)
            return 0
        facts = operations(setup, memory, folder.starts.whole()[0])
        clock = folder.open(config, surroundings(config, setup.plan, threads(config, world)), facts, began)
        if world == 1 or launched:
            code = worker(rank, world, None, setup)
        else:
            del setup
            code = _spawn(config, world)
        with suppress(RunError):  # what the run has to say is said
            clock.tell(exit_code=code)
        return code


def given_place() -> tuple[int, int] | None:
    """This rank and the number of ranks, as torchrun or a job has put them into the environment; None: nobody has.

    Raises RunError where only a part of it is there, or is no number: it would train as another rank than was meant.
    """
    needed, local = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")
    given = {name: os.environ[name] for name in (*needed, *local) if name in os.environ}
    missing = [name for name in needed if name not in given]
    if given and missing:
        raise RunError(
            f"the environment has {', '.join(given)} without {', '.join(missing)}; torchrun sets all of them: "
            "start it with torchrun, or unset those that are there"
        )
    if not given:
        return None
    numbers: dict[str, int] = {}
    for name, value in given.items():
        if name != "MASTER_ADDR":
            if not re.fullmatch("[0-9]{1,9}", value):
                raise RunError(f"{name} is {value!r} in the environment; a whole number is expected")
            numbers[name] = int(value)
    if not 0 < numbers["MASTER_PORT"] < 2**16:
        raise RunError(f"MASTER_PORT is {numbers['MASTER_PORT']} in the environment; a port is 1 to 65535")
    for low, high in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        if numbers.get(low, 0) >= numbers.get(high, 10**9):
            raise RunError(
                f"{low} is {numbers.get(low, 0)} in the environment; it must be below {high}, {numbers[high]}"
            )
    return numbers["RANK"], numbers["WORLD_SIZE"]


def check_inputs(config: Config, world: int, begun: bool = False) -> Setup:
    """Refuse data, a model, weights to begin with, a batch or an optimizer that cannot work before a run folder is made
    or a process started; returns what was made for that. begun: it goes on from a checkpoint of its own."""
    resolve(config, world)  # before data are read
    setup = Setup.to_train(config, world)
    setup.check()
    if config.model.weights is not None and not begun:
        setup.begin(setup.outline)
    chosen(config)
    return setup


def _spawn(config: Config, world: int) -> int:
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # what it ends is told in one line of ours
    with tempfile.TemporaryDirectory() as meeting:
        context = mp.get_context(START)
        errors: SimpleQueue[str] = context.SimpleQueue()
        rest = (world, f"{meeting}/store", config, errors)
        started = mp.start_processes(_child, rest, world, join=False, start_method=START)

        # A signal to this process is one to its children: they save together, and then end.
        def pass_on(number: int, _: object) -> None:
            for pid in started.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

        for kind in heard():
            signal.signal(kind, pass_on)
        try:
            while not started.join():
                pass
        except (mp.ProcessExitedException, mp.ProcessRaisedException) as failed:
            if not errors.empty():
                raise RunError(errors.get()) from None
            if isinstance(failed, mp.ProcessExitedException) and failed.exit_code == 128 + signal.SIGTERM:
                return failed.exit_code
            if isinstance(failed, mp.ProcessExitedException) and failed.signal_name:
                why = f": memory has run out, if nobody sent it; {smaller(config, world)}"
                of = f"process {failed.error_index} was ended by {failed.signal_name}"
                print(of + (why if failed.signal_name == "SIGKILL" else ""), file=sys.stderr)
                return 1
            raise
    return 0


def _child(rank: int, world: int, store: str, config: Config, errors: SimpleQueue[str]) -> None:
    die_with_parent()
    logging.getLogger("pipelines.store.index").setLevel(logging.ERROR)  # the parent has told
    try:
        take(config.plugins, "the configuration")
        setup = Setup.to_train(config, world, trusted=True)
        code = worker(rank, world, dist.FileStore(store, world), setup)
    except user_errors() as error:
        errors.put(str(error))
        code = 2
    end(code)


def end(code: int) -> NoReturn:
    """End this process, whose work is all written: the interpreter's own end would only free memory."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def worker(rank: int, world: int, store: dist.Store | None, setup: Setup) -> int:
    """One rank, from joining the group to the end of training or to a signal; returns the exit code."""
    config = setup.config
    notice = Notice().listen()
    first = planner.first_here(rank)  # before LOCAL_RANK becomes the number of a GPU
    devices.exact(config.train.tf32, config.engine.deterministic)
    if not rank:
        waits("loading DeepSpeed")
    from ..train.engine import init_distributed
    from ..train.loop import Trainer
    from ..train.watchdog import Watchdog

    torch.set_num_threads(threads(config, world))
    heap.keep_freed()
    if not rank and world > 1:
        waits(f"joining {world} ranks")
    if world == 1 and store is None and "MASTER_ADDR" not in os.environ:
        store = dist.HashStore()
    try:
        device = init_distributed(rank, world, store, config.engine.timeout_minutes, config.engine.device)
    except dist.DistError as error:
        where = ":".join(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
        why = str(error).splitlines()[0]
        raise NoMeeting(f"the {world} ranks do not meet at {where} ({why}); another MASTER_PORT may be free") from error
    folder = RunFolder(config.run_path)
    if not rank and (saved := folder.saved_step()) is not None:
        waits(f"verifying the checkpoint of step {saved}")
    with Watchdog(config.engine.timeout_minutes) as watchdog:
        with memory_errors(smaller(config, world)):
            trainer = Trainer(setup, folder, device, notice, watchdog, first)
        left: Leave | None = None
        with Monitor(folder, config, trainer.total_steps, rank, start=trainer.state.step) as monitor:
            if trainer.state.step:
                monitor.say(f"goes on from step {trainer.state.step} of {trainer.total_steps}")
            if trainer.begun is not None:
                monitor.say(f"{trainer.begun}; {folder.weights_file}")
            if trainer.recompute is not None and world > 1:  # the one with the least memory decides
                monitor.say(str(trainer.recompute))
            if trainer.state.step < trainer.total_steps:
                monitor.say("... the first step")
            try:
                with memory_errors(smaller(config, world)):
                    monitor.finish(trainer.run(monitor))
            except Leave as leave:
                left = leave
                monitor.leave(leave)
        dist.barrier()
        del trainer
        gc.collect()
        dist.destroy_process_group()
    if left is None:
        return 0
    if left.kind == signal.SIGUSR2 and rank:
        return 0  # a bad exit of another rank would end the first one before it has queued the job again
    notice.hand_back(left.kind)
    return 128 + signal.SIGTERM


def smaller(config: Config, world: int) -> str:
    """What to change in a run whose step does not fit."""
    recompute, stage = config.recompute, config.engine.zero_stage
    ways = [f"lower train.micro_batch ({resolve(config, world).micro_batch} now)"]
    if recompute.policy == AUTO:
        memory = here(config, planner.ranks_here(world))
        ways.append(f"set recompute.memory, by which auto chooses, lower ({memory.size / GIB:.2f} GiB now)")
    elif POLICIES.get(recompute.policy).packed:
        ways.append(f"raise recompute.borders ({recompute.borders} now)")
    else:
        ways.append(f"set recompute.policy={smallest()} ({recompute.policy} now)")
    if config.engine.graph:
        ways.append("set engine.graph=false, which keeps activations and gradients once")
    elif world > 1 and stage < 3:
        ways.append(f"raise engine.zero_stage ({stage} now)")
    return " or ".join(ways)


def threads(config: Config, world: int) -> int:
    """Of one process."""
    return config.train.threads or max(1, _cores() // planner.ranks_here(world) - _loading(config))


def _cores() -> int:
    return int(os.environ.get("SLURM_CPUS_ON_NODE", 0)) or len(os.sched_getaffinity(0))


def _loading(config: Config) -> int:
    """The cores of a process that its loader workers have, where a job has asked for them."""
    return config.data.workers if "SLURM_CPUS_ON_NODE" in os.environ else 0


def describe(summary: Summary) -> str:
    """A finished run in a few words."""
    return f"{summary['accuracy']:.2%} after {summary['epochs']} epochs ({summary['step']} steps)"


def die_with_parent() -> None:
    """Let the kernel end this process when its parent dies, even by SIGKILL (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
