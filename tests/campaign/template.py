"""What the attacks begin from: a corpus, undisturbed runs of every kind, a stopped run, an export, a study."""

import shutil
import socket
import time

import disk
from lab import LAB, TREE, Child, summary

TINY = {
    **{"dataset": "./corpus", "out_dir": "run", "device": "cpu", "dtype": "float32", "threads": 1},
    **{"batch_size": 4, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16, "dropout": 0.1},
    **{"max_iters": 40, "warmup_iters": 3, "learning_rate": 0.02, "noise_sigma": 0.0},
    **{"eval_interval": 8, "eval_tokens": 512, "eval_train_tokens": 256},
    **{"log_interval": 1, "checkpoint_interval": 5},
}
KINDS = {
    "plain": {},
    "noise": {"noise_sigma": 0.05, "noise_gamma": 0.9, "gradient_accumulation_steps": 2},
    "plateau": {"noise_schedule": "plateau", "noise_sigma": 0.3, "noise_gamma": 0.5, "plateau_interval": 3},
    "float16": {"dtype": "float16"},
    "diagnosis": {"noise_sigma": 0.01, "diagnose_interval": 3},
    "init_from": {
        "init_from": "source",
        "noisytune_lambda": 0.15,
        "noise_sigma": 1.0,
        "noise_schedule": "cosine",
    },
    "two processes": {"max_iters": 30},
}
STUDY = '''"""Two arms."""
base = "config/quickstart.py"
common = dict(dtype="float32", dataset="./corpus", device="cpu", threads=1, batch_size=4, block_size=16,
    n_layer=1, n_head=2, n_embd=16, max_iters=8, warmup_iters=2, eval_interval=2, eval_tokens=256,
    eval_train_tokens=256, log_interval=1, checkpoint_interval=4, sample_tokens=0, plot=False)
arms = {"baseline": dict(noise_sigma=0.0), "noise": dict(noise_sigma=0.1)}
baseline = "baseline"
seeds = (1, 2)
'''
TEXT = "".join(
    f"{name} saw {number} {thing} by the {place}.\n"
    for number in ("one", "two", "three", "seven")
    for name in ("Ada", "Bo", "Cleo", "Dan", "Eve")
    for thing in ("birds", "stones", "ships", "letters")
    for place in ("river", "old wall", "sea", "house")
)
wanted = {}  # {kind: summary of the run that nothing disturbed}
seconds = {}  # {kind: that it took}


def words(kind="plain", **options):
    return [f"--{name}={value}" for name, value in {**TINY, **KINDS[kind], **options}.items()]


def do(folder, script, *arguments, fine=(0,), **how):
    child = Child(folder, script, arguments, **how).wait()
    if child.status not in fine:
        raise SystemExit(f"{child.command} failed undisturbed:\n{child.err}")
    return child


def make_base():
    """A corpus, and a finished run to start from."""
    base = LAB / "base"
    base.mkdir()
    (base / "text.txt").write_text(TEXT)
    do(base, "data/text_char/prepare.py", "text.txt")
    (base / "corpus").mkdir()
    for name in ("meta.json", "train.bin", "val.bin"):
        shutil.copy(TREE / "data" / "text_char" / name, base / "corpus" / name)
    do(base, "train.py", *words(out_dir="source", max_iters=10, seed=7))


def make_full():
    """The same with a finished run, a stopped one, an export, a study with its records, and foreign files."""
    full = LAB / "full"
    shutil.copytree(LAB / "base", full)
    do(full, "train.py", *words("init_from", out_dir="done"))
    operations = disk.operations_of(full, words("init_from"))
    shutil.rmtree(full / "run")
    stop = disk.Die(full, int(0.7 * len(operations)))
    do(full, "train.py", *words("init_from"), before=lambda: disk.watch(stop), fine=(disk.DIED,))
    do(full, "training/export.py", "done", "export")
    (full / "tiny.py").write_text(STUDY)
    for line in do(full, "sweep.py", "tiny.py", "--list").out.splitlines():
        do(full, "train.py", *line.split()[2:])
    do(full, "analysis/collect.py", "out", "--to=records")
    for place in ("", "run/", "done/", "export/", "out/tiny/"):
        (full / place / "notes.txt").write_text("mine")


def undisturbed(kind):
    """Train a kind of run without any attack, once, for `wanted` and `seconds`; call it before the attacks."""
    if kind in wanted:
        return
    folder, began = LAB / f"undisturbed {kind}", time.monotonic()
    shutil.copytree(LAB / "base", folder)
    ranks = start_ranks(lambda *how, **more: Child(folder, *how, **more), kind)
    for child in ranks:
        if child.wait().status:
            raise SystemExit(f"{child.command} failed undisturbed:\n{child.err}")
    wanted[kind], seconds[kind] = summary(folder / "run"), time.monotonic() - began


def start_ranks(start, kind):
    """The processes of a run: one, or two that meet as those of torchrun do."""
    if kind != "two processes":
        return [start("train.py", words(kind))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [start("train.py", words(kind), RANK=str(rank), LOCAL_RANK=str(rank), **meeting) for rank in (0, 1)]
