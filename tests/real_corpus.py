"""tinyshakespeare itself, prepared beforehand: its counts, and a short training. CI names this file; the
suite leaves it out, since a clone has no corpus.

REAL_DATA, an environment variable: a folder with tinyshakespeare.txt and GPT-2's r50k_base.tiktoken.
"""

import json
import os
from pathlib import Path

import pytest

import train
from config import ROOT
from data.corpus import Corpus, decode
from data.shakespeare_bpe import prepare as shakespeare_bpe
from data.subword import is_gpt2s

REAL = Path(os.environ.get("REAL_DATA", ROOT / "real"))


def test_tinyshakespeare_has_its_published_counts():
    corpus = Corpus("shakespeare_char")
    assert corpus.meta["vocab_size"] == 65
    assert {name: len(tokens) for name, tokens in corpus.tokens.items()} == {"train": 1_003_854, "val": 111_540}
    assert decode(corpus.tokens["train"][:14].tolist(), corpus.meta) == "First Citizen:"


@pytest.mark.skipif(not (REAL / "r50k_base.tiktoken").is_file(), reason="REAL_DATA has no GPT-2 vocabulary")
def test_gpt2s_tokens_of_it_have_their_published_counts(tmp_path):
    options = [f"--source={REAL / 'tinyshakespeare.txt'}", f"--vocabulary={REAL / 'r50k_base.tiktoken'}"]
    shakespeare_bpe.main(options, tmp_path / "bpe")
    corpus = Corpus(str(tmp_path / "bpe"))
    assert {name: len(tokens) for name, tokens in corpus.tokens.items()} == {"train": 301_966, "val": 36_059}
    assert is_gpt2s(corpus.meta)


def test_a_short_training_learns(tmp_path):
    files = [str(ROOT / "config" / name) for name in ("shakespeare_noise.py", "cpu.py")]
    options = ["--max_iters=200", "--noise_sigma=0.001", "--eval_interval=100", f"--out_dir={tmp_path}"]
    assert train.main([*files, *options]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["best_val_loss"] < 2.7
    assert result["final_val_loss"] < 2.7
