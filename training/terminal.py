"""A run and its terminal: the bar or lines that it shows, its speed, and the signals that it obeys."""

import contextlib
import os
import signal
import sys
import threading
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10
HANGUP = getattr(signal, "SIGHUP", None)  # None on Windows
SWEEP = "SWEEP_PID"  # the environment variable in which sweep.py tells its runs its process id


class Meter:
    """The clock of one process's share of a run: its seconds, and the rate of its training steps alone."""

    def __init__(self, tokens_per_iter):
        self.tokens_per_iter = tokens_per_iter
        self.began = time.perf_counter()
        self.seconds_before = 0.0  # in earlier processes
        self.start(0)

    def start(self, step):
        """The rate counts from here."""
        self.mark_step, self.mark = step, time.perf_counter()

    def seconds(self):
        """Of the whole run, those of earlier processes included."""
        return self.seconds_before + time.perf_counter() - self.began

    @contextlib.contextmanager
    def paused(self):
        """Keep what runs inside out of the training rate."""
        before = time.perf_counter()
        yield
        self.mark += time.perf_counter() - before

    def tokens_per_second(self, step):
        """Since the call before; None where there was no step between."""
        steps, elapsed = step - self.mark_step, time.perf_counter() - self.mark
        self.start(step)
        return steps * self.tokens_per_iter / elapsed if steps else None


class StatusLine(tqdm):
    """The last line of a terminal, on stderr, replaced as things go on; the lines above it stay. There is none
    where stderr is no terminal, or silent is True."""

    monitor_interval = 0  # no thread that redraws it
    _lock = threading.RLock()  # not one between processes, of which Python 3.14 warns where a rank is ended

    def __init__(self, silent=False, bar_format="{desc}", **options):
        how = {"leave": False, "miniters": 1, "smoothing": 0, "dynamic_ncols": True}
        super().__init__(disable=silent or None, bar_format=bar_format, **how, **options)
        self.printed = time.monotonic()

    def print_above(self, text):
        """Print a line that stays."""
        self.write(text)
        sys.stdout.flush()
        self.printed = time.monotonic()


class Progress(StatusLine):
    """Shows the events of the log as they come: on a terminal's last line, or as plain lines now and then in a
    file.

    It fits into 80 columns up to 999,999 iterations and 9,999,999 tokens a second:

        1,230/5,000  25 %  12:34 left  loss 2.345  val 2.401  12,345 tok/s
    """

    def __init__(self, step, max_iters, silent=False, unit="tok"):
        self.counted = unit  # `unit` is tqdm's
        shown = "{n:,}/{total:,}  {percentage:.0f} %  {remaining} left  {desc}"
        super().__init__(silent, shown, initial=step, total=max_iters)
        self.loss = self.val_loss = self.rate = ""

    def stepped(self):
        self.update()

    def evaluating(self):
        """An evaluation begins; `evaluated` ends it."""
        self.set_description_str("evaluating")

    def evaluated(self, event):
        self.val_loss = f"val {event['val_loss']:.3f}"
        self.show_figures()
        rate = f", {self.rate}" if self.rate else ""
        score = f", val score {event['val_score']:.4f}" if "val_score" in event else ""
        self.print_above(
            f"iteration {event['iter']:>6,}: train loss {event['train_loss']:.4f},"
            f" val loss {event['val_loss']:.4f}{score}{rate}"
        )

    def logged(self, event):
        self.loss, rate = f"loss {event['loss']:.3f}", event["tokens_per_second"]
        self.rate = f"{rate:,.0f} {self.counted}/s" if rate else ""
        self.show_figures()
        if self.disable and time.monotonic() - self.printed > SECONDS_BETWEEN_LINES:
            self.print_above(f"iteration {event['iter']:>6,}: mini-batch loss {event['loss']:.4f}")

    def show_figures(self):
        """From the next drawing on."""
        figures = "  ".join(filter(None, (self.loss, self.val_loss, self.rate)))
        self.set_description_str(figures, refresh=False)


def starter():
    """The process id of the sweep.py or torchrun that started this process and that it is not to outlive; None
    where it was started otherwise: a shell may end before its runs.

    torchrun does not tell its id: ask while it is known to be there. Windows does not tell of a parent's end.
    """
    if os.name != "posix":
        return None
    if (told := os.environ.pop(SWEEP, "")).isdigit():  # and not for those that this process starts
        return int(told)
    return os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None


class Signals:
    """Within it SIGINT, SIGTERM and SIGHUP are noted, to be heeded between two steps; the same one again
    acts at once. Under nohup, which ignores SIGHUP, it stays ignored.

    parent: a process id, from `starter`; its end is noted as a SIGTERM would be.
    """

    def __init__(self, what="stopping after this step", silent=False, parent=None):
        self.what, self.silent, self.parent = what, silent, parent
        self.number = 0

    @property
    def caught(self):
        """The number of the signal, or 0."""
        if not self.number and self.parent and os.getppid() != self.parent:
            self.number = signal.SIGTERM
            self.say("the process that started this run has ended: " + self.what)
        return self.number

    def __enter__(self):
        self.terminals = [file for file in (1, 2) if os.isatty(file)]
        heeded = [signal.SIGINT, signal.SIGTERM]
        if HANGUP and signal.getsignal(HANGUP) != signal.SIG_IGN:
            heeded.append(HANGUP)
        self.before = {number: signal.signal(number, self.note) for number in heeded}
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number, _frame):
        self.number = number
        if number == HANGUP:
            leave(self.terminals)
        else:
            self.say(f"{self.what}; once more stops at once")
        signal.signal(number, self.before[number])

    def say(self, text):
        """On stderr, if it takes it."""
        try:
            if not self.silent:
                os.write(2, f"\n{text}\n".encode())  # print is not reentrant
        except OSError:
            leave((1, 2))


def leave(files):
    """Write to nowhere from now on: a terminal that has hung up, and a pipe that nobody reads, refuse what is
    written to them, and the run would not come to its stop."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for file in files:
        os.dup2(nowhere, file)
    os.close(nowhere)
