"""The processes that torchrun started for one run, and what they do together.

Only rank 0 prints and writes. PyTorch's distributed package is set up only for several processes. Signals,
endings and the run folder are agreed upon over gloo, on the CPU; gradients are averaged where they lie, over
NCCL on CUDA.
"""

import contextlib
import datetime
import functools
import io
import os
import socket
import sys
import time

import torch

from config import UserError, run_script
from training.machine import out_of_memory
from training.terminal import starter

TIMEOUT = datetime.timedelta(hours=1)  # for what rank 0 does alone: an evaluation, preparing a corpus
GRACE = 2  # seconds, in which torchrun finds the process that ended first, and reports its status


class Ending(Exception):
    """Raised on rank 0 to end a run early; it is sent to the other ranks and raised there too, so that __init__
    must take exactly its args."""


class PeerLost(Exception):
    """Another process of this run has ended, or does not answer."""


class SingleProcess:
    """A run in this process alone.

    parent: the process whose end stops the run (training.terminal.starter); rank 0 looks for all ranks.
    """

    rank, size = 0, 1

    def __init__(self, parent=None):
        self.parent = parent

    @property
    def is_main(self):
        return self.rank == 0

    def shard(self, batch_size):
        """The rows of a batch that are this rank's; UserError where they cannot be shared equally."""
        share, rest = divmod(batch_size, self.size)
        if rest:
            raise UserError(
                f"batch_size={batch_size} cannot be divided among {self.size} processes: make it a multiple,"
                " or let torchrun start another number of them"
            )
        return slice(self.rank * share, (self.rank + 1) * share)

    def average_(self, tensors):
        """Replace each tensor by its mean over the ranks. All are float32 and on one device."""

    def all_reduce_max(self, number):
        """The largest of the ranks' numbers, an int of 0 or more. Every rank waits for all."""
        return number

    def on_rank0(self, work, *arguments):
        """What `work` returns on rank 0, which alone does it; an Ending there is raised on every rank.

        What it returns must be plain: numbers, strings, None, and dicts and lists of them.
        """
        return work(*arguments)

    def rank0_first(self, work, *arguments):
        """What `work` returns on this rank, done on rank 0 before the others, so that a mistake that every rank
        would find is reported once."""
        return work(*arguments)

    def check_alike(self, value, mistake):
        """UserError, told by rank 0, where a rank has another value than that one; a plain one."""
        if self.all_reduce_max(int(value != self.on_rank0(lambda: value))):
            self.rank0_first(refuse, mistake)


class ManyProcesses(SingleProcess):
    def __init__(self, rank, size, parent=None):
        super().__init__(None if rank else parent)
        self.rank, self.size = rank, size

    def average_(self, tensors):
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with noticing_loss():
            torch.distributed.all_reduce(flat)
        pieces = flat.div_(self.size).split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors)])

    def all_reduce_max(self, number):
        found = torch.tensor(number)  # on the CPU, so that no rank waits for its device
        with noticing_loss():
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return int(found)

    def on_rank0(self, work, *arguments):
        value = ending = None
        if self.is_main:
            try:
                value = work(*arguments)
            except Ending as how:
                ending = how
        outcome = [value, ending]
        with noticing_loss():
            torch.distributed.broadcast_object_list(outcome, device=torch.device("cpu"))
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def rank0_first(self, work, *arguments):
        result = work(*arguments) if self.is_main else None
        self.all_reduce_max(0)
        return result if self.is_main else work(*arguments)


def refuse(mistake):
    raise UserError(mistake)


def on_rank0(work):
    """A decorator for work(run, ...): rank 0 alone does it, and every rank gets what it returns."""

    @functools.wraps(work)
    def wrapped(run, *arguments):
        return run.ranks.on_rank0(work, run, *arguments)

    return wrapped


@contextlib.contextmanager
def joined():
    """The ranks of this run: ManyProcesses under torchrun, else SingleProcess.

    Where a rank ends too soon, the others end at their next agreement. Rank 0 says so; the lost one, or
    torchrun, has given the reason.
    """
    size, parent = world_size(), starter()
    if size == 1:
        yield SingleProcess(parent)
        return
    if os.environ.get("LOCAL_WORLD_SIZE") != str(size) or "RANK" not in os.environ:
        raise UserError("a run's processes are on one machine: start them with torchrun --nproc_per_node")
    rank = int(os.environ["RANK"])
    nccl = torch.cuda.is_available() and torch.distributed.is_nccl_available()
    try:
        find_torchrun()
        with noticing_loss():  # rank 0 may have found a mistake before this rank has joined
            torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=TIMEOUT)
        with contextlib.redirect_stdout(io.StringIO()) if rank else contextlib.nullcontext():
            ranks = ManyProcesses(rank, size, parent)
            yield ranks
        ranks.all_reduce_max(0)  # none leaves the group while another still uses it
        torch.distributed.destroy_process_group()
    except PeerLost as loss:
        if rank == 0:
            print(
                f"error: another process of this run has ended or is out of reach, and this one ends ({loss})",
                file=sys.stderr,
            )
        sys.stderr.flush()
        time.sleep(GRACE)
        os._exit(1)  # an orderly end would wait for the lost one, or abort


def world_size():
    """How many processes torchrun has started for this run."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def find_torchrun():
    """PeerLost where the torchrun that started this process has ended already: joining would call it for a
    whole TIMEOUT."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        try:
            socket.create_connection((os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))).close()
        except OSError as error:
            raise PeerLost(f"torchrun: {error}") from None


def run_script_at_once(main):
    """config.run_script, but one process of several ends without Python's finalization, in which gloo's threads
    abort now and then: torchrun would take a finished run for a failed one."""
    try:
        run_script(main)
    except SystemExit as end:
        if world_size() == 1:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)


@contextlib.contextmanager
def noticing_loss():
    """PeerLost in place of the error that a collective gives when another process is gone."""
    try:
        yield
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        said = str(error).partition("Exception raised from")[0]  # the frames of its C++ follow
        raise PeerLost(" ".join(said.split())) from None  # of several lines: NCCL's last one has the cause
