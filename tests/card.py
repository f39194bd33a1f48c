"""The tests of a card in several processes, each test with a time limit of its own, whatever it does.

    python tests/card.py FILE PROCESSES MARKER

runs the tests of a marker in tests/test_cuda.py, the most telling first. FILE gets JSON lines: a test is
planned, it begins, what came of it, it ends. A test that hangs or ends its process is noted, with where it
hung, and the others go on in a new one; so they do after an error of CUDA, which spoils a process. This file is
those processes' pytest plugin too.
"""

import faulthandler
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
LIMIT = 20  # seconds a case
BEGINNING = 60  # more for a process's first, in which CUDA begins
SAID = 3000  # characters that are kept of a report
ORDER = {  # the first tests, and their own limits
    "test_the_card_is_chosen_named_and_recorded": 40,
    "test_the_noise_is_added_whole_not_divided_by_the_loss_scale": LIMIT,
    "test_a_step_skipped_for_infinity_moves_no_weight_and_no_moment": LIMIT,
    "test_the_noise_is_drawn_on_the_device_from_seed_and_step_alone": LIMIT,
    "test_sixteen_bits_train_like_thirty_two": LIMIT,
    "test_compiled_by_inductor": 60,
    "test_the_papers_model_trains_within_16_gb": 30,
    "test_the_host_does_not_wait_in_a_compiled_step": 60,
    "test_a_compiled_run_with_dropout_resumes": 60,
    "test_a_stopped_run_resumes_to_the_same_weights": LIMIT,
    "test_the_host_does_not_wait_for_the_device_in_a_step": LIMIT,
}


def main(file, processes, marker, tests=HERE / "test_cuda.py"):
    shares = [f"{number}/{processes}" for number in range(int(processes))]
    with ThreadPoolExecutor(len(shares)) as pool:
        return max(pool.map(lambda share: run_share(file, share, marker, tests), shares))


def run_share(file, share, marker, tests):
    """One process's tests, in new processes as long as one leaves some and ends others; returns whether a test
    failed."""
    words = ["-m", "pytest", str(tests), "-m", marker, f"--rootdir={HERE.parent}"]
    words += ["-p", "card", "-p", "no:faulthandler"]
    path = os.pathsep.join(filter(None, [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "CARD_FILE": file, "CARD_SHARE": share}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    ended, failed = -1, False
    with tempfile.NamedTemporaryFile("r") as hung:
        environment["CARD_HUNG"] = hung.name
        while True:
            failed |= subprocess.call([sys.executable, *words], env=environment) != 0
            mine = [test for test in read(file).values() if test["share"] == share]
            for test in mine:
                if "began" in test and "ended" not in test:
                    failed = True
                    note_cut(file, test, Path(hung.name).read_text(errors="replace"))
            left, before = sum("began" not in test for test in mine), ended
            ended = len(mine) - left
            if not left or ended == before:
                return failed


def note_cut(file, test, where):
    """A test that ended its process, or hung, where the trace says; also after its report, in its teardown."""
    now, before = time.time(), f"{test['outcome']}, then " if "outcome" in test else ""
    outcome = f"{before}ended its process after {now - test['began']:.0f} s"
    trace = [line for line in where.splitlines() if "/_pytest/" not in line and "/pluggy/" not in line]
    said = "\n".join([test.get("said", ""), *trace])[-SAID:]
    write(file, {"test": test["test"], "outcome": outcome, "said": said, "ended": now})


def read(file):
    """{test: what is known of it}."""
    found = {}
    for line in Path(file).read_text().splitlines() if Path(file).exists() else []:
        line = json.loads(line)
        found.setdefault(line["test"], {}).update(line)
    return found


def write(file, line):
    with open(file, "a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")


def limit(test):
    return ORDER.get(test.split("::")[-1].split("[")[0], LIMIT)


# The plugin.


def pytest_configure(config):
    config.hung = open(os.environ["CARD_HUNG"], "w")  # pytest captures what is written to descriptor 2


@pytest.hookimpl(trylast=True)  # after the marker has chosen
def pytest_collection_modifyitems(items):
    """This process's share, in order, without the tests that are done."""
    number, processes = map(int, os.environ["CARD_SHARE"].split("/"))
    done, order = read(os.environ["CARD_FILE"]), [*ORDER]
    items.sort(key=lambda item: order.index(item.originalname) if item.originalname in order else len(order))
    items[:] = [item for item in items[number::processes] if "ended" not in done.get(item.nodeid, {})]
    for item in items:
        write(os.environ["CARD_FILE"], {"test": item.nodeid, "share": os.environ["CARD_SHARE"]})


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item):
    write(os.environ["CARD_FILE"], {"test": item.nodeid, "began": time.time()})
    seconds = limit(item.nodeid) + (BEGINNING if item is item.session.items[0] else 0)
    faulthandler.dump_traceback_later(seconds, exit=True, file=item.config.hung)


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        outcome = {"outcome": report.outcome, "seconds": round(report.duration, 2)}
        texts = {"said": str(report.longrepr or ""), "printed": report.capstdout + report.caplog}
        outcome |= {name: text[-SAID:] for name, text in texts.items()}
        write(os.environ["CARD_FILE"], {"test": report.nodeid, **outcome})
    if "CUDA error" in str(report.longrepr):
        pytest_runtest_logfinish(report.nodeid)
        os._exit(1)


def pytest_runtest_logfinish(nodeid):
    write(os.environ["CARD_FILE"], {"test": nodeid, "ended": time.time()})


def pytest_sessionfinish():
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
