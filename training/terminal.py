"""A run and its terminal: the bar or lines that it shows, its speed, and the signals that it obeys."""

import contextlib
import os
import shutil
import signal
import sys
import time

SECONDS_BETWEEN_LINES = 10
SECONDS_BETWEEN_DRAWINGS = 0.1
HANGUP = getattr(signal, "SIGHUP", None)  # None on Windows


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


class StatusLine:
    """The last line of a terminal, on stderr, replaced as things go on; the lines above it stay. There is none
    where stderr is no terminal, or silent is True."""

    def __init__(self, silent=False):
        self.terminal = sys.stderr.isatty() and not silent
        self.shown, self.drawn, self.printed = "", 0.0, time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.show("")

    def show(self, text):
        if self.terminal:
            self.shown, self.drawn = text, time.monotonic()
            sys.stderr.write(f"\r\x1b[K{text[: columns()]}")
            sys.stderr.flush()

    def write(self, line):
        """Print a line that stays."""
        shown = self.shown
        self.show("")
        self.printed = time.monotonic()
        print(line, flush=True)
        self.show(shown)


def columns():
    """How many characters fit into a line of the terminal."""
    return shutil.get_terminal_size().columns - 1


class Progress:
    """Shows the events of the log as they come: a line of its own on a terminal, plain lines now and then in a
    file. silent: no such line.

    It fits into 80 columns up to 999,999 iterations and 9,999,999 tokens a second:

        1,230/5,000  25 %  12:34 left  loss 2.345  val 2.401  12,345 tok/s
    """

    def __init__(self, step, max_iters, silent=False):
        self.line = StatusLine(silent)
        self.step, self.begun, self.max_iters = step, step, max_iters
        self.loss = self.val_loss = self.rate = None
        self.evaluates = False
        self.began = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.line.show("")

    def stepped(self):
        self.step += 1
        if time.monotonic() - self.line.drawn > SECONDS_BETWEEN_DRAWINGS:
            self.line.show(self.fields())

    def evaluating(self):
        """An evaluation begins; `evaluated` ends it."""
        self.evaluates = True
        self.line.show(self.fields())

    def evaluated(self, event):
        self.evaluates = False
        self.val_loss = event["val_loss"]
        rate = f", {self.rate:,.0f} tokens/s" if self.rate else ""
        self.line.write(
            f"iteration {event['iter']:>6,}: train loss {event['train_loss']:.4f},"
            f" val loss {event['val_loss']:.4f}{rate}"
        )
        self.line.show(self.fields())

    def logged(self, event):
        self.loss, self.rate = event["loss"], event["tokens_per_second"]
        if not self.line.terminal and time.monotonic() - self.line.printed > SECONDS_BETWEEN_LINES:
            self.line.write(f"iteration {event['iter']:>6,}: mini-batch loss {event['loss']:.4f}")

    def fields(self):
        """What the terminal shows, always in this order."""
        parts = [f"{self.step:,}/{self.max_iters:,}", f"{100 * self.step // self.max_iters} %"]
        if self.evaluates:
            parts.append("evaluating")
        elif self.step > self.begun:
            pace = (time.monotonic() - self.began) / (self.step - self.begun)
            parts.append(f"{clock(pace * (self.max_iters - self.step))} left")
        parts += [f"loss {self.loss:.3f}"] if self.loss is not None else []
        parts += [f"val {self.val_loss:.3f}"] if self.val_loss is not None else []
        parts += [f"{self.rate:,.0f} tok/s"] if self.rate else []
        return "  ".join(parts)


def clock(seconds):
    """Minutes and seconds, 12:34, or hours before them, 3:12:34."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


class Signals:
    """Within it SIGINT, SIGTERM and SIGHUP are noted, to be heeded between two steps; a second one acts at
    once. Under nohup, which ignores SIGHUP, it stays ignored.

    caught: the number of the signal, or 0.
    """

    def __init__(self, what="stopping after this step", silent=False):
        self.what, self.silent = what, silent

    def __enter__(self):
        self.caught = 0
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
        self.caught = number
        if number == HANGUP:
            self.leave_terminals()
        elif not self.silent:
            line = f"\n{self.what}; once more stops at once\n"
            os.write(2, line.encode())  # print is not reentrant
        signal.signal(number, self.before[number])

    def leave_terminals(self):
        """A terminal that has hung up refuses what is written to it, and the run would not come to its stop."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for file in self.terminals:
            os.dup2(nowhere, file)
        os.close(nowhere)
