"""Small corpora and small runs that the tests share. Nothing here needs a network, or a GPU but for those
tests that are marked `cuda`."""

import numpy as np
import pytest
import torch

import train
from config import load
from data import building
from data.corpus import Corpus
from machine import Machine

TEXT = "".join(
    f"{name} saw {number} {thing} by the {place}.\n"
    for number in ("one", "two", "three", "seven")
    for name in ("Ada", "Bo", "Cleo", "Dan", "Eve")
    for thing in ("birds", "stones", "ships", "letters")
    for place in ("river", "old wall", "sea", "house")
)


def write_corpus(folder, text, **options):
    """A prepared corpus of a text, in `folder`."""
    building.write_corpus(
        folder, lambda: iter([building.code_points(text)]), {"from": "a test", "sha256": "-"}, **options
    )
    return folder


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

    def build(name="run", **knobs):
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
        return [f"--{name}={value}" for name, value in {**small, **knobs}.items()]

    return build


@pytest.fixture
def run(command, tmp_path):
    """run(name, key=value, ...) trains in this process and returns the run's folder."""

    def do(name="run", status=0, **knobs):
        assert train.main(command(name, **knobs)) == status
        return tmp_path / name

    return do


@pytest.fixture
def training(command):
    """training(key=value, ...) is a Training that has done nothing yet."""

    def build(**knobs):
        config = load(command(**knobs))
        return train.Training(config, Corpus(config.dataset), Machine.choose(config))

    return build


@pytest.fixture(autouse=True)
def same_threads():
    """Each test begins with the number of threads that the session had."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def checkpoint(folder, name="last.pt"):
    return torch.load(folder / name, weights_only=True)


def weights(folder, name="last.pt"):
    return checkpoint(folder, name)["model"]["state"]


def same_weights(one, other):
    """Whether two runs ended with the same bits."""
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def tokens_of(folder, split):
    return np.fromfile(folder / f"{split}.bin", "<u2")
