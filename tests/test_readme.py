"""What the README promises: the lines for one's own loop, its tables, its commands."""

import hashlib
import os
import re
import subprocess
import sys
from statistics import median

import pytest
import torch

import noise
from analysis.arms import read_settings
from analysis.controls import found_shares, plateau_sums
from analysis.findings import before_clipping, by_length, overfitting, rises_of
from analysis.sentences import FINAL, Study
from analysis.tables import PAPER, comparisons, outcome, with_interval
from bench import costs
from config import ROOT, Config, load
from config.study import read_study
from data.corpus import Corpus
from model import GPT, GPTConfig
from sample import read_options

SAMPLE_OPTIONS = vars(read_options(["a run"]))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(containing):
    """The one code block of the README that contains a text."""
    (found,) = [b for b in re.findall(r"```\w*\n(.*?)```", README, re.DOTALL) if containing in b]
    return found


def sum_of_noise(sigma, step, elements):
    """The sum of one step's noise over all tensors, without noise.py: the seed, the draw, the schedule."""
    digest = hashlib.blake2b(f"(1, 'noise', {step})".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") // 2)
    return sigma * torch.randn(elements, generator=generator).double().sum().item()


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_the_three_lines_work_in_any_loop(monkeypatch, optimizer):
    """The block as it stands, run; the sum of what it adds to the gradients against the formula."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 40), torch.nn.Tanh(), torch.nn.Linear(40, 3))
    elements = sum(parameter.numel() for parameter in model.parameters())
    namespace = {
        "torch": torch,
        "model": model,
        "loss_function": torch.nn.functional.mse_loss,
        "batches": [(torch.randn(8, 5), torch.randn(8, 3)) for _ in range(6)],
        "optimizer": getattr(torch.optim, optimizer)(model.parameters(), lr=1e-3),
    }
    sums, add_ = [], noise.GradientNoise.add_

    def total():
        return sum(parameter.grad.double().sum().item() for parameter in model.parameters())

    def watched(self, step):
        before = total()
        norm = add_(self, step)
        sums.append((total() - before, norm.item()))
        return norm

    monkeypatch.setattr(noise.GradientNoise, "add_", watched)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    exec(block("GradientNoise("), namespace)
    assert len(sums) == 6
    for step, (added, norm) in enumerate(sums):
        sigma = 0.01 * 0.99**step
        assert added == pytest.approx(sum_of_noise(sigma, step, elements), abs=1e-5)
        assert norm == pytest.approx(sigma * elements**0.5, rel=0.2)
    assert all(not torch.equal(a, b) for a, b in zip(start, model.parameters()))


def test_the_example_of_a_corpus_prepares_one(tmp_path):
    """The block as it stands, but for the repository's place and the source's hash."""
    folder = tmp_path / "data" / "mine"
    folder.mkdir(parents=True)
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 50)
    digest = hashlib.sha256((tmp_path / "text.txt").read_bytes()).hexdigest()
    code = block("build.write_corpus").replace("the SHA-256 of that file", digest)
    (folder / "prepare.py").write_text(code)
    words = [sys.executable, str(folder / "prepare.py"), f"--source={tmp_path / 'text.txt'}"]
    subprocess.run(words, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    assert Corpus(str(folder)).meta["vocabulary"] == sorted(set("to be or not to be\n"))


def test_the_floor_is_reached_when_it_says():
    floor = next(t for t in range(9999) if 0.1 * 0.99**t < noise.SIGMA_FLOOR)
    assert f"from iteration {floor:,} at 0.1 and 0.99" in README


def test_only_three_lines_of_the_block_are_ours():
    ours = [line for line in block("GradientNoise(").splitlines() if "noise" in line or "Noise" in line]
    assert len(ours) == 3


@pytest.mark.parametrize(
    ("files", "vocabulary", "train_tokens"),
    [
        ("shakespeare_baseline.py", 65, 1_003_854),
        ("shakespeare_noise.py", 65, 1_003_854),
        ("shakespeare_baseline.py cpu.py", 65, 1_003_854),
        ("enwik8_baseline.py", 205, 90_000_000),
        ("enwik8_noise.py", 205, 90_000_000),
        ("text8_baseline.py", 27, 90_000_000),
        ("text8_noise.py", 27, 90_000_000),
        ("pretrain_text8_small.py", 27, 90_000_000),
        ("finetune_shakespeare.py", 65, 1_003_854),
        ("finetune_shakespeare_noisytune.py", 65, 1_003_854),
        ("finetune_gpt2_shakespeare.py", 50_257, 301_966),
        ("quickstart.py", None, None),
    ],
)
def test_the_hyperparameter_table_is_the_configs(files, vocabulary, train_tokens):
    (row,) = [line for line in README.splitlines() if line.startswith(f"| `{files}` |")]
    config = load([str(ROOT / "config" / name) for name in files.split()])
    tokens = config.tokens_per_iter * config.max_iters
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    parts = f"{config.gradient_accumulation_steps} × " if config.gradient_accumulation_steps > 1 else ""
    wanted = [
        f"{config.n_layer} × {config.n_embd}, {config.n_head} heads",
        f"{parts}{config.batch_size} × {config.block_size}",
        f"{config.max_iters:,}",
        f"{config.learning_rate:g}",
        f"{config.dropout:g}",
        f"{tokens / 1e6:.1f} M",
    ]
    assert cells[2:8] == wanted
    if vocabulary:
        names = ("block_size", "n_layer", "n_head", "n_embd", "bias")
        with torch.device("meta"):
            model = GPT(GPTConfig(vocabulary, **{name: getattr(config, name) for name in names}))
        assert cells[1] == f"{model.parameter_count() / 1e6:.2f} M"
        assert cells[8] == f"{tokens / train_tokens:.1f}"


def test_the_measured_differences_are_those_in_the_results():
    (setting,) = read_settings([ROOT / "results" / "table1_shakespeare" / "cpu"])
    rows = {arm.name: c for _, arm, _, c in comparisons([setting], "best_val_loss")}
    text = " ".join(README.split())
    first, mildest = rows["sigma0.1_gamma0.99"], rows["sigma0.01_gamma0.95"]
    assert f"0.1 and 0.99, is higher by {first.mean:.4f} ± {first.half:.4f} nats" in text
    assert f"0.01 and 0.95, by {mildest.mean:.4f} ± {mildest.half:.4f} (means over {mildest.n} seeds" in text
    assert all(c.verdict == "worse" for c in rows.values()), "every cell does harm"
    for corpus, part in (("enwik8", "4 MB of enwik8"), ("text8", "3 MB of text8")):
        rows = Study(ROOT / "results" / f"table1_{corpus}" / "cpu").rows()
        cells = [rows[name][-1] for name in ("sigma0.1_gamma0.99", "sigma0.01_gamma0.95")]
        told = " and ".join(f"{c.mean:.4f} ± {c.half:.4f}" for c in cells)
        assert f"on the first {part} by {told}" in text
        assert {c.n for c in cells} == {4}
    (setting,) = read_settings([ROOT / "results" / "best_against_best" / "cpu"])
    tuned = {arm.name: c for _, arm, _, c in comparisons([setting], "best_val_loss")}
    first, mildest = tuned["noise_0.1_0.99"], tuned["noise_0.01_0.95"]
    numbers = (
        f"{first.mean:+.4f} ± {first.half:.4f} and {mildest.mean:+.4f} ± {mildest.half:.4f} ({first.n} seeds)"
    )
    assert f"{numbers}, not resolved" in text
    assert first.verdict == mildest.verdict == "not resolved"
    shares = found_shares(Study(ROOT / "results" / "mechanism" / "cpu"))
    for name in ("second_moment_mean", "matched_warmup"):
        noise, found, n = shares[name]
        middle, low, high = (f"{100 * part:.0f} %" for part in found)
        assert f"has {middle} ({low} to {high}) of" in text
        assert (noise, n) == ("noise", 6)
    (before,) = before_clipping([Study(ROOT / "results" / "mechanism" / "cpu")])
    _, (middle, low, high), n = shares["before_clip"]
    share, harm = (
        f"{100 * middle:.0f} % ({100 * low:.0f} % to {100 * high:.0f} %)",
        before.partition(" (n =")[0],
    )
    assert f"noise has {share} of that effect, {harm.partition('`baseline` ')[2]} ({n} seeds)" in text
    decisive = Study(ROOT / "results" / "decisive" / "cpu")
    harm, more = (decisive.rows()[name][-1] for name in ("noise", "second_moment_mean"))
    shares = {name: found for name, (_, found, n) in found_shares(decisive).items() if n == harm.n == 6}
    (mean, alike) = (
        "{:.0f} % ({:.0f} % to {:.0f} %)".format(*(100 * part for part in shares[name]))
        for name in ("second_moment_mean", "matched_warmup")
    )
    gain = f"The noise does {more.mean:.4f} ± {more.half:.4f} less harm than its variance alone"
    assert f"down to {harm.mean:+.4f} ± {harm.half:.4f}, and the variance alone has {mean} of it" in text
    assert f"a matched warm-up {alike}, which may be all (6 seeds). {gain}" in text
    assert shares["second_moment_mean"][1] > 1, "what else the noise does is a gain"
    assert shares["matched_warmup"][1] < 1 < shares["matched_warmup"][2]


def test_why_the_harm_is_large_here_is_in_the_results():
    studies = [Study(ROOT / "results" / name / "cpu") for name in ("mechanism", "decisive")]
    (said,) = by_length(studies)
    assert "which is 45% of 2,000, 18% of 5,000, 1% of 100,000;" in said
    text = " ".join(README.split())
    assert "and 45 % of them have passed" in text
    assert "18 % of the paper's 5,000 iterations on tinyshakespeare and 1 % of its 100,000" in text
    tuned, baseline = (arm.runs[0].config.learning_rate for arm in studies[0].rows()["tuned"][1:3])
    assert tuned == 4 * baseline, "the best learning rate is four times the paper's"


def test_what_limited_data_showed_is_in_the_results():
    study = Study(ROOT / "results" / "limited_data" / "cpu")
    text = " ".join(README.split())
    (said,) = overfitting(study)
    (above,) = re.findall(r"is higher by ([\d.]+ ± [\d.]+) \(n = 6\)", said)
    assert f"without any regularization it ends {above} nats above its best" in text
    best, final = study.rows(), study.rows(FINAL)
    noise, augmented = (
        [with_interval(rows[name][-1].mean, rows[name][-1].half, "+") for rows in (best, final)]
        for name in ("noise_0.1_0.99", "augmentation")
    )
    assert f"difference is {noise[1]} at the end, and {noise[0]} at its best, not resolved" in text
    delay = final["delay"][-1]
    assert f"without any randomness, ends lower by another {-delay.mean:.4f} ± {delay.half:.4f}." in text
    assert f"has {augmented[1]} at the end and {augmented[0]} at its best (6 seeds)" in text
    assert [outcome(rows["noise_0.1_0.99"]) for rows in (best, final)] == ["not resolved", "better"]
    assert [outcome(rows["augmentation"]) for rows in (best, final)] == ["better", "better"]


def test_what_schedules_showed_is_in_the_results():
    study = Study(ROOT / "results" / "schedules" / "cpu")
    rows = study.rows()
    text = " ".join(README.split())
    words = (
        "end {} to {} nats above the baseline, and the first cell itself {}.",
        "one ends {2} above it, these four {0} to {1},",
    )
    for unit, said in zip(("", "_global"), words):
        shapes = [rows[name + unit] for name in ("linear", "cosine", "inverse", "constant")]
        ends = sorted((row[-1] for row in shapes), key=lambda c: c.mean)
        found = (ends[0], ends[-1], rows[f"exponential{unit}"][-1])
        assert said.format(*(with_interval(c.mean, c.half, "+") for c in found)) in text
    plateau = rows["plateau_global"][-1]
    (share,) = re.findall(r"came to (\d+)% of that of `constant_global`", " ".join(plateau_sums(study)))
    assert f"with {share} % of their sum, {with_interval(plateau.mean, plateau.half, '+')} (4 seeds;" in text
    weakest = max(row[-1].p_holm for row in rows.values())
    assert f"all {len(rows)} arms with noise are resolved as worse, the weakest at an adjusted p of" in text
    assert f"an adjusted p of {weakest:.4f})" in text
    assert {(row[-1].n, outcome(row)) for row in rows.values()} == {(4, "worse")}


def test_what_sensitivity_showed_is_in_the_results():
    rows = Study(ROOT / "results" / "sensitivity" / "cpu").rows().values()
    ends = (pick((row[-1] for row in rows), key=lambda c: c.mean) for pick in (min, max))
    told = "go from {} to {}".format(*(with_interval(c.mean, c.half, "+") for c in ends))
    assert f"{told} (3 of the 4 planned seeds: no verdicts yet)" in " ".join(README.split())
    assert {(row[-1].n, outcome(row)) for row in rows} == {(3, "interim")}


def test_what_flatness_showed_is_in_the_results():
    rows = Study(ROOT / "results" / "flatness" / "cpu").rows()
    first, mildest = (rises_of(rows[name])["rise_0.1"] for name in ("noise_0.1_0.99", "noise_0.01_0.95"))
    told = [with_interval(c.mean, c.half, "+") for c in (first, mildest)]
    text = " ".join(README.split())
    assert f"by {told[0]} nats more than without noise, with the mildest by {told[1]} ({first.n} seeds)" in text
    assert all(abs(c.mean) < c.half for c in (first, mildest)), "it does not show"


def test_every_file_and_knob_that_the_readme_names_is_there():
    places = ("", "config", "results", "data/text_char")
    others = (
        "config/train_shakespeare_char.py",  # nanoGPT's
        "my.txt",
        "input.txt",
        "runs.txt",
        "org/text.txt",
        "out/quickstart/seed1/figures/figure2_validation_loss.png",
    )
    for name in re.findall(r"[\w/-]+\.(?:py|md|png|cff|txt)\b", README):
        assert name.endswith(others) or any((ROOT / place / name).is_file() for place in places), name
    for knob in re.findall(r"--(\w+)=", README):
        others = (*("source", "vocabulary", "out", "nproc_per_node", "jobs", "minutes"), *SAMPLE_OPTIONS)
        others += ("array", "gres", "time", "to", "start", "eval_only")
        assert knob in Config.__dataclass_fields__ or knob in others, knob


def test_the_papers_own_figures_are_those_of_its_table():
    text = " ".join(README.split())
    for corpus, name in (("shakespeare_char", "tinyshakespeare"), ("enwik8", "enwik8"), ("text8", "text8")):
        before, after = (PAPER[corpus][arm][1] for arm in ("baseline", "noise"))
        assert f"from {before:.4f} to {after:.4f} on {name}" in text


def test_the_example_of_a_study_is_one(tmp_path):
    (tmp_path / "mine.py").write_text(block("laplace"))
    study = read_study(tmp_path / "mine.py", [str(ROOT / "config" / "cpu.py")])
    assert [run.config.noise_distribution for run in study.runs[:3]] == ["gaussian", "gaussian", "laplace"]
    assert study.title == "Laplacian noise beside Gaussian noise"


def test_the_papers_studies_are_as_long_as_it_says():
    names = [name.removesuffix("_char") for name in PAPER]
    studies = [read_study(ROOT / "config" / "study" / f"table1_{name}.py") for name in names]
    counts = [(len(study.runs), study.runs[0].config.max_iters) for study in studies]
    assert counts == [(56, 5000), (28, 100_000), (28, 100_000)]
    assert "is 56 runs of 5,000 iterations" in " ".join(README.split())
    assert "are 28 runs each, of 100,000 iterations" in " ".join(README.split())


def test_every_link_within_leads_somewhere():
    heads = re.findall(r"(?m)^#+ (.*)$", README)
    anchors = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
    links = re.findall(r"\]\(#([^)]+)\)", README)
    assert len(links) > 10
    assert set(links) <= anchors


def test_each_top_level_script_has_its_line():
    for path in ROOT.glob("*.py"):
        assert f"`{path.name}`" in README, path.name


def test_each_study_has_its_line():
    for path in (ROOT / "config" / "study").glob("*.py"):
        assert f"`{path.stem}`" in README, path.stem


# Speed: the numbers of the README and of results/SPEED.md are those of the records.

SPEED = (ROOT / "results" / "SPEED.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def benches():
    """{size: (bench.json, the ratio of every choice, and of the whole)} of what is quoted."""
    found = {}
    for size in ("paper", "cpu"):
        bench = costs.read_bench(ROOT / "results" / "speed" / size)["bench"]
        worth = {row["name"]: median(costs.ratios(row["undone"], row["done"])) for row in bench["choices"]}
        loops = {name: loop["seconds"] for name, loop in bench["loops"].items()}
        worth["all of `train.py` without noise, over the plain loop"] = median(
            costs.ratios(loops["plain"], loops["quiet"])
        )
        found[size] = (bench, worth)
    return found


@pytest.fixture(scope="module")
def measured(benches):
    """{size: the numbers that are quoted of its bench.json}"""
    found = {}
    for size, (bench, _) in benches.items():
        look, text, noise = bench["evaluation"], bench["sampling"], bench["ingredients"][0]
        steps = {name: median(loop["seconds"]) for name, loop in bench["loops"].items()}
        whole = look["val_tokens"] / look["exact_tokens"] * look["random_batches"] / look["wanted_batches"]
        found[size] = {
            **{"steps": steps, "noise": median(costs.added(noise))},
            "share": median(costs.shares(noise, steps["quiet"])),
            "exact": whole * median(costs.ratios(look["exact_seconds"], look["random_seconds"])),
            "memory": [bench["started"][name]["peak_memory_bytes"] / 1e9 for name in ("plain", "ours")],
            "sampled": {
                part: [
                    *(text["tokens"] / median(text[f"{part}_{how}_seconds"]) for how in ("cached", "plain")),
                    median(costs.ratios(text[f"{part}_plain_seconds"], text[f"{part}_cached_seconds"])),
                ]
                for part in ("begun", "full")
            },
        }
    return found


def test_speed_is_as_it_was_measured(benches):
    """The table of choices: its name, then predicted and measured at the paper's size and at cpu.py's."""
    table = SPEED.split("## Before and after")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")][2:]
    for (_, worth), column in zip(benches.values(), (2, 4), strict=True):
        said = {row[0]: row[column] for row in rows}
        assert said == {name: f"{worth[name]:.2f}" if name in worth else "–" for name in said}
        assert set(worth) <= set(said)


def test_what_it_costs_is_as_it_was_measured(benches, measured):
    text, (paper, cpu) = " ".join(SPEED.split()), measured.values()
    steps = [f"{paper['steps'][name]:.1f} s" for name in ("plain", "quiet")]
    short = [f"{1e3 * cpu['steps'][name]:.1f}" for name in ("plain", "quiet")]
    begun, full = paper["sampled"]["begun"], paper["sampled"]["full"]
    loops = benches["cpu"][0]["loops"]
    with_noise = median(costs.ratios(loops["plain"]["seconds"], loops["ours"]["seconds"]))
    (column,) = [row for row in benches["paper"][0]["choices"] if row["of"] == "sample"]
    rates = [256 / median(column[side]) for side in ("undone", "done")]
    for words in (
        f"records before this one, in which it is {with_noise:.2f}:",
        f"Steps take {steps[0]} in the plain loop and {steps[1]} in `train.py` without noise at the paper's",
        f"{short[0]} and {short[1]} ms at `cpu.py`'s.",
        "held {:.1f} and {:.1f} GB in their first steps".format(*paper["memory"]),
        f"and {1e3 * paper['noise']:.1f} ms measured, {paper['share']:.1f} % of a step at batch 64.",
        f"and {1e3 * cpu['noise']:.1f} ms measured, {cpu['share']:.1f} % of a step",
        f"costs {100 * paper['exact']:.1f} % of 200 random batches at the paper's size",
        f"the split has {benches['cpu'][0]['evaluation']['val_tokens']:,}, {100 * cpu['exact']:.0f} %.",
        "come at {:.0f} a second, against {:.0f} computed anew each time, {:.1f} times as many".format(*begun),
        "after a full context at {:.0f} against {:.0f}, {:.1f} times".format(*full),
        "{:.0f} tokens/s | {:.0f} tokens/s |".format(*rates),
    ):
        assert words in text, words


def test_what_a_cpu_without_bfloat16_takes_is_as_it_was_measured():
    bench = costs.read_bench(ROOT / "results" / "speed" / "cpu_through_float32")["bench"]
    assert bench["machine"]["through_float32"]
    rows = {row["name"]: row for row in bench["choices"]}
    worth = {name: median(costs.ratios(row["undone"], row["done"])) for name, row in rows.items()}
    through, loops = rows["16 bits through float32"], bench["loops"]
    quiet = median(costs.ratios(loops["plain"]["seconds"], loops["quiet"]["seconds"]))
    whole = {name: sum(parts.values()) for name, parts in costs.whole_run(bench).items()}
    text = " ".join(SPEED.split())
    for words in (
        f"a step of `cpu.py`'s size took {1e3 * median(through['undone']):.0f} ms",
        f"through float32 (`model.product`) it takes {1e3 * median(through['done']):.0f} ms,"
        f" {worth['16 bits through float32']:.2f} times as fast",
        f"in float32 alone it is {worth['bfloat16']:.2f} times as long",
        f"in float32, by {quiet:.2f} without noise",
        f"a whole run is, by {whole['plain'] / whole['ours']:.2f}.",
    ):
        assert words in text, words


def test_the_readme_has_the_same_speeds(benches, measured):
    for (bench, worth), numbers in zip(benches.values(), measured.values(), strict=True):
        form = ".0f" if numbers["steps"]["plain"] > 1 else ".1f"
        cells = [f"{1e3 * numbers['steps'][name]:{form}} ms" for name in ("plain", "ours", "quiet")]
        plain, ours = (bench["loops"][name]["seconds"] for name in ("plain", "ours"))
        ratio = worth["all of `train.py` without noise, over the plain loop"]
        cells += [f"{median(costs.ratios(plain, ours)):.2f}", f"{ratio:.2f}"]
        assert f"| {' | '.join(cells)} |" in README.replace(" ms a step", " ms"), cells
    text, (paper, cpu) = " ".join(README.split()), measured.values()
    assert f"{1e3 * cpu['noise']:.1f} ms of that step" in text
    assert f"an iteration takes two CPU cores {paper['steps']['ours']:.1f} s" in text
    assert f"and {1e3 * paper['noise']:.0f} ms at the paper's, {paper['share']:.1f} % of a step" in text
    sampled = [paper["sampled"][part][2] for part in ("begun", "full")]
    assert "sampled {:.1f} times as fast".format(*sampled) in text
    assert f"and the next 256, once the context is full, {sampled[1]:.1f} times." in text
