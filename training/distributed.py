"""Which process this is among those that torchrun started for one run, and what they do together.

Only rank 0, the main one, prints and writes. PyTorch's distributed package is set up only for several
processes. Signals, endings and the run folder are agreed upon over gloo, on the CPU; gradients are averaged
where they lie, over NCCL on CUDA.
"""

import contextlib
import datetime
import io
import os
import sys
import time

import torch

from config import UserError, run_script

PATIENCE = datetime.timedelta(hours=1)  # for what rank 0 does alone: an evaluation, preparing a corpus
GRACE = 2  # seconds, in which torchrun finds the process that ended first, and reports its status


class Ending(Exception):
    """How a run ends before its time, on every rank alike. Its arguments are what it is made again from."""


class Lost(Exception):
    """Another process of this run has ended, or does not answer."""


class OneProcess:
    """A run in this process alone, where there is nothing to agree upon."""

    rank, size = 0, 1

    @property
    def main(self):
        return self.rank == 0

    def rows(self, batch_size):
        """The rows of a batch that are this rank's; UserError where they cannot be equally many."""
        share, rest = divmod(batch_size, self.size)
        if rest:
            raise UserError(
                f"batch_size={batch_size} cannot be shared out among {self.size} processes: make it a"
                " multiple, or let torchrun start another number of them"
            )
        return slice(self.rank * share, (self.rank + 1) * share)

    def average_(self, tensors):
        """Put in the place of each tensor its mean over the ranks. All are float32 and on one device."""

    def largest(self, number):
        """The largest of the ranks' numbers, an int of 0 or more. Until all have called, each waits."""
        return number

    def main_only(self, work, *arguments):
        """What `work` returns on rank 0, which alone does it; an Ending there is raised on every rank.

        What it returns must be plain: numbers, texts, None, and dicts and lists of such.
        """
        return work(*arguments)

    def main_first(self, work, *arguments):
        """What `work` returns on this rank, done on rank 0 before the others, so that a mistake that every
        rank would find is found once."""
        return work(*arguments)


class ManyProcesses(OneProcess):
    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def average_(self, tensors):
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with noticing_loss():
            torch.distributed.all_reduce(flat)
        pieces = flat.div_(self.size).split([tensor.numel() for tensor in tensors])
        torch._foreach_copy_(tensors, [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors)])

    def largest(self, number):
        found = torch.tensor(number)  # on the CPU, so that no rank waits for its device
        with noticing_loss():
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
        return int(found)

    def main_only(self, work, *arguments):
        value = ending = None
        if self.main:
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

    def main_first(self, work, *arguments):
        result = work(*arguments) if self.main else None
        self.largest(0)
        return result if self.main else work(*arguments)


@contextlib.contextmanager
def joined():
    """The ranks of this run: a ManyProcesses under torchrun, a OneProcess otherwise.

    Where a rank ends too soon, the others end at their next agreement. Only rank 0 says so, since the lost
    one has told its reason, or torchrun has; unless rank 0 is the lost one.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield OneProcess()
        return
    if os.environ.get("LOCAL_WORLD_SIZE") != str(size):
        raise UserError("a run's processes are on one machine: start them with torchrun --nproc_per_node")
    rank = int(os.environ["RANK"])
    nccl = torch.cuda.is_available() and torch.distributed.is_nccl_available()
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=PATIENCE)
    try:
        with contextlib.redirect_stdout(io.StringIO()) if rank else contextlib.nullcontext():
            ranks = ManyProcesses(rank, size)
            yield ranks
        ranks.largest(0)  # none lets go of the group while another still uses it
        torch.distributed.destroy_process_group()
    except Lost as loss:
        if rank == 0:
            print(
                f"error: another process of this run has ended, and so does this one ({loss})", file=sys.stderr
            )
        sys.stderr.flush()
        time.sleep(GRACE)
        os._exit(1)  # an orderly end would wait for the lost one, or abort


def run_script_at_once(main):
    """config.run_script, but a process among several ends without Python's finalization: in it gloo's threads
    abort now and then, and torchrun would take a finished run for a failed one."""
    try:
        run_script(main)
    except SystemExit as end:
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code or 0)


@contextlib.contextmanager
def noticing_loss():
    """Lost in place of the error that a collective gives when another process is gone."""
    try:
        yield
    except RuntimeError as error:
        raise Lost(str(error).strip().partition("\n")[0]) from None
