"""A run and its terminal: the bar or lines that it shows, its speed, and the signals that it obeys."""

import contextlib
import os
import signal
import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10


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


class Progress:
    """Shows the events of the log as they come; silent: no bar."""

    def __init__(self, step, max_iters, silent=False):
        self.terminal = sys.stderr.isatty() and not silent
        self.bar = tqdm(total=max_iters, initial=step, unit="it", disable=not self.terminal, leave=False)
        self.shown = {}
        self.printed = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def stepped(self):
        self.bar.update(1)

    def logged(self, event):
        rate = event["tokens_per_second"]
        self.show(loss=f"{event['loss']:.3f}", tokens_per_s=f"{rate:,.0f}" if rate else "-")
        if not self.terminal and time.monotonic() - self.printed > SECONDS_BETWEEN_LINES:
            self.write(f"iteration {event['iter']:>6,}: mini-batch loss {event['loss']:.4f}")

    def evaluated(self, event):
        self.show(val=f"{event['val_loss']:.4f}")
        rate = self.shown.get("tokens_per_s", "-")
        self.write(
            f"iteration {event['iter']:>6,}: train loss {event['train_loss']:.4f},"
            f" val loss {event['val_loss']:.4f}, {rate} tokens/s"
        )

    def show(self, **items):
        self.shown.update(items)
        self.bar.set_postfix(self.shown, refresh=False)

    def write(self, line):
        self.printed = time.monotonic()
        tqdm.write(line)
        sys.stdout.flush()


class Signals:
    """Within it SIGINT and SIGTERM are noted, to be heeded between two steps; a second one acts at once.

    caught: the number of the signal, or 0.
    """

    def __init__(self, what="stopping after this step", silent=False):
        self.what, self.silent = what, silent

    def __enter__(self):
        self.caught = 0
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number, _frame):
        self.caught = number
        if not self.silent:
            line = f"\n{self.what}; once more stops at once\n"
            os.write(2, line.encode())  # print is not reentrant
        signal.signal(number, self.before[number])
