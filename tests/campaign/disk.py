"""What stands between a child and its files, and fails at one operation: a crash, a power cut, a full disk."""

import builtins
import errno
import io
import os
import random
import shutil
import stat
from pathlib import Path

SHORT = 10  # bytes of a write that is cut short
DIED = 77  # exit status of a process that a crash ended
CALLS = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "fsync")
real_open = os.open


def watch(act):
    """Have act(operation, path, source, do) stand for every operation that changes a file or folder; do() does
    it, do(n) of a write its first n bytes. path: what is changed; source: the earlier name of a rename."""
    for name in CALLS:
        setattr(os, name, through(act, name, getattr(os, name)))
    os.open = through(act, "open", real_open)
    io.open = builtins.open = opened_through(act, io.open)


def through(act, name, call):
    def wrapped(path, *arguments, **options):
        do = lambda: call(path, *arguments, **options)  # noqa: E731
        if name == "open" and not arguments[0] & (os.O_CREAT | os.O_TRUNC):
            return do()
        target, source = (arguments[0], path) if name in ("replace", "rename") else (path, None)
        return act("replace" if source else name, place(target), source and place(source), do)

    return wrapped


def opened_through(act, open_):
    """builtins.open, of the same layers, over files whose writes can be watched."""

    class Watched(io.FileIO):
        def write(self, data):
            do = lambda most=None: io.FileIO.write(self, data[:most])  # noqa: E731
            return act("write", place(self.name), None, do)

    def opened(
        file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None
    ):
        if not set(mode) & set("wax+"):
            return open_(file, mode, buffering, encoding, errors, newline, closefd, opener)
        make = lambda: Watched(file, mode.replace("b", "").replace("t", ""), closefd, opener)  # noqa: E731
        raw = make() if isinstance(file, int) else act("open", place(file), None, make)
        binary = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw)
        if "b" in mode:
            return binary if buffering else raw
        return io.TextIOWrapper(binary, encoding, errors, newline, buffering == 1)

    return opened


def place(path):
    """The absolute path of a name or of an open file."""
    return os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.path.abspath(os.fspath(path))


class Count:
    """Writes down every operation below a folder, and does it."""

    def __init__(self, folder):
        self.inside, self.count = str(folder) + os.sep, 0
        self.notes = None

    def __call__(self, operation, path, source, do):
        if not path.startswith(self.inside):
            return do()
        self.count += 1
        return self.at(self.count - 1, operation, path, source, do)

    def at(self, number, operation, path, source, do):
        self.notes = self.notes or real_open(self.inside + "operations", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(self.notes, f"{operation} {path.removeprefix(self.inside)}\n".encode())
        return do()


def operations_of(folder, words):
    """[(operation, path)] of an undisturbed run in a folder, in order."""
    from lab import Child

    count = Count(folder)
    Child(folder, "train.py", words, before=lambda: watch(count)).wait()
    notes = Path(folder / "operations")
    found = [tuple(line.split(" ", 1)) for line in notes.read_text().splitlines()]
    notes.unlink()
    return found


class Die(Count):
    """Ends the process before or after an operation, or after the first bytes of a write."""

    def __init__(self, folder, instant, when="before"):
        super().__init__(folder)
        self.instant, self.when = instant, when

    def at(self, number, operation, path, source, do):
        if number != self.instant:
            return do()
        if self.when == "within" and operation == "write":
            do(SHORT)
        elif self.when != "before":
            do()
        os._exit(DIED)


class Fail(Count):
    """From one operation on, for good or but once, none that needs the disk succeeds: ENOSPC or EIO. The first
    write to a full disk is cut short instead."""

    def __init__(self, folder, instant, number, once=False):
        super().__init__(folder)
        self.instant, self.errno, self.once, self.failed = instant, number, once, False

    def at(self, number, operation, path, source, do):
        full = self.errno == errno.ENOSPC
        if number == self.instant and operation == "write" and full:
            return do(SHORT)
        needs = ("write", "fsync", "open") if full else ("write", "fsync", "replace")
        if number >= self.instant and operation in needs and not (self.once and self.failed):
            self.failed = True
            names = (source, None, path) if source else (path,) if operation == "open" else ()
            raise OSError(self.errno, os.strerror(self.errno), *names)
        return do()


class PowerCut(Count):
    """At one operation the power fails. What was not synced is lost, each name and each content by itself.

    A file's content is durable by its fsync, a folder's names by the folder's. Without it each rename, new
    name and removal is lost or kept independently, as no journal orders them.
    """

    def __init__(self, folder, run, instant, seed):
        super().__init__(folder)
        self.run, self.instant, self.rng = str(run), instant, random.Random(seed)
        self.names, self.pending = {}, []  # durable {name: file}; changes of names since the folder's fsync
        self.identity, self.contents, self.now = (
            {},
            {},
            {},
        )  # inode -> file; file -> durable bytes; name -> file

    def at(self, number, operation, path, source, do):
        if number == self.instant:
            self.rebuild()
            os._exit(DIED)
        new = operation == "open" and not os.path.exists(path)
        value = do()
        if operation == "fsync":
            self.sync(path)
        elif os.path.dirname(path) == self.run:
            self.rename(operation, path, source, new)
        return value

    def rename(self, operation, path, source, new):
        if new:
            self.change({path: f"{os.path.basename(path)}#{len(self.contents)}"})
            self.contents[self.now[path]] = b""
        elif operation == "replace":
            self.change({path: self.now.get(source), source: None})
        elif operation in ("unlink", "remove"):
            self.change({path: None})

    def change(self, names):
        self.pending.append(names)
        self.now |= names

    def sync(self, path):
        if stat.S_ISDIR(os.stat(path).st_mode):
            for names in self.pending if path == self.run else ():
                self.names |= names
            self.pending = [] if path == self.run else self.pending
        elif file := self.now.get(path):
            self.contents[file] = Path(path).read_bytes()

    def rebuild(self):
        """Leave the folder as the disk has it after the cut."""
        files = {file: self.after_cut(file, path) for path, file in self.now.items() if file}
        for names in self.pending:
            if self.rng.random() < 0.5:
                self.names |= names
        shutil.rmtree(self.run, ignore_errors=True)
        os.makedirs(self.run)
        for path, file in self.names.items():
            if file:
                Path(path).write_bytes(files.get(file, self.contents.get(file, b"")))

    def after_cut(self, file, path):
        """The bytes of a file that still has a name: the synced ones, then any part of what came after."""
        durable, now = self.contents[file], Path(path).read_bytes() if os.path.isfile(path) else b""
        if not now.startswith(durable):
            return durable
        return now[: self.rng.choice([len(durable), self.rng.randint(len(durable), len(now)), len(now)])]
