"""Small corpora and small runs that the tests share. Nothing here needs a network, or a GPU but for those
tests that are marked `cuda`."""

import functools
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from made_up import fake_run

import train
from config import ROOT, load
from data import build
from training.lifecycle import open_corpus
from training.machine import Machine
from training.run import Run

LIMIT = 600  # seconds, for processes of their own; far more than any takes, on a loaded machine too
TEXT = "".join(
    f"{name} saw {number} {thing} by the {place}.\n"
    for number in ("one", "two", "three", "seven")
    for name in ("Ada", "Bo", "Cleo", "Dan", "Eve")
    for thing in ("birds", "stones", "ships", "letters")
    for place in ("river", "old wall", "sea", "house")
)


def own(pattern):
    """The repository's own files of a pattern, sorted; all that lie there where git knows none of them."""
    found = sorted(ROOT.glob(pattern))
    return [path for path in found if path.relative_to(ROOT).as_posix() in tracked()] or found


@functools.cache
def tracked():
    """The paths that git has of the repository; none without git."""
    if not shutil.which("git"):
        return set()
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    return set(listed.stdout.split("\n"))


def write_corpus(folder, text, **options):
    """A prepared corpus of a text, in `folder`."""
    build.write_corpus(
        folder, lambda: iter([build.code_points(text)]), {"from": "a test", "sha256": "-"}, **options
    )
    return folder


def pytest_configure():
    """Under nohup SIGHUP is ignored, and what tests start would inherit that."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="PyTorch sees no CUDA card here"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """The path of a prepared corpus of about 9,000 characters."""
    return write_corpus(tmp_path_factory.mktemp("corpora") / "small", TEXT)


@pytest.fixture
def command(corpus, tmp_path):
    """command(name, key=value, ...) is the command line of a small run in the folder `name`."""

    def build(name="run", **options):
        small = {
            "dataset": corpus,
            "out_dir": tmp_path / name,
            "device": "cpu",
            "dtype": "float32",
            "threads": 1,
            **{"batch_size": 4, "block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16},
            **{"max_iters": 12, "warmup_iters": 3, "learning_rate": 0.01, "dropout": 0.1},
            **{"noise_sigma": 0.01, "noise_gamma": 0.9, "gradient_accumulation_steps": 2},
            **{"eval_interval": 4, "log_interval": 1, "checkpoint_interval": 5, "eval_train_tokens": 512},
        }
        return [f"--{name}={value}" for name, value in {**small, **options}.items()]

    return build


@pytest.fixture
def run(command, tmp_path):
    """run(name, key=value, ...) trains in this process and returns the run's folder."""

    def do(name="run", status=0, **options):
        assert train.main(command(name, **options)) == status
        return tmp_path / name

    return do


@pytest.fixture
def parts(command):
    """parts(key=value, ...): (config, corpus, machine)."""

    def build(**options):
        config = load(command(**options))
        return config, open_corpus(config, machine := Machine.choose(config)), machine

    return build


@pytest.fixture
def new_run(parts):
    """new_run(key=value, ...) is a Run that has done no step yet."""
    return lambda **options: Run(*parts(**options))


@pytest.fixture
def start_python():
    """start_python(words, NAME=value, ...) is a started Python; what still runs when the test ends is ended."""
    started = []

    def start(words, **environment):
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT, env={**os.environ, **{name: str(value) for name, value in environment.items()}},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()  # torchrun ends those that it has started
        try:
            process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture
def pair(start_python):
    """pair(words) is a Pair that the words after `python` have started."""
    return lambda words: Pair(words, start_python)


class Pair:
    """Two ranks of one run, started as torchrun's agent would.

    The test holds the store at which they meet, on a port of the system's choice.
    """

    def __init__(self, words, start):
        self.store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self.store.port, "WORLD_SIZE": 2}
        meeting |= {"LOCAL_WORLD_SIZE": 2, "TORCHELASTIC_USE_AGENT_STORE": True}
        self.processes = [start(words, **meeting, RANK=rank) for rank in range(2)]

    def end(self):
        """(exit statuses, what was printed, what was said on stderr), a pair each."""
        said = [process.communicate(timeout=LIMIT) for process in self.processes]
        return [process.returncode for process in self.processes], *zip(*said)


@pytest.fixture
def stop_at(monkeypatch, command):
    """stop_at(step, name, key=value, ...) trains until that many steps are done, where a SIGTERM comes."""

    def stop(at, name="run", number=signal.SIGTERM, **options):
        step = train.train_step

        def stopping(run):
            step(run)
            if run.step == at:
                os.kill(os.getpid(), number)

        with monkeypatch.context() as patch:
            patch.setattr(train, "train_step", stopping)
            assert train.main(command(name, **options)) == 128 + number

    return stop


@pytest.fixture(autouse=True)
def same_threads():
    """Each test begins with the number of threads that the session had."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def two_arms(tmp_path):
    """Three seeds of a baseline and of an arm with noise."""
    for seed in (1, 2, 3):
        fake_run(tmp_path / "baseline" / f"seed{seed}", seed)
        fake_run(tmp_path / "noise" / f"seed{seed}", seed, noise_sigma=0.1)
    return tmp_path


def checkpoint(folder, name="last.pt"):
    return torch.load(folder / name, map_location="cpu", weights_only=True)


def weights(folder, name="last.pt"):
    return checkpoint(folder, name)["model"]["state"]


def same_weights(one, other):
    """Whether two runs ended with the same bits."""
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def tokens_of(folder, split):
    return np.fromfile(folder / f"{split}.bin", "<u2")
