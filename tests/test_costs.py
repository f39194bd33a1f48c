"""costs.py: what is made of measurements, shown with made-up ones in round numbers."""

import pytest
from made_up import make_study

from analysis import report
from analysis.tables import comma_separated, markdown
from bench import costs
from data.files import read_json, write_json


def made_up(**more):
    """What bench.json would hold, in round numbers."""
    machine = {"device": "cuda:0", "name": "NVIDIA H200", "dtype": "bfloat16", "threads": 8, "compile": True}
    knobs = {"max_iters": 1000, "eval_interval": 250, "checkpoint_interval": 500}
    config = {**knobs, "batch_size": 64, "block_size": 256, "gradient_accumulation_steps": 1}
    return {
        **{"machine": machine, "config": config, "corpus": "shakespeare_char", "parameters": 10_750_000},
        **{"versions": {"torch": "2.13.0"}, "began": "2026-01-02T03:04:05+00:00"},
        **{"tokens_per_step": 16_384, "flops_per_token": 70e6},
        "loops": {
            "plain": {"dtype": "bfloat16", "seconds": [0.020, 0.030, 0.024]},
            "ours": {"dtype": "bfloat16", "seconds": [0.005, 0.006, 0.008]},
        },
        "started": {
            "plain": {"peak_memory_bytes": 4e9},
            "ours": {
                **{"peak_memory_bytes": 3e9, "compile_cold_seconds": 9.0, "compile_kept_seconds": 2.0},
            },
        },
        "evaluation": {
            **{
                "exact_tokens": 1000,
                "val_tokens": 4000,
                "final_tokens": 7000,
                "exact_seconds": [0.2, 0.1, 0.2],
            },
            **{"train_seconds": [0.1, 0.1, 0.1], "random_batches": 10, "wanted_batches": 200},
            **{"random_seconds": [1.0, 1.0, 1.0], "plain_seconds": [0.5, 0.5, 0.4]},
        },
        "checkpoint": {"seconds": [0.4], "best_seconds": [0.2], "bytes": 2, "best_bytes": 1},
        "choices": [{"name": "fused", "of": "step", "done": [0.1, 0.2, 0.1], "undone": [0.2, 0.2, 0.4]}],
        "ingredients": [
            {"name": "logging, every 10 steps", "every": 10, "with": [0.015, 0.02], "without": [0.005, 0.004]},
            {"name": "noise", "every": 1, "with": [0.011, 0.012, 0.019], "without": [0.01, 0.01, 0.02]},
        ],
        **more,
    }


def test_ratios_are_turn_by_turn_and_costs_are_differences():
    found = made_up()
    logging, noise = found["ingredients"]
    assert costs.added(noise) == pytest.approx([0.001, 0.002, -0.001])
    assert costs.shares(noise, 0.006) == pytest.approx([100 / 6, 200 / 6, -100 / 6])
    assert costs.added(logging) == pytest.approx([0.001, 0.0016])
    times = costs.ratios(*(found["loops"][name]["seconds"] for name in ("plain", "ours")))
    assert times == pytest.approx([4, 5, 3])
    text = markdown([costs.loops_table(found), costs.choices_table(found), costs.ingredients_table(found)])
    assert "| fused | step | 100.0 | 200.0 | 2.00 | 1.00 to 4.00 |" in text
    assert "| ratio |  | 4.00 | 3.00 to 5.00 |" in text
    assert "| noise | +1.00 | -1.00 to +2.00 | +16.7 | -16.7 to +33.3 |" in text
    assert "| train.py | bfloat16, compiled | 6.0 | 5.0 to 8.0 | 2,730,667 |" in text
    assert "| 3.00 GB | 9.0 s | 2.0 s |" in text
    cpu = {**found, "machine": {**found["machine"], "device": "cpu", "compile": False, "through_float32": True}}
    text = markdown([costs.loops_table(cpu)])
    assert "| plain loop | bfloat16 | " in text
    assert "| train.py | bfloat16 through float32 | " in text
    assert "NVIDIA H200, bfloat16 through float32, 8 threads;" in text
    assert costs.mfu(found, "ours") == pytest.approx(16_384 * 70e6 / 0.006 / 989e12)
    record = comma_separated([costs.loops_table(found)]).splitlines()[1]
    assert record.startswith("loops,plain,0.024,0.02,0.03,")


def test_the_plain_loop_has_no_noise_and_is_set_beside_ours_without_it():
    found = made_up()
    assert "without noise" not in markdown([costs.loops_table(found)])
    found["loops"]["quiet"] = {"dtype": "bfloat16", "seconds": [0.004, 0.005, 0.008]}
    text = markdown([costs.loops_table(found)])
    assert "| train.py without noise | bfloat16, compiled | 5.0 | 4.0 to 8.0 |" in text
    assert "| ratio |  | 4.00 | 3.00 to 5.00 |" in text
    assert "| ratio without noise |  | 5.00 | 3.00 to 6.00 |" in text
    assert "| noise | +1.00 | -1.00 to +2.00 | +20.0 |" in (table := markdown([costs.ingredients_table(found)]))
    assert "without noise, 5.0 ms (4.0 to 8.0)." in table


def test_what_is_done_now_and_then_is_scaled_and_set_side_by_side():
    text = {"tokens": 256, "begun_cached_seconds": [0.1, 0.2, 0.1], "begun_plain_seconds": [0.5, 0.6, 0.8]}
    text |= {"full_cached_seconds": [0.2, 0.2, 0.1], "full_plain_seconds": [1.6, 1.6, 1.6]}
    table = costs.now_and_then_table(made_up(sampling=text))
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["val loss, exact, 1,000 tokens, float32"][0] == "0.200"
    whole = rows["val loss, exact, the whole split, float32"]
    assert whole == ["0.800", "0.400 to 0.800", "200 random batches, float32", "0.040", "0.020 to 0.040"]
    assert rows["200 random batches as the plain loop has them"][0] == "10.000"
    for part, ratio in (("the first", ["5.000", "3.000 to 8.000"]), ("further", ["8.000", "8.000 to 16.000"])):
        row = rows[f"{part} 256 tokens of a sample, float32, all computed anew each time"]
        assert row[-3:] == ["keys and values kept", *ratio]


def test_a_whole_run_is_the_sum_of_its_parts():
    runs = costs.whole_run(made_up())
    assert runs["plain"] == pytest.approx({"steps": 24.0, "evaluations": 2 * 200 * 0.05 * 5})
    assert runs["ours"] == pytest.approx(
        {
            "steps": 1000 * (0.006 + 0.0013),
            "evaluations": 5 * 0.3 + 2 * 0.2 * 7 + 0.1,
            "checkpoints": 2 * 0.4 + 5 * 0.2,
            "compilation": 9.0,
        }
    )
    table = costs.run_table(made_up())
    assert table.rows[-1][-1] == f"{124 / sum(runs['ours'].values()):.2f}"


@pytest.mark.parametrize(
    ("card", "dtype", "peak"),
    [
        ("NVIDIA H200", "bfloat16", 989e12),
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "float16", 756e12),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", 312e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("NVIDIA L40S", "bfloat16", 362e12),
        ("Tesla T4", "float16", 65e12),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16", None),
        ("NVIDIA H200", "float32", None),
        ("AMD EPYC", "bfloat16", None),
    ],
)
def test_a_peak_is_known_or_it_is_not(card, dtype, peak):
    assert costs.peak_flops(card, dtype) == peak


def test_what_was_cut_short_is_shown_as_far_as_it_goes(tmp_path):
    whole = made_up()
    for cut, count in (("evaluation", 1), ("ingredients", 4)):
        keys = list(whole)[: list(whole).index(cut)] if cut == "evaluation" else [k for k in whole if k != cut]
        write_json(tmp_path / "bench.json", {key: whole[key] for key in keys})
        assert len(costs.tables_of(tmp_path)) == count


def test_a_profile_as_a_table():
    rows = [{"name": "aten::mm", "seconds": 0.003, "calls": 12.0}]
    record = made_up(profile={"plain": {"seconds": 0.012, "operations": rows}})
    (table,) = costs.profile_tables(record)
    assert table.rows == [["aten::mm", "3.000", "12.0", "25.0"]]
    assert table.title.startswith(
        "The kernels on the card that take longest in a step of the plain loop, 12.0 ms"
    )


def test_the_report_shows_what_was_measured(tmp_path):
    make_study(tmp_path / "study" / "cpu", {"baseline": {}}, name="tiny")
    for path in tmp_path.rglob("run.json"):
        about = {"machine": {"name": "A machine", "dtype": "bfloat16", "threads": 1}}
        write_json(path, read_json(path) | about | {"versions": {"torch": "2.13.0", "revision": "0123"}})
    for path in tmp_path.rglob("result.json"):
        write_json(path, read_json(path) | {"seconds": 1.0})
    write_json(tmp_path / "speed" / "cpu" / "bench.json", made_up())
    assert report.main([str(tmp_path)]) == 0
    text = (tmp_path / "README.md").read_text()
    assert "## What a step costs: `speed/cpu`" in text
    assert "| ratio |  | 4.00 | 3.00 to 5.00 |" in text
    assert "bench.png" not in text, "it is not drawn yet"
