"""tinyshakespeare itself, prepared beforehand: its counts, and a short training. CI names this file; the
suite leaves it out, since a clone has no corpus."""

import json

import train
from config import ROOT
from data.corpus import Corpus, decode


def test_tinyshakespeare_has_its_published_counts():
    corpus = Corpus("shakespeare_char")
    assert corpus.meta["vocab_size"] == 65
    assert {name: len(tokens) for name, tokens in corpus.tokens.items()} == {"train": 1_003_854, "val": 111_540}
    assert decode(corpus.tokens["train"][:14].tolist(), corpus.meta) == "First Citizen:"


def test_a_short_training_learns(tmp_path):
    files = [str(ROOT / "config" / name) for name in ("shakespeare_noise.py", "cpu.py")]
    options = ["--max_iters=200", "--noise_sigma=0.001", "--eval_interval=100", f"--out_dir={tmp_path}"]
    assert train.main([*files, *options]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["best_val_loss"] < 2.7
    assert result["final_val_loss"] < 2.7
