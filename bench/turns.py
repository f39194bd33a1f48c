"""Seconds of functions that take turns in one process, so that other load on the machine meets all alike."""

import time

TURNS = 7  # after one that warms up
LONG_TURNS = 3  # of what takes long: steps of a second and more, evaluations, samples
TURN = 0.15  # seconds that a turn of short work is to take
MOST = 50  # calls a turn


def clock(work, machine, count=1):
    """Seconds that a call of `work` takes, the mean of so many, on the device too."""
    machine.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        work()
    machine.synchronize()
    return (time.perf_counter() - began) / count


def in_turns(works, turns, machine, counts=None):
    """{name: the seconds a call of each turn} of functions, which go in the other order every second time.

    One turn more, the first, warms up and does not count. counts: {name: calls a turn}, one unless given.
    """
    seconds = {name: [] for name in works}
    for turn in range(turns + 1):
        for name in list(works)[:: 1 if turn % 2 else -1]:
            took = clock(works[name], machine, counts[name] if counts else 1)
            if turn:
                seconds[name].append(took)
    return seconds


def steps_in_turns(loops, machine):
    """{name: the seconds a step of each turn} of loops; a turn has as many steps as fill TURN seconds, a
    twentieth of a run and MOST at most."""
    works = {name: loop.train_step for name, loop in loops.items()}
    most = min(MOST, *(loop.config.max_iters // 20 for loop in loops.values()))
    counts, turns = {}, TURNS
    for name, work in works.items():
        work()
        second = clock(work, machine)
        counts[name] = max(1, min(int(TURN / max(second, 1e-9)), most))
        turns = LONG_TURNS if second > 1 else turns
    return in_turns(works, turns, machine, counts)
