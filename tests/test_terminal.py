"""What a run shows on a terminal and in a file, and the signals that it obeys."""

import io
import os
import pty
import re
import signal
import subprocess
import sys

import pytest
from conftest import LIMIT

from config import ROOT
from training import terminal
from training.terminal import SWEEP, Meter, Progress, Signals, starter


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show_80_columns(monkeypatch):
    """A terminal in the place of stderr; returns what gives the texts that its last line has had."""
    monkeypatch.setattr(sys, "stderr", shown := Terminal())
    monkeypatch.setenv("COLUMNS", "81")  # as tqdm counts
    return lambda: [text.rstrip() for text in shown.getvalue().split("\r")]


def test_the_largest_numbers_are_whole_at_80_columns(monkeypatch, capsys):
    monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", -1)
    screen = show_80_columns(monkeypatch)
    with Progress(899_998, 999_999) as progress:
        progress.start_t -= 4.44
        progress.logged({"iter": 899_998, "loss": 10.825, "tokens_per_second": 9_999_999.0})
        progress.evaluated({"iter": 899_999, "train_loss": 10.1234, "val_loss": 10.4321})
        progress.last_print_t = 0
        progress.stepped()
        last = screen()[-1]
    wanted = r"899,999/999,999  90 %  123:\d\d:\d\d left  loss 10.825  val 10.432  9,999,999 tok/s"
    assert re.fullmatch(wanted, last)
    assert len(last) < 80
    assert capsys.readouterr().out.count("\n") == 1, "the evaluation's"


def test_an_evaluation_is_told_while_it_lasts_and_nothing_stays_on_the_line(monkeypatch):
    screen = show_80_columns(monkeypatch)
    with Progress(0, 10) as progress:
        progress.evaluating()
        assert screen()[-1] == "0/10  0 %  ? left  evaluating"
        progress.evaluated({"iter": 0, "train_loss": 3.0, "val_loss": 3.5})
        assert screen()[-1] == "0/10  0 %  ? left  val 3.500"
    assert screen()[-1] == ""


def test_a_file_gets_whole_lines_now_and_then(capsys, monkeypatch):
    flushed = []
    with Progress(0, 1000) as progress:
        for step in range(100):
            progress.stepped()
            progress.logged({"iter": step, "loss": 2.0, "tokens_per_second": 5.0})
        assert capsys.readouterr().out == ""
        monkeypatch.setattr(terminal, "SECONDS_BETWEEN_LINES", -1)
        monkeypatch.setattr(sys.stdout, "flush", lambda: flushed.append(True))
        progress.logged({"iter": 100, "loss": 1.5, "tokens_per_second": 5.0})
        assert flushed
        progress.evaluated({"iter": 101, "train_loss": 1.25, "val_loss": 1.75})
    said, noise = capsys.readouterr()
    first, second = said.splitlines()
    assert re.search(r"100\b.*1.5000", first)
    assert re.search(r"101\b.*1.2500.*1.7500", second)
    assert noise == ""


def test_the_rate_is_of_the_training_steps_alone(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(terminal.time, "perf_counter", lambda: now[0])
    meter = Meter(tokens_per_iter=100)
    meter.seconds_before = 50.0
    now[0] = 2.0
    with meter.paused():
        now[0] = 8.0
    assert meter.tokens_per_second(step=10) == 500.0
    assert meter.tokens_per_second(step=10) is None
    assert meter.seconds() == 58.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_is_noted_and_the_second_acts(number, capfd):
    acted = []
    before = signal.signal(number, lambda *_: acted.append(number))
    try:
        with Signals() as signals:
            os.kill(os.getpid(), number)
            assert (signals.caught, acted) == (number, [])
            os.kill(os.getpid(), number)
            assert acted == [number]
        os.kill(os.getpid(), number)
        assert len(acted) == 2
    finally:
        signal.signal(number, before)


def test_the_end_of_the_parent_is_a_sigterm_which_is_told_once(capfd):
    with Signals(parent=os.getppid()) as signals:
        assert not signals.caught
    with Signals(parent=os.getppid() + 1) as signals:
        assert (signals.caught, signals.caught) == (signal.SIGTERM, signal.SIGTERM)
    assert capfd.readouterr().err.count("has ended") == 1


@pytest.mark.parametrize(
    ("environment", "parent"),
    [({}, None), ({"WORLD_SIZE": "2"}, None), ({SWEEP: "7"}, 7), ({"TORCHELASTIC_RUN_ID": "x"}, 8)],
)
def test_a_run_outlives_a_shell_but_no_sweep_and_no_torchrun(monkeypatch, environment, parent):
    monkeypatch.setattr(os, "getppid", lambda: 8)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert starter() == parent
    assert SWEEP not in os.environ, "what this process starts is no run of the sweep's"


LOOP = """
import sys, time
from training.terminal import Progress, Signals
with Signals() as signals, Progress(0, 10**9) as progress:
    print("begun", flush=True)
    while not signals.caught:
        time.sleep(0.01)
        progress.stepped()
        progress.print_above("a step")
sys.exit(10 + signals.caught)
"""


def test_a_run_whose_terminal_hangs_up_stops_as_by_sigterm():
    here, there = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", LOOP], cwd=ROOT, stdin=there, stdout=there, stderr=there, start_new_session=True
    )
    os.close(there)
    os.read(here, 5)
    os.kill(process.pid, signal.SIGHUP)  # as the system does for the terminal that it controls
    os.close(here)
    assert process.wait(LIMIT) == 10 + signal.SIGHUP


def test_nohup_keeps_a_run_from_hearing_of_it():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not signals.caught
    finally:
        signal.signal(signal.SIGHUP, before)
