"""What every command does: a mistake of its user's in one line, paths that a user wrote, cores. No torch."""

import argparse
import difflib
import errno
import os
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATH = "UTF-8 without control characters, and where it begins with ~ of a user who exists"


class UserError(Exception):
    """A mistake of the user's: one line that names the mistake and the mend; exit status 2."""

    def __str__(self):  # what it quotes may have several
        return " ".join(super().__str__().splitlines())


MENDS = {  # of what a disk refuses
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), ": make room, and give the same command again"),
    errno.EIO: ": use another disk, or try the same command again",
}


def run_script(main, usage=None):
    """Run `main(argv)` as a script: its return value is the exit status; a UserError, or a file that the
    system refuses, is one line and status 2. A terminal without some character shows it as "?". usage: what
    --help prints, where main does not see to that."""
    open_streams()
    try:
        asked = usage and {"--help", "-h"} & {*sys.argv[1:]}
        status = print(usage) if asked else main(sys.argv[1:])
        sys.stdout.flush()
        sys.exit(status)
    except BrokenPipeError:  # whoever reads, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + 13)  # as SIGPIPE has it
    except (UserError, OSError) as error:
        mend = MENDS.get(getattr(error, "errno", None), "")
        print(f"error: {error}{mend}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, and a mistake is a UserError."""

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message):
        raise UserError(f"{message} ({self.prog} --help shows how it is used)")


def given(text):
    """An option's value, for argparse; an empty one, as of a shell's variable that is not set, is refused."""
    if not text:
        raise argparse.ArgumentTypeError("its value is empty")
    return text


def open_streams():
    """Have an output and an error output that take every character. What was closed gets one to nowhere; a
    notebook's has no `reconfigure`, and takes them anyway."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="replace")


def cores():
    """CPU cores that this process may use, for whoever shares them out."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def can_be_path(text):
    """Whether a text can be a path: of printable UTF-8, and the user of a leading ~ is known."""
    try:
        text.encode()  # what was no UTF-8 on the command line is none here
        Path(text).expanduser()
    except (RuntimeError, ValueError):
        return False
    return not re.search(r"[\x00-\x1f\x7f]", text)


def is_folder_name(text):
    return Path(text).name == text and text not in ("", "..")


def user_path(text):
    """The path that a user wrote, ~ expanded; UserError where it can be none."""
    if not can_be_path(str(text)):
        raise UserError(f"{quoted(str(text))} can be no path: one is {PATH}")
    return Path(text).expanduser()


def command(*words):
    """A command of ours as a user can type it: what stands after `python`."""
    return "python " + shlex.join(map(str, words))


def counted(number, what):
    """ "1 run", "2 runs"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def quoted(value, most=200):
    """A value as a message quotes it: its repr, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= most else f"{text[:most]}..."


def did_you_mean(word, known):
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
