"""Attack the working tree: python tests/campaign [--class=kills,flips,...] [--scale=1.0] [--seed=1] [--only=N]

Beside the suite and not part of it; 20 to 30 minutes on two cores. It attacks a copy of the tree. Each attack
is decided by its class, the seed and its number; --only repeats one and leaves its folder. Prints the table of
docs/trust.md. Exit status 1 where anything was wrong.
"""

import collections
import datetime
import multiprocessing
import shutil
import sys
import time
import traceback

import damage
import inputs
import lab
import stops
import template

CLASSES = {  # name: (what it is, how many, what it does, what it needs first, the template that it begins from)
    "kills": ("signals at random moments", 200, stops.kill, stops.prepare_kills, "base"),
    "crashes": ("deaths at a file operation", 100, stops.crash, stops.prepare_disk, "base"),
    "power": ("power cuts, unsynced names lost", 100, stops.cut_power, stops.prepare_disk, "base"),
    "disk": ("ENOSPC and EIO from an operation on", 100, stops.fill_disk, stops.prepare_disk, "base"),
    "flips": ("single bits of a file", 1000, damage.flip, damage.prepare, "full"),
    "folders": ("damaged and foreign folders", 300, damage.harm, damage.prepare, "full"),
    "configs": ("random options and config files", 2000, inputs.configure, None, "base"),
    "servers": ("servers that misbehave", len(inputs.ATTACKS), inputs.serve, None, "empty"),
    "orphans": ("torchrun or sweep.py killed", 6, stops.orphan, None, "base"),
}


def main(argv):
    options = dict(word.lstrip("-").split("=", 1) for word in argv if word.startswith("--") and "=" in word)
    if len(options) < len(argv) or options.keys() - {"class", "scale", "seed", "only"}:
        sys.exit(__doc__)
    classes, scale = options.get("class", ",".join(CLASSES)).split(","), float(options.get("scale", 1))
    seed, only = int(options.get("seed", 1)), options.get("only")
    try:
        return campaign(classes, scale, seed, only and [int(only)])
    finally:
        if not only:
            shutil.rmtree(lab.LAB, ignore_errors=True)


def campaign(classes, scale, seed, only):
    """Attack by some classes, print the table, and return the exit status."""
    (lab.LAB / "empty").mkdir()
    template.make_base()
    if any(CLASSES[name][-1] == "full" for name in classes):
        template.make_full()
    rows, wrongs = [], []
    for name in classes:
        what, full, _, prepare, _ = CLASSES[name]
        if prepare:
            prepare()
        found = attack(name, seed, only or range(max(1, round(full * scale))), keep=bool(only))
        counts = collections.Counter(verdict for _, verdict, _ in found)
        rows.append(
            (name, what, len(found), *(counts[verdict] for verdict in ("recovered", "refused", "wrong")))
        )
        wrongs += [(name, number, said) for number, verdict, said in found if verdict == "wrong"]
    report(rows, wrongs, seed)
    return 1 if wrongs else 0


def attack(name, seed, numbers, keep):
    """[(number, verdict, what was said)] of the attacks of a class, two at a time."""
    began, found = time.monotonic(), []
    with multiprocessing.get_context("fork").Pool(2) as pool:
        jobs = ((name, seed, number, keep) for number in numbers)
        for result in pool.imap_unordered(one, jobs):
            found.append(result)
            if result[1] == "wrong":
                print(f"{name} {result[0]}: {result[2]}", file=sys.stderr, flush=True)
    print(f"{name}: {len(found)} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return sorted(found)


def one(job):
    """The verdict on one attack: recovered, refused or wrong, and what was wrong."""
    name, seed, number, keep = job
    case = lab.Case(name, seed, number, CLASSES[name][-1])
    try:
        verdict, said = CLASSES[name][2](case), ""
    except lab.Wrong as wrong:
        verdict, said = "wrong", str(wrong)
    except Exception:
        verdict, said = "wrong", f"the campaign itself failed: {traceback.format_exc()}"
    case.end(keep)
    if keep:
        print(
            f"{case.home}: {verdict}", *(f"{c.status}: {c.command}\n{c.said}" for c in case.commands), sep="\n"
        )
    return number, verdict, said


def report(rows, wrongs, seed):
    print(f"Campaign of {datetime.date.today()}, seed {seed}:\n")
    print("| class | attack | tried | recovered | refused in one line | wrong |\n|---|---|---|---|---|---|")
    for row in [*rows, ("all", "", *(sum(column) for column in [*zip(*rows)][2:]))]:
        print("| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in row) + " |")
    for name, number, said in wrongs:
        print(f"\npython tests/campaign --class={name} --seed={seed} --only={number}\n    {said}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
