"""Where and in which precision a run computes, and what it used."""

import contextlib
import ctypes
import importlib.metadata
import math
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from config import ROOT, UserError, cores
from training.operators import has_instructions

MOST_THREADS = 32  # for a core; the system may refuse more

EFFECTS = {  # of a field in which the machine of a resumed run differs
    "processes": "the same batches and noise, other dropout masks, other rounding",
    "device": "other noise and dropout from here on",
    "compile": "other rounding and other dropout masks",
    "through_float32": "other rounding",
}


@dataclass(frozen=True)
class Machine:
    """Where and how a run computes.

    device: cpu, cuda:N or mps. dtype: of autocast. threads: CPU threads of each process. compile: whether
    the model is compiled. processes: how many train the run together.
    """

    device: str
    dtype: str
    threads: int
    compile: bool
    processes: int = 1

    @classmethod
    def choose(cls, config, rank=0, processes=1):
        """What "auto" means here; UserError where an option asks for what this machine lacks.

        Each of several processes has the CUDA card of its rank, or its share of the CPU's cores.
        """
        if config.threads > MOST_THREADS * cores():
            raise UserError(f"threads={config.threads}, and there are {cores()} cores here: use fewer")
        device = best_device() if config.device == "auto" else config.device
        check_device(device)
        if processes > 1:
            check_device_for(processes, device)
        if device == "cuda":  # PyTorch wants a number
            device = f"cuda:{rank}"
            check_device(device)
        dtype = best_dtype(device) if config.dtype == "auto" else config.dtype
        if (device, dtype) == ("mps", "float16"):
            raise UserError(
                "dtype='float16' on an Apple GPU: PyTorch's AdamW may take the steps there that the gradient"
                " scaler skips: use --dtype=bfloat16 or --dtype=float32"
            )
        if device.startswith("cuda") and dtype == "bfloat16" and not has_bfloat16(device):
            print(f"{torch.cuda.get_device_name(device)} emulates bfloat16: --dtype=float16 is faster there")
        compiled = config.compile in ("on", "graphs", *(["auto"] if device.startswith("cuda") else []))
        threads = config.threads or default_threads(processes)
        return cls(device, dtype, threads, compiled, processes)

    def as_recorded(self, recorded):
        """This machine with the precision and CPU threads that a run began with, and uncompiled if it was, for
        a resume that gives the same bits. recorded: what `record` gave then. Every change is printed, with what
        it changes.

        The number of processes is this command's: a card may be free or taken by now.
        """
        before = {"processes": 1, "compile": self.compile, "through_float32": False, **recorded}
        kept = {"dtype": before["dtype"], "threads": before["threads"]}
        kept["compile"] = self.compile and before["compile"]
        here = replace(self, **kept)
        for name, value in kept.items():
            if getattr(self, name) != value:
                print(f"{name} {value}, as this run began, not {getattr(self, name)}")
        before["device"], now = before["device"].partition(":")[0], here.record() | {"device": here.kind}
        same_cards = "cuda" not in (before["device"], here.kind) or before["name"] == now["name"]
        for name, effect in EFFECTS.items():
            if before[name] != now[name] or (name == "device" and not same_cards):
                then, there = (f"{about['name']}, " if name == "device" else "" for about in (before, now))
                print(f"{name}: {then}{before[name]} as this run began, now {there}{now[name]}: {effect}")
        return here

    def apply(self):
        """Set up this process accordingly."""
        torch.set_num_threads(self.threads)
        keep_float32()
        if self.kind == "cpu":
            keep_freed_memory()
        if self.kind == "cuda":
            torch.cuda.set_device(self.device)
            # Its dropout may round p to sixteenths, 0.2 to 3/16 (PyTorch's pull request 174245).
            torch.backends.cuda.enable_cudnn_sdp(False)

    def record(self):
        """For run.json."""
        return {**asdict(self), "name": self.name, "through_float32": self.through_float32}

    @property
    def kind(self):
        return self.device.split(":")[0]

    @property
    def through_float32(self):
        """Whether operators.matmul multiplies 16 bits in float32, for want of instructions."""
        return self.kind == "cpu" and not has_instructions(getattr(torch, self.dtype))

    @property
    def name(self):
        if self.kind == "cuda":
            return torch.cuda.get_device_name(self.device)
        return getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name", self.kind)

    def __str__(self):
        threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.kind == "cpu" else ""
        many = f", {self.processes} processes" if self.processes > 1 else ""
        how = (" through float32" if self.through_float32 else "") + threads
        return f"{self.device} ({self.name}), {self.dtype}{how}{', compiled' if self.compile else ''}{many}"

    def autocast(self):
        """The context of the forward pass."""
        dtype = getattr(torch, self.dtype)
        return torch.autocast(self.kind, dtype=dtype, enabled=dtype != torch.float32)

    def scaler(self):
        """The gradient scaler: float16 alone needs one, elsewhere it passes everything through."""
        return torch.amp.GradScaler(self.kind, enabled=self.dtype == "float16")

    def synchronize(self):
        """Wait until the device is done; a CPU is."""
        if self.kind != "cpu":
            getattr(torch, self.kind).synchronize()

    def peak_memory(self):
        """Bytes: of the card's allocator on CUDA, of the process elsewhere; None where unknown."""
        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if os.name == "nt":
            return None
        if sys.platform == "linux":  # whose ru_maxrss begins at that of the process that started this one
            with contextlib.suppress(OSError):  # a sandbox may have no /proc, or not all of it
                status = Path("/proc/self/status").read_text()
                if peak := re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE):
                    return int(peak[1]) * 1024
            return None
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def keep_float32():
    """Have cards multiply float32 in float32. Under TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1, which NVIDIA's images
    set, products would have 10 bits of mantissa, and evaluations would no longer be exact."""
    torch.set_float32_matmul_precision("highest")


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory():
    """Have glibc keep the memory that a step frees for the next one: 18,300 tokens/s against 17,300 at cpu.py's
    size (docs/speed.md). It would give large blocks back to the kernel, and get them again page by page,
    zeroed. From 32 MB on it still does: a kept block would be lost to the next one as soon as something small
    that stays lay in its place, and memory would grow block by block."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_TRIM_THRESHOLD, -1)  # never
            mallopt(M_MMAP_THRESHOLD, 32 << 20)  # from where on a block has its own mapping; glibc's most


@contextlib.contextmanager
def enough_memory(device, advice):
    """A context in which running out of memory is a UserError. advice: how to use less."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(f"{device} has too little memory for this: {advice}") from None


def out_of_memory(error):
    """Whether PyTorch ran out of memory; on the CPU it has no error type of its own for that."""
    said = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or any(words in str(error) for words in said)


def memory_of(device):
    """Bytes of memory that a device has in all; infinity where the system does not tell."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory
    with contextlib.suppress(AttributeError, OSError, ValueError):
        pages = os.sysconf("SC_PHYS_PAGES")
        return os.sysconf("SC_PAGE_SIZE") * pages if pages > 0 else math.inf
    return math.inf


def best_device():
    if torch.cuda.is_available():
        if supported("cuda"):
            return "cuda"
        print(f"{torch.cuda.get_device_name()} has no kernels in this PyTorch, too old or too new: not used")
    return "mps" if torch.backends.mps.is_available() else "cpu"


def supported(device):
    """Whether this PyTorch has kernels for a card: an sm_XY serves the cards of X.Y to X.9, a compute_XY, which
    is compiled there, those of X.Y and all later ones. Cards other than NVIDIA's are taken to be served."""
    major, minor = torch.cuda.get_device_capability(device)
    built = re.findall(r"\b(sm|compute)_(\d+)", " ".join(torch.cuda.get_arch_list()))
    fits = [kind == "compute" or int(number) // 10 == major for kind, number in built]
    return not built or any(f and int(number) <= 10 * major + minor for f, (_, number) in zip(fits, built))


def check_device(device):
    kind, _, index = device.partition(":")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={device!r}, and PyTorch sees no CUDA card here: use --device=auto")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={device!r}, and PyTorch sees {torch.cuda.device_count()} CUDA cards here")
    if kind == "cuda" and not supported(device):
        raise UserError(
            f"{torch.cuda.get_device_name(device)} has no kernels in this PyTorch, too old or too new for it:"
            " use --device=cpu, or a PyTorch for another CUDA"
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("device='mps', and PyTorch sees no Apple GPU here: use --device=auto")


def check_device_for(processes, device):
    if device not in ("cpu", "cuda"):
        raise UserError(
            f"device={device!r} is for one process: {processes} processes need --device=cuda or --device=cpu"
        )
    if device == "cuda" and torch.cuda.device_count() < processes:
        raise UserError(
            f"{processes} processes need a CUDA card each, and PyTorch sees {torch.cuda.device_count()} here:"
            " let torchrun start fewer, or use --device=cpu"
        )


def default_threads(processes):
    """PyTorch's choice for one process. Several, where torchrun has set that to 1, share the cores."""
    if processes == 1:
        return torch.get_num_threads()
    return max(1, cores() // processes)


def best_dtype(device):
    """bfloat16 where the hardware has it, float16 on older CUDA cards, else float32."""
    if device.startswith("cuda"):
        return "bfloat16" if has_bfloat16(device) else "float16"
    return "bfloat16" if device == "cpu" and has_instructions(torch.bfloat16) else "float32"


def has_bfloat16(card):
    """Whether a CUDA card has instructions for it; PyTorch emulates it on older ones."""
    return torch.cuda.get_device_capability(card) >= (8, 0)


def versions(packages=()):
    """What runs: Python, packages, these too, platform and the code's revision."""
    return {
        **{package: importlib.metadata.version(package) for package in packages},
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "cuda": torch.version.cuda,
        "platform": f"{platform.system()} {platform.machine()}",
        "revision": revision(),
    }


def revision():
    """The commit of the code, with "+changes" where the tree differs from it; outside git what the environment
    variable CODE_REVISION says, or None."""

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        if Path(git("rev-parse", "--show-toplevel")).resolve() == ROOT:  # not a repository around the code
            return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    return os.environ.get("CODE_REVISION")
