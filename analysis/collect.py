"""Take the finished runs of studies from out/ into the compact records under results/, to be committed.

    python -m analysis.collect out [more folders] [--to=results]

For every study (a folder with study.json, written by sweep.py) at or below the folders it adds each finished or
diverged run to results/<study>/<size>/runs.jsonl.gz (analysis/records.py has the format): its config under the
options' present names, run.json (without a vocabulary of subwords), result.json, sharpness.json if it was
measured, and the log, thinned to about a hundred events with numbers of six digits. What is there stays, but
for a sharpness that was measured since; the same runs give the same bytes.
"""

import gzip
import hashlib
import json

from analysis.records import RUNS, read_folders, read_lines, read_study_json, run_path
from config import Parser, UserError, given, identity, recorded, run_script, unlike, user_path
from data.files import replacing, write_json

EVENTS = 100  # of a thinned log; every evaluation is kept, and at least a quarter as many log lines
KEYS = ("arm", "seed", "config", "run", "result", "sharpness", "truncated", "log")
# Of a log line; the rest follows from them.
KEPT = ("kind", "iter", "loss", "lr", "sigma", "grad_norm", "noise_norm")


def main(argv):
    parser = Parser(prog="python -m analysis.collect", add_help=False)
    parser.add_argument("folders", nargs="*", type=user_path)
    parser.add_argument("--to", type=given, default="results")
    options = parser.parse_intermixed_args(argv)
    target = user_path(options.to)
    for study in find_studies(options.folders):
        record = read_study_json(study)
        place = target / record["name"] / record["size"]
        ended, left = collect(study, record, place)
        named = f" ({', '.join(left[:3])}{', ...' if len(left) > 3 else ''})" if left else ""
        print(f"{place}: runs taken: {ended}, not finished yet: {len(left)}{named}")
    return 0


def find_studies(folders):
    """The folders with a study.json, and no records, at or below `folders`; UserError where there is none."""
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise UserError(f"no such folder: {missing[0]}")
    found = sorted({path.parent for folder in folders for path in folder.rglob("study.json")})
    found = [study for study in found if not (study / RUNS).is_file()]
    if not found:
        where = ", ".join(map(str, folders)) or "no folder was named"
        raise UserError(f"no study to collect ({where}): python -m analysis.collect out/table1_shakespeare")
    return found


def collect(study, record, place):
    """Add the ended runs of one study to the records in `place`; returns their number, and the folders of the
    others."""
    entries = [entry for entry in read_folders([study]) if entry["at"] == study]
    ended = [entry for entry in entries if entry["result"]]
    if ended:
        corpora, lines = {}, {}
        for entry in ended:
            line = compact(entry, corpora)
            if (line["arm"], line["seed"]) in lines:
                raise UserError(f"{entry['folder']}: {line['arm']!r} has seed {line['seed']} twice in {study}")
            lines[line["arm"], line["seed"]] = line
        merge(place, record, corpora, lines)
    return len(ended), [str(entry["folder"]) for entry in entries if not entry["result"]]


def compact(entry, corpora):
    """The line of a run; the meta of its corpus goes to `corpora`, by the id that the line has for it."""
    corpus = dict(entry["run"]["corpus"])
    if corpus["unit"] == "token":
        del corpus["vocabulary"]  # tens of thousands of subwords; its SHA-256 stays
    digest = hashlib.sha256(json.dumps(corpus, sort_keys=True).encode()).hexdigest()
    corpora[name := f"{corpus['name']}-{digest[:8]}"] = corpus
    line = {
        **{key: entry[key] for key in ("arm", "seed")},
        "config": entry["config"],
        "run": {**entry["run"], "corpus": name},
        **{key: entry[key] for key in ("result", "sharpness", "truncated") if entry[key]},
    }
    return {**line, "log": [rounded(event) for event in thinned(entry["log"])]}


def merge(place, study, corpora, lines):
    """Write the records of a study: those in `place`, and `lines` by (arm, seed). UserError where `place` has
    another run of the same arm and seed."""
    there = read_study_json(place) or {}
    old = {(line["arm"], line["seed"]): line for line in read_lines(place / RUNS)}
    for key in old.keys() & lines.keys():
        check_same(run_path(place, lines[key]), old[key], lines[key])
        measured = {name: value for name, value in lines[key].items() if name == "sharpness"}
        lines[key] = old[key] | measured
    order = {arm: number for number, arm in enumerate(study["arms"])}
    lines = sorted({**old, **lines}.items(), key=lambda item: (order.get(item[0][0], len(order)), item[0]))
    with replacing(place / RUNS) as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as file:
        for _, line in lines:
            line = {key: line[key] for key in KEYS if key in line}  # bytes do not tell when it was measured
            file.write(json.dumps(line, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode())
            file.write(b"\n")
    corpora = {**there.get("corpora", {}), **corpora}
    write_json(place / "study.json", {**study, "corpora": dict(sorted(corpora.items()))})


def check_same(path, old, new):
    """UserError unless two lines are of one run: one experiment, begun at one time."""
    if changed := unlike(*(identity(recorded(line["config"])) for line in (new, old))):
        said = ", ".join(f"{name} ({there!r} there, {here!r} here)" for name, (there, here) in changed.items())
        raise UserError(f"{path} has the record of a run of another config: {said}; use --to=DIR")
    if (began := old["run"].get("began")) != new["run"].get("began"):
        raise UserError(
            f"{path} has the record of another run of this config, begun {began}: collect yours elsewhere, by"
            " --to=my_results, or remove that one"
        )


def thinned(events):
    """All evaluations, and as many log lines, evenly spread, first and last among them, as make about a hundred
    with them, a quarter of that at least; of every other kind about a hundred."""
    kinds = {}
    for event in events:
        kinds.setdefault(event["kind"], []).append(event)
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
    run_script(main, __doc__)
