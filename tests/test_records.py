"""Runs as frames: from run folders and from committed records the same; what is called alike is alike."""

import dataclasses
import gzip
import json
import shutil

import pandas as pd
import pytest
from made_up import MACHINE, META, OTHER_DATA, edit, fake_run, make_study, val_loss

from analysis import collect
from analysis.records import RUNS, arms, changed_options, losses, notes, read
from config import Config, UserError
from data.files import read_json, write_json


def on(folder, device):
    """The run as of another device."""
    edit(folder / "run.json", machine={**MACHINE, "device": device})


# The frames.


MEASURED = {"rises": {"0.05": [1.0, 2.0]}, "hessian": {"top": 9.0, "traces": [2.0, 4.0]}, "weight_rms": 0.25}


def test_a_run_is_a_row_with_what_was_recorded(tmp_path):
    folder = fake_run(tmp_path / "noise" / "seed2", 2, noise_sigma=0.1, train_tokens=None)
    machine = {**MACHINE, "device": "cuda:1", "name": "A card"}
    edit(folder / "run.json", machine=machine, versions={"torch": "2"}, began="now")
    write_json(folder / "sharpness.json", MEASURED)
    (run,) = read([tmp_path]).runs.itertuples()
    assert (run.study, run.size, run.arm, run.seed, run.status) == ("", "", "noise", 2, "finished")
    for name, value in read_json(folder / "config.json").items():
        assert getattr(run, name) == value or (value is None and pd.isna(getattr(run, name))), name
    assert run.best_val_loss == val_loss(1000, 2, 0.1)
    assert run.config.noise_sigma == 0.1
    assert (run.corpus, run.unit, run.parameters) == ("shakespeare_char", "character", 804_096)
    assert run.noisy
    assert (run.device_kind, run.machine, run.torch, run.began) == ("cuda", "A card", "2", "now")
    columns = ["rise_0.05", "hessian_top", "hessian_trace", "weight_rms"]
    assert read([tmp_path]).runs[columns].values.tolist() == [[1.5, 9.0, 3.0, 0.25]]
    edit(folder / "run.json", corpus={**META, "partial": {"tokens": 1000, "of": 9000}})
    (run,) = read([tmp_path]).runs.itertuples()
    assert run.corpus == "shakespeare_char, the first 1,000 characters"


def test_a_curve_is_by_iteration_and_seed(two_arms):
    noise = read([two_arms]).of(arm="noise")
    curve = noise.curve("eval", "val_loss")
    assert (curve.index.tolist(), curve.columns.tolist()) == ([0, 250, 500, 750, 1000], [1, 2, 3])
    assert curve.loc[500, 3] == val_loss(500, 3, 0.1)
    assert noise.curve("train", "noise_norm").loc[0, 1] == pytest.approx(90)
    assert noise.curve("eval", "nothing").empty


def test_unfinished_and_torn_runs_are_rows_with_a_note(two_arms):
    fake_run(two_arms / "noise" / "seed4", 4, noise_sigma=0.1, until=500)
    fake_run(two_arms / "noise" / "seed5", 5, noise_sigma=0.1, status="diverged")
    with open(two_arms / "noise" / "seed4" / "log.jsonl", "a") as log:
        log.write('{"kind": "eval", "it')
    edit(two_arms / "noise" / "seed2" / "result.json", final_val_loss=None)
    records = read([two_arms])
    found = arms(records).set_index("arm").loc["noise"]
    assert (found.finished, found.diverged, found.unfinished, found.runs) == (3, 1, 1, 5)
    assert losses(records.of(arm="noise").runs, "best_val_loss").index.tolist() == [1, 2, 3]
    assert losses(records.of(arm="noise").runs, "final_val_loss").index.tolist() == [1, 3]
    said = "\n".join(notes(records))
    for words in (
        "seed4: its log has lost",
        "seed4: unfinished, drawn up to iteration 500",
        "iteration 999",
    ):
        assert words in said


def test_a_config_of_an_older_version_has_the_defaults_of_today(two_arms):
    path = two_arms / "noise" / "seed1" / "config.json"
    config = read_json(path)
    write_json(path, {name: value for name, value in config.items() if name != "noise_eta"})
    runs = read([two_arms]).runs
    assert (runs.noise_eta == 0).all()


def test_to_overfit_is_not_to_explode(two_arms):
    edit(two_arms / "noise" / "seed1" / "result.json", final_val_loss=50.0)
    edit(two_arms / "noise" / "seed2" / "result.json", final_train_loss=50.0)
    runs = read([two_arms]).runs
    assert runs[runs.exploded].folder.tolist() == [str(two_arms / "noise" / "seed2")]


# Arms and settings.


def test_a_study_names_its_baseline_and_the_order_of_its_arms(tmp_path):
    planned = {"zero": {"noise_sigma": 0.02}, "noise": {"noise_sigma": 0.1}, "a_baseline": {}}
    make_study(tmp_path, planned, baseline="zero", together="table1")
    records = read([tmp_path / "a_baseline", tmp_path / "noise", tmp_path / "zero"])
    table = arms(records)
    assert table.arm.tolist() == list(planned)
    assert table.number.tolist() == [0, 1, 2]
    assert table.reference.tolist() == [None, "zero", "zero"]
    study = records.studies["tiny", "cpu"]
    edit(tmp_path / "study.json", seeds=[1, 2, 3, 4])
    assert arms(read([tmp_path])).missing.tolist() == [[4]] * 3
    assert (study["purpose"], study["together"], study["folder"]) == ("comparison", "table1", tmp_path)


def test_the_baseline_of_loose_runs_is_the_quiet_one(tmp_path):
    fake_run(tmp_path / "noise" / "seed1", noise_sigma=0.1)
    fake_run(tmp_path / "quiet" / "seed1")
    assert arms(read([tmp_path])).arm.tolist() == ["quiet", "noise"]
    assert arms(read([tmp_path])).reference.tolist() == [None, "quiet"]
    fake_run(tmp_path / "other" / "seed1", learning_rate=0.1)
    assert set(arms(read([tmp_path])).baseline) == {None}, "of two quiet ones it is unclear"
    fake_run(tmp_path / "my_baseline" / "seed1", learning_rate=0.2)
    assert set(arms(read([tmp_path])).baseline) == {"my_baseline"}


def test_other_cadences_devices_and_data_are_other_settings(tmp_path):
    fake_run(tmp_path / "baseline" / "seed1")
    fake_run(tmp_path / "often" / "seed1", noise_sigma=0.1, eval_interval=10)
    on(fake_run(tmp_path / "card" / "seed1", noise_sigma=0.1), "cuda:0")
    fake_run(tmp_path / "few" / "seed1", noise_sigma=0.1, train_tokens=5)
    table = arms(read([tmp_path]))
    assert table.setting.nunique() == 4
    assert set(table.reference) == {None}
    said = read([tmp_path]).runs.set_index("arm").description.str.partition("characters")[2]
    every, often = ", eval_interval 250, device_kind c", ", eval_interval 10, device_kind cpu"
    assert said["baseline"] == f"{every}pu"
    assert said.to_dict() | {"often": often, "card": f"{every}uda", "few": " drawn from 5"} == said.to_dict()


def test_what_an_arm_changes_is_said_without_seeds_and_derived_options():
    base = dataclasses.replace(Config(), lr_decay_iters=5000)
    here = dataclasses.replace(Config(), noise_sigma=0.1, seed=7, diagnose_interval=5, eval_interval=3)
    assert changed_options(here, base) == {"noise_sigma": 0.1}


# Mistakes.


def refused(folder, words):
    with pytest.raises(UserError, match=words) as error:
        read([folder])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("'arm' and differ in noise_sigma: 0.0 and 0.2", {"noise_sigma": 0.2}),
        ("n_embd: 384 and 768", {"n_embd": 768}),
        ("eval_interval: 250 and 10", {"eval_interval": 10}),
        ("data: 'abc0", {"meta": OTHER_DATA}),
        ("seed 1 twice", {"seed": 1}),
    ],
)
def test_an_arm_is_one_config_under_several_seeds(tmp_path, words, options):
    fake_run(tmp_path / "arm" / "seed1")
    fake_run(tmp_path / "arm" / "seed2", **{"seed": 2, **options})
    refused(tmp_path, words)


def test_an_arm_is_one_config_in_whatever_folders_it_lies(two_arms):
    fake_run(two_arms / "again" / "noise" / "seed7", 7, noise_sigma=0.2)
    refused(two_arms, "noise_sigma: 0.1 and 0.2")
    fake_run(two_arms / "again" / "noise" / "seed7", 7, noise_sigma=0.2, train_tokens=5)
    assert arms(read([two_arms])).setting.nunique() == 2, "of other settings they are not compared"
    other_val = {**META, "splits": {**META["splits"], "val": {"tokens": 3, "sha256": "1230" * 16}}}
    for seed in (1, 2):
        fake_run(two_arms / "loose" / "judged" / f"seed{seed}", seed, other_val, noise_sigma=0.2)
    assert arms(read([two_arms])).setting.nunique() == 3, "nor where other texts judge them"


@pytest.mark.parametrize("source", ["out/one", "out/one/seed1"])
def test_runs_from_other_weights_are_not_one_arm(tmp_path, source):
    for seed, digest in ((1, "abc"), (2, "abc"), (3, "def")):
        folder = fake_run(tmp_path / "arm" / f"seed{seed}", seed, init_from=source)
        edit(folder / "run.json", init_from={"sha256": digest})
        if seed == 2:
            assert len(read([tmp_path]).runs) == 2
    refused(tmp_path, f"seed3: {source} had other weights when this run began")


def test_an_arm_may_be_a_link_and_is_read_once(two_arms, tmp_path):
    noise = next(two_arms.glob("**/noise"))
    noise.rename(tmp_path / "elsewhere")
    noise.symlink_to(tmp_path / "elsewhere")
    (noise / "back").symlink_to(two_arms)
    assert set(read([two_arms]).runs.arm) == {"baseline", "noise"}


def test_an_arm_is_of_one_kind_of_device_where_it_was_trained(tmp_path):
    for seed, device in ((1, "cuda"), (2, "cpu")):
        on(fake_run(tmp_path / "noise" / f"seed{seed}", seed), device)
    refused(tmp_path, "differ in device: 'cuda' and 'cpu'")
    places = ((0, "mps"), (0, "cuda:0"), (1000, "mps"))
    parts = [{"iter": at, "machine": {**MACHINE, "device": name}} for at, name in places]
    edit(tmp_path / "noise" / "seed2" / "run.json", resumed=parts)
    assert read([tmp_path]).runs.device_kind.tolist() == ["cuda", "cuda"], "where there were steps"
    edit(tmp_path / "noise" / "seed2" / "run.json", resumed=[{**parts[1], "iter": 500}])
    refused(tmp_path, r"differ in device: 'cuda' and 'cpu\+cuda'")


def test_folders_without_runs_and_one_study_twice_are_refused(tmp_path):
    refused(tmp_path, "no run lies in")
    refused(tmp_path / "nowhere", "no such folder")
    for name in ("one", "two"):
        make_study(tmp_path / name, {"baseline": {}})
    refused(tmp_path, "both hold tiny/cpu")


# Committed records.


@pytest.fixture
def study(tmp_path):
    folder = make_study(tmp_path / "out" / "tiny", {"noise": {"noise_sigma": 0.1}, "baseline": {}})
    write_json(folder / "noise" / "seed1" / "sharpness.json", {"rises": {"0.05": [1.0, 2.0]}})
    fake_run(folder / "baseline" / "seed4", 4, until=500)
    fake_run(folder / "baseline" / "seed5", 5, status="diverged")
    return folder


def collected(study):
    target = study.parents[1] / "results"
    with pytest.raises(UserError, match="its value is empty"):
        collect.main([str(study.parent), "--to="])
    assert collect.main([str(study.parent), f"--to={target}"]) == 0
    return target / "tiny" / "cpu"


def test_records_are_read_as_their_run_folders_are(study, capsys):
    place = collected(study)
    assert "runs taken: 7, not finished yet: 1" in capsys.readouterr().out
    assert sorted(path.name for path in place.iterdir()) == [RUNS, "study.json"]
    live, kept = read([study]), read([place.parent.parent])
    for name in ("runs", "curves"):
        one, other = (getattr(r.of(status="finished"), name).drop(columns="folder") for r in (live, kept))
        one, other = (f.dropna(axis=1, how="all").reset_index(drop=True) for f in (one, other))
        pd.testing.assert_frame_equal(one, other[list(one)], rtol=1e-5, check_dtype=False)
        assert len(one)
    assert kept.of(arm="baseline").runs.seed.tolist() == [1, 2, 3, 5], "the unfinished one was left"
    assert kept.runs.folder[0] == str(place / "baseline" / "seed1")


def test_the_same_runs_give_the_same_bytes_and_more_runs_are_added(study):
    place = collected(study)
    first = (place / RUNS).read_bytes()
    assert (collected(study) / RUNS).read_bytes() == first
    fake_run(study / "baseline" / "seed4", 4)
    for path in (study / "noise").rglob("config.json"):
        path.unlink()  # no run any more
    assert len(read([collected(study)]).runs) == 8
    lines = [json.loads(line) for line in gzip.open(place / RUNS, "rt")]
    wanted = [("noise", seed) for seed in (1, 2, 3)] + [("baseline", seed) for seed in (1, 2, 3, 4, 5)]
    assert [(line["arm"], line["seed"]) for line in lines] == wanted
    assert len(read_json(place / "study.json")["corpora"]) == 1


def test_what_is_recorded_stays_when_its_folder_loses_it_and_a_later_sharpness_comes(study):
    log = study / "noise" / "seed1" / "log.jsonl"
    log.with_name("sharpness.json").unlink()
    before = json.loads(gzip.open(collected(study) / RUNS).readline())
    log.write_bytes(log.read_bytes()[:200])
    write_json(log.with_name("sharpness.json"), {"rises": {"0.05": [3.0]}})
    after = json.loads(gzip.open(collected(study) / RUNS).readline())
    assert after == before | {"sharpness": {"rises": {"0.05": [3.0]}}}
    assert list(after) == [key for key in collect.KEYS if key in after]
    log.with_name("sharpness.json").unlink()
    assert json.loads(gzip.open(collected(study) / RUNS).readline()) == after


def test_a_record_of_a_log_that_has_lost_lines_says_so(study):
    log = study / "noise" / "seed1" / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    kept = read([collected(study)])
    assert kept.runs.folder[kept.runs.truncated].tolist() == [
        str(study.parents[1] / "results/tiny/cpu/noise/seed1")
    ]
    assert any("lost lines" in note for note in notes(kept))


def test_a_record_of_another_run_is_refused_and_stays(study):
    before = (collected(study) / RUNS).read_bytes()
    edit(study / "noise" / "seed2" / "run.json", began="later")
    with pytest.raises(UserError, match="seed2 has the record of another run of this config"):
        collected(study)
    edit(study / "noise" / "seed1" / "config.json", noise_sigma=0.2)
    edit(study / "noise" / "seed2" / "run.json", began=None)
    with pytest.raises(UserError, match=r"another config: noise_sigma \(0.1 there, 0.2 here\)"):
        collected(study)
    assert (study.parents[1] / "results" / "tiny" / "cpu" / RUNS).read_bytes() == before


def test_a_record_of_a_study_that_is_damaged_is_refused_and_stays(study):
    (damaged := collected(study) / "study.json").write_text("[1]")
    with pytest.raises(UserError, match=r"study\.json"):
        collected(study)
    assert damaged.read_text() == "[1]"


def test_a_study_takes_its_own_runs_and_each_seed_once(study):
    make_study(study / "redo", {"baseline": {}, "noise": {"noise_sigma": 0.3}}, name="redo")
    collected(study)
    kept = read([study.parents[1] / "results"])
    assert set(kept.of(study="tiny").runs.noise_sigma) == {0.0, 0.1}
    shutil.copytree(study / "noise" / "seed1", study / "old" / "noise" / "seed1")
    with pytest.raises(UserError, match=r"'noise' has seed 1 twice"):
        collected(study)
    with pytest.raises(UserError, match=r"no such folder: .*typo"):
        collect.main([str(study), str(study / "typo"), f"--to={study.parents[1] / 'more'}"])


def test_no_vocabulary_of_subwords_is_kept(study):
    subwords = {**META, "unit": "token", "vocab_size": 50_000, "vocabulary": ["a"] * 50_000}
    subwords |= {"pattern": ".", "special": []}
    for path in study.rglob("config.json"):
        edit(path.with_name("run.json"), corpus=subwords)
    place = collected(study)
    assert all("vocabulary" not in corpus for corpus in read_json(place / "study.json")["corpora"].values())


def test_a_thinned_log_keeps_every_evaluation_and_the_ends():
    evals = [{"kind": "eval", "iter": at, "val_loss": 1.0} for at in range(0, 1000, 12)]
    steps = [{"kind": "train", "iter": at, "loss": 1 / 3, "tokens": 5} for at in range(1000)]
    kept = collect.thinned(evals + steps)
    assert [event for event in kept if event["kind"] == "eval"] == evals
    at = [event["iter"] for event in kept if event["kind"] == "train"]
    assert (len(at), at[0], at[-1]) == (25, 0, 999)
    assert all("tokens" not in event for event in kept)
    assert collect.thinned(kept) == kept
    rounded = collect.rounded({"loss": 1 / 3, "iter": 3, "none": None})
    assert rounded == {"loss": 0.333333, "iter": 3, "none": None}


def test_damaged_records_are_one_line(study):
    place = collected(study)
    (place / RUNS).write_bytes((place / RUNS).read_bytes()[:200])
    refused(place, "is damaged")
