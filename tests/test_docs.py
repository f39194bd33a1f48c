"""The README and the pages under docs/: their commands, options, files, links, tables and examples hold.

A config or a study that a user has added needs no line in them.
"""

import contextlib
import functools
import gzip
import hashlib
import io
import json
import math
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import pytest
import torch
from conftest import own

import noise
import sweep
from config import ROOT, Config, load
from config._classify import Classify
from config.study import read_study
from data.corpus import Corpus
from data.files import read_json
from model import GPT, GPTConfig
from training.run_files import OWN_FILES

PAGES = [ROOT / "README.md", *own("docs/*.md")]
OPTIONS = Config.__dataclass_fields__
ALL_OPTIONS = {**OPTIONS, **Classify.__dataclass_fields__}
MADE = {  # by a reader or by a command: no file of the repository
    *(*OWN_FILES, "train.bin", "val.bin", "test.bin", "meta.json", "prepare.py", "input.txt", "my.txt"),
    *("runs.txt", "job.sh", "corpus.json"),
}
VOCABULARY = {  # of a dataset: its symbols, and the tokens of its train split
    **{"shakespeare_char": (65, 1_003_854), "shakespeare_bpe": (50_257, 301_966)},
    **{"enwik8": (205, 90_000_000), "text8": (27, 90_000_000)},
}


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def text_of(page):
    """A page without what its readers would type into nanoGPT: the first cells of that table."""
    text, found = page.read_text(encoding="utf-8"), []
    for part in re.split(r"(?m)^(?=#+ )", text):
        found.append(re.sub(r"(?m)^\|[^|\n]*\|", "| |", part) if "nanoGPT" in part.split("\n")[0] else part)
    return "".join(found)


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", text_of(page), re.DOTALL)


def spans(page):
    """What stands between single backticks, on one line each."""
    prose = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def rows(page):
    """The cells of every table row of a page."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines if line[:1] == "|"]


def commands_in(page):
    """The words after `python` of every command of a page, in blocks and in backticks."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()] + spans(page)
    for part in (part.split(" > ")[0].strip() for line in lines for part in line.split("&&")):
        if re.match(r"(\w+=\S+ )*(\.venv/bin/)?(python3?|torchrun) ", part):
            python, *words = [word for word in shlex.split(part) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
            if python == "torchrun" or "torch.distributed.run" in words:
                words = words[words.index("train.py") :] if "train.py" in words else []
            if words:
                yield words


COMMANDS = {f"{name_of(page)}: {' '.join(words)}": words for page in PAGES for words in commands_in(page)}


@functools.cache
def help_of(*words):
    """What a command prints with --help, run in this process."""
    printed, argv, path = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), sys.argv, sys.path[:]
    run, name = (runpy.run_module, words[1]) if words[0] == "-m" else (runpy.run_path, str(ROOT / words[0]))
    try:
        sys.argv = [name, "--help"]
        with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as end:
            run(name, run_name="__main__")
    finally:
        sys.argv, sys.path[:] = argv, path
    printed.seek(0)
    assert not end.value.code
    return printed.read()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_every_command_is_one(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, rest = (words[:2], words[2:]) if words[0] == "-m" else (words[:1], words[1:])
    for word in words:
        assert not word.endswith(".py") or (ROOT / word).is_file(), word
    if program == ["train.py"]:
        if rest != ["--help"]:
            load(rest)
    elif program == ["sweep.py"]:
        assert sweep.read_command(rest)[1].runs
    elif program == ["-m", "pytest"]:
        tests = [path.read_text() for path in own("tests/test_*.py") if path != Path(__file__)]
        assert not rest or any(rest[-1] in text for text in tests)
    elif program not in (["-m", "venv"], ["tests/mutations.py"], ["tests/campaign"]):
        known = {"help", *re.findall(r"--([\w-]+)", help_of(*program))}
        known |= set(OPTIONS) if "bench" in program[-1] else set()
        assert {word[2:].split("=")[0] for word in rest if word.startswith("--")} <= known


def test_the_pages_have_commands():
    assert len(COMMANDS) > 60
    assert {"train.py", "sweep.py", "plot.py", "sample.py", "-m"} <= {words[0] for words in COMMANDS.values()}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_and_option_that_is_named_is_there(page):
    for span in spans(page):
        if re.fullmatch(r"[\w./-]+\.(py|md|txt|json|jsonl|pt|bin|sh)", span) and not span.startswith("out/"):
            places = (ROOT / place / span for place in ("", "config", "config/study"))
            assert span in MADE or any(place.is_file() for place in places), span
        if re.fullmatch(r"[\w./]+/", span) and not span.startswith("out/"):
            assert (ROOT / span).is_dir(), span
        if option := re.match(r"(noise_|noisytune_|reset_|diagnose_)\w+$", span):
            assert option[0] in ALL_OPTIONS or (ROOT / "config" / "study" / f"{span}.py").is_file(), span
        if option := re.match(r"--(\w[\w-]*)", span):
            programs = ("sweep.py", "sample.py", "data/shakespeare_bpe/prepare.py", "data/enwik8/prepare.py")
            helps = "".join(map(help_of, programs)) + help_of("-m", "bench") + help_of("-m", "bench.gpu")
            assert option[1] in ALL_OPTIONS or re.search(rf"{option[0]}\b", helps), span


def anchors(page):
    heads = re.findall(r"(?m)^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [*PAGES, *own("results/*.md")], ids=name_of)
def test_every_link_and_image_within_is_there(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for link in links:
        if "://" not in link:
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_each_page_leads_to_all_and_is_short():
    for page in PAGES:
        assert page.stat().st_size <= 9_000, name_of(page)
        found = set(re.findall(r"\]\(([\w./]+\.md)", page.read_text("utf-8")))
        linked = {(page.parent / link).resolve() for link in found}
        assert {*PAGES, ROOT / "results" / "README.md"} - {page} <= linked, name_of(page)


# Tables.


def test_the_table_of_configs_is_the_configs():
    found = [cells for cells in rows("docs/configs.md") if re.fullmatch(r"`[\w. ]+\.py`", cells[0])]
    assert len(found) > 10
    for files, *cells in found:
        c = load([str(ROOT / "config" / name) for name in files.strip("`").split()])
        symbols, train_tokens = VOCABULARY[c.dataset]
        tokens = c.tokens_per_iter * c.max_iters
        micro_steps = f"{c.gradient_accumulation_steps} × " if c.gradient_accumulation_steps > 1 else ""
        with torch.device("meta"):
            model = GPT(GPTConfig(symbols, c.block_size, c.n_layer, c.n_head, c.n_embd, bias=c.bias))
        size = (f"{model.parameter_count() / 1e6:.2f} M", f"{c.n_layer} × {c.n_embd}, {c.n_head} heads")
        batch = (f"{micro_steps}{c.batch_size} × {c.block_size}", f"{c.max_iters:,}")
        rates = (f"{c.learning_rate:g}", f"{c.dropout:g}")
        seen = (f"{tokens / 1e6:.1f} M", f"{tokens / train_tokens:.1f}")
        assert (*cells,) == (*size, *batch, *rates, *seen), files


def test_the_table_of_options_has_their_defaults():
    found = [cells for cells in rows("docs/configs.md") if re.fullmatch(r"(`\w+`(, )?)+", cells[0])]
    found = [cells for cells in found if cells[2:]]
    assert len(found) > 20
    for names, defaults, _ in found:
        wanted = [str(OPTIONS[name].default) for name in re.findall(r"\w+", names)]
        assert defaults.split(", ") == wanted, names


def test_the_studies_and_laws_that_are_listed_are_there():
    listed = re.findall(r"`(\w+)`", " ".join(cells[0] for cells in rows("docs/studies.md")))
    assert len(listed) > 15
    for name in listed:
        assert (ROOT / "config" / "study" / f"{name}.py").is_file(), name
    laws = re.findall(r"(?m)^(\d)\. \*\*", (ROOT / "docs" / "trust.md").read_text("utf-8"))
    assert {*re.findall(r"def test_law_(\d)_", (ROOT / "tests" / "test_laws.py").read_text())} == {*laws}


def test_the_half_times_and_the_floor_are_those_of_the_formulae():
    found = [cells for cells in rows("docs/method.md") if re.fullmatch(r"0\.\d+", cells[0])]
    assert len(found) == 6
    for sigma, gamma, *times in found:
        for norm, time in zip((1, 0.3), times, strict=True):
            v, gap = norm**2 / 10.75e6, 0.99 - float(gamma) ** 2
            ratio = float(sigma) ** 2 * 0.01 * 0.99 / (3 * v * gap)
            assert float(time.replace(",", "")) == pytest.approx(math.log1p(ratio) / -math.log(0.99), abs=1)
    floor = next(t for t in range(9999) if 0.1 * 0.99**t < noise.SIGMA_FLOOR)
    assert f"from step {floor:,} on with 0.1 and 0.99" in (ROOT / "docs" / "integrations.md").read_text("utf-8")


def test_the_speeds_are_those_of_the_records():
    found = [cells for cells in rows("docs/speed.md") if cells[-1].endswith("bench.json)")]
    assert len(found) == 2
    for cells in found:
        record = json.loads((ROOT / "docs" / re.search(r"\((.*)\)", cells[-1])[1]).read_text())
        plain, ours, quiet = (record["loops"][name]["seconds"] for name in ("plain", "ours", "quiet"))
        form = ".1f" if median(plain) < 1 else ".0f"
        wanted = [f"{1e3 * median(seconds):{form}} ms" for seconds in (plain, ours, quiet)]
        wanted += [f"{median(a / b for a, b in zip(plain, loop)):.2f}" for loop in (ours, quiet)]
        assert cells[1:-1] == wanted, cells[0]


# Examples.


def run_loop(code, tmp_path, monkeypatch):
    """Each step of the loop gets its own noise, of about the norm that sigma gives."""
    model = torch.nn.Sequential(torch.nn.Linear(5, 400), torch.nn.Tanh(), torch.nn.Linear(400, 3))
    batches = [(torch.randn(8, 5), torch.randn(8, 3)) for _ in range(6)]
    calls, add_ = [], noise.GradientNoise.add_
    monkeypatch.setattr(
        noise.GradientNoise, "add_", lambda noise, t: calls.append((t, add_(noise, t, norm=True).item()))
    )
    given = {"torch": torch, "model": model, "loss_function": torch.nn.functional.mse_loss, "batches": batches}
    exec(code, given | {"optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3)})
    elements = sum(parameter.numel() for parameter in model.parameters())
    assert [step for step, _ in calls] == list(range(6))
    assert [norm for _, norm in calls] == pytest.approx([0.01 * elements**0.5] * 6, rel=0.1)
    assert sum("noise" in line.lower() for line in code.splitlines()) == 3


def run_study(code, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(code)
    study = read_study(tmp_path / "mine.py", [str(ROOT / "config" / "cpu.py")])
    assert len({run.config.noise_distribution for run in study.runs}) == 2


def run_corpus(code, tmp_path, monkeypatch):
    """As it stands, but for the source's hash, and where the repository is."""
    (folder := tmp_path / "data" / "mine").mkdir(parents=True)
    (tmp_path / "text.txt").write_text("to be or not to be\n" * 50)
    digest = hashlib.sha256((tmp_path / "text.txt").read_bytes()).hexdigest()
    (folder / "prepare.py").write_text(code.replace("the SHA-256 of that file", digest))
    monkeypatch.setattr(sys, "argv", ["prepare.py", f"--source={tmp_path / 'text.txt'}"])
    monkeypatch.setattr(sys, "path", sys.path[:])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(folder / "prepare.py"), run_name="__main__")
    assert not end.value.code
    assert Corpus(str(folder)).meta["vocabulary"] == sorted(set("to be or not to be\n"))


def run_log(code, tmp_path, monkeypatch):
    evals = [{"kind": "eval", "iter": at, "train_loss": 4.1 - at, "val_loss": 4.2 - at} for at in (0, 1)]
    events = [evals[0], {"kind": "train", "iter": 0, "loss": 4.0}, evals[1]]
    (path := tmp_path / re.search(r'"(out/.*?)"', code)[1]).parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    exec(code, {})
    drawn = [line.get_ydata().tolist() for line in plt.gca().get_lines()]
    plt.close("all")
    assert drawn == [pytest.approx([4.1, 3.1]), pytest.approx([4.2, 3.2])]


RUNNERS = {"GradientNoise(": run_loop, "arms =": run_study, "write_corpus": run_corpus, "read_json": run_log}


TESTED_ELSEWHERE = [ROOT / "docs" / "integrations.md"]  # tests/test_integrations.py


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python") and page not in TESTED_ELSEWHERE], ids=name_of
)
def test_every_example_runs(page, tmp_path, monkeypatch):
    for number, code in enumerate(blocks(page, "python")):
        (runner,) = [runner for words, runner in RUNNERS.items() if words in code]
        (place := tmp_path / str(number)).mkdir()
        with monkeypatch.context() as patch:
            runner(code, place, patch)


TINY = """dataset = {corpus!r}
batch_size, block_size = 4, 16
n_layer, n_head, n_embd = 1, 2, 16
max_iters = warmup_iters = 4
eval_train_tokens = eval_tokens = 256
device, threads = "cpu", 1
"""


@pytest.mark.slow
def test_the_way_from_a_run_to_the_tables(tmp_path, corpus):
    """Each kind of command once, in processes of their own and in a folder of their own."""
    (tmp_path / "tiny.py").write_text(TINY.format(corpus=str(corpus)))
    (study,) = [code for page in PAGES for code in blocks(page, "python") if "arms =" in code][:1]
    (tmp_path / "mine.py").write_text(study)
    run = Path("out") / "mine" / "tiny" / "gaussian" / "seed1"
    for words in (
        [ROOT / "sweep.py", "mine.py", "tiny.py", "--arms=gaussian", "--seeds=1-2", "--plot"],
        [ROOT / "train.py", ROOT / "config" / "shakespeare_noise.py", "tiny.py"],
        [ROOT / "plot.py", "out"],
        [ROOT / "sample.py", run, "--prompt=Ada", "--max_new_tokens=20"],
        ["-m", "training.evaluate", run],
        ["-m", "training.export", run, "exported"],
        ["-m", "training.sharpness", run],
        ["-m", "analysis.collect", "out", "--to=my_results"],
        ["-m", "analysis.report", "my_results"],
    ):
        ended = subprocess.run(
            [sys.executable, *map(str, words)], cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert ended.returncode == 0, (words, ended.stdout, ended.stderr)
    for made in ("out/mine/tiny/figures", "out/shakespeare_noise+tiny/seed1/result.json", "exported/README.md"):
        assert (tmp_path / made).exists(), made
    assert any((tmp_path / "my_results").iterdir())


def test_what_has_not_been_run_is_said_in_one_place():
    page = (ROOT / "docs" / "studies.md").read_text("utf-8")
    said = re.findall(r"`(\w+)`", page.partition("**Not run here:**")[2].partition("\n\n")[0])
    studies = {path.stem for path in (ROOT / "config" / "study").glob("[a-z]*.py")} - {"quickstart"}
    assert sorted(said) == sorted(study for study in studies if not (ROOT / "results" / study).is_dir())
    said = re.findall(r"`(\w+)`", page.partition("**In part:**")[2].partition("**Not run here:**")[0])
    assert sorted(said) == sorted(
        {path.parts[-3] for path in ROOT.glob("results/*/*/study.json") if lacks_runs(path)}
    )


def lacks_runs(study):
    """Whether records have fewer runs than their study plans."""
    planned = read_json(study)
    with gzip.open(study.with_name("runs.jsonl.gz")) as runs:
        return sum(1 for _ in runs) < len(planned["arms"]) * len(planned["seeds"])
