"""Copy compact records of the finished runs of studies from out/ to results/, where they can be committed.

    python collect.py out/table1_shakespeare [more folders] [--to=results]

For every study (a folder with study.json, written by sweep.py) at or below the folders it copies each finished
or diverged run: config.json, run.json (without a vocabulary of subwords), result.json, sharpness.json if it was
measured, and the log, thinned to about a hundred events with numbers of six digits.
results/<study>/<size>/<arm>/seed<n> is still a run folder, and plot.py reads it as one.
"""

import json
from pathlib import Path

from analysis.arms import by
from config import UserError, recorded, run_script
from data.files import read_json, replacing, write_json
from training.run_folder import RunFolder, find_runs, read_log

EVENTS = 100  # of a thinned log; every evaluation is kept, and at least a quarter as many log lines
# Of a log line; the rest follows from them.
KEPT = ("kind", "iter", "loss", "lr", "sigma", "grad_norm", "noise_norm")


def main(argv):
    if "--help" in argv or "-h" in argv:
        print(__doc__)
        return 0
    target = Path(next((word.removeprefix("--to=") for word in argv if word.startswith("--to=")), "results"))
    folders = [Path(word) for word in argv if not word.startswith("--to=")]
    if strange := [word for word in map(str, folders) if word.startswith("-")]:
        raise UserError(f"{strange[0]} is no option of collect.py; it has --to=DIR")
    studies = find_studies(folders)
    for study in studies:
        copied, left = collect(study, target)
        print(f"{target / name_of(study)}: {copied} runs copied, {left} not finished yet")
    return 0


def find_studies(folders):
    """The folders with a study.json at or below `folders`; UserError where there is none."""
    found = sorted({path.parent for folder in folders for path in Path(folder).rglob("study.json")})
    if not found:
        where = ", ".join(map(str, folders)) or "no folder was named"
        raise UserError(f"no study to collect ({where}): python collect.py out/table1_shakespeare")
    return found


def name_of(study):
    record = read_json(study / "study.json")
    return Path(record["name"]) / record["size"]


def collect(study, target):
    """Copy the ended runs of one study; returns how many were copied, and how many have not ended."""
    place = target / name_of(study)
    ended = [run for run in find_runs([study]) if (run / "result.json").is_file()]
    for run in ended:
        copy_run(run, place / run.relative_to(study))
    if ended:
        write_json(place / "study.json", read_json(study / "study.json"))
    return len(ended), len(find_runs([study])) - len(ended)


def copy_run(run, place):
    """The compact record of one run. A record of another experiment, or of another run of it, is refused, not
    replaced."""
    config, result, about = (read_json(run / f"{name}.json") for name in ("config", "result", "run"))
    if (place / "config.json").is_file():
        RunFolder(place).check_config(recorded(config))
        if (began := read_json(place / "run.json").get("began")) != about.get("began"):
            raise UserError(
                f"{place} has the record of another run of this config, begun {began}: collect yours elsewhere,"
                " by --to=my_results, or remove that one"
            )
    events, _ = read_log(run)
    with replacing(place / "log.jsonl", "w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(rounded(event)) + "\n" for event in thinned(events))
    write_json(place / "run.json", without_subwords(about))
    write_json(place / "result.json", result)
    if (run / "sharpness.json").is_file():
        write_json(place / "sharpness.json", read_json(run / "sharpness.json"))
    write_json(place / "config.json", config)


def without_subwords(about):
    """What run.json tells, without a vocabulary of tens of thousands of subwords; its SHA-256 stays."""
    if about["corpus"]["unit"] == "token":
        del about["corpus"]["vocabulary"]
    return about


def thinned(events):
    """All evaluations, and as many log lines, evenly spread, first and last among them, as make about a hundred
    with them, a quarter of that at least; of every other kind about a hundred."""
    kinds = by(events, lambda event: event["kind"])
    evals = kinds.pop("eval", [])
    wanted = {"train": max(EVENTS // 4, EVENTS - len(evals))}
    kept = evals + [e for kind, rest in kinds.items() for e in spread(rest, wanted.get(kind, EVENTS))]
    kept = [{k: v for k, v in event.items() if event["kind"] != "train" or k in KEPT} for event in kept]
    return sorted(kept, key=lambda event: (event["iter"], event["kind"]))


def spread(events, wanted):
    if len(events) <= wanted:
        return events
    return [events[round(i * (len(events) - 1) / (wanted - 1))] for i in range(wanted)]


def rounded(event):
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in event.items()}


if __name__ == "__main__":
    run_script(main)
