"""Attacks from outside: command lines and config files of evil values, and servers that misbehave."""

import contextlib

import functools
import gzip
import hashlib
import http.server


import threading



import template
from lab import Wrong, outcome

from config import OPTIONS, run_script  # of the tree, whose place lab has set
from data import download

# configs

PATIENCE = 10  # seconds in which a command begins or is refused, on a busy machine
FAR = 2  # seconds that a run is watched once it has begun
TEXTS = (
    *("", " ", "\n", "x", "é", "٣", "\udcff", "a" * 300, "a/" * 3000, "~nosuchuser/x", "~", "~/x", ".", "/dev/null"),
    *("/dev/null/x", "/proc/self/mem", "/nonexistent/x", "nan", "-nan", "inf", "-inf", "-1", "-0", "0", "1", "2", "3"),
    *("17", "0.5", "1.5", "1e9", "1e400", "1e-400", "1_000", "0x10", "10**5", "9" * 5000, "1" + "0" * 400, "9" * 18),
    *("2147483647", "2147483648", "1000000", "1000000000", "-9223372036854775809", "True", "False", "None", "[]", "{}"),
    *("cpu", "auto", "off", "cuda", "cuda:99", "mps", "float16", "bfloat16", "corpus", "./corpus", "./source", "run"),
)
LITERALS = (
    *("10**5000", "-10**5000", "float('nan')", "float('inf')", "-1", "0", "1", "2", "0.5", "1e308", "None", "True"),
    *("''", "'x'", r"'\0'", r"'x\0y'", r"'\ud800'", "'~nosuchuser/x'", "b'x'", "1j", "[1]", "{}", "(1,)", "range(3)"),
    *("print", "lambda run: 1", "...", "int", "2**31", "2**63", "10**9", "'a' * 10**6", "object()", "type('T', (int,), {})(2)"),
)
FILES = (
    *(b"", b"\xef\xbb\xbfseed = 2\n", b"seed = '\xe9'\n", b"seed = 1\0\n", b"seed =\n", b"raise SystemExit(3)\n"),
    *(b"raise KeyError\n", b"import nosuch\n", b"raise KeyboardInterrupt\n", b"(" * 500, b"def f(): return f()\nf()\n"),
    *(b"no_option = 1\n", b"seed: int\n", b"1 / 0\n", b"import os\n_x = 1\n", b"globals()['a b'] = 1\n"),
)
SWEPT = {
    "--seeds": ("1-1000000000", "9" * 5000, "1-", "-1", "a", "1,1", "5-1", "1" * 30, "1-3", "٣", "", "1-3,9-99999999"),
    "--time-budget": ("nan", "inf", "-1", "0", "1e400", "x", "5"),
    "--jobs": ("0", "-1", "nan", "9" * 5000, "x", "2", "1000000000"),
    "--arms": ("", ",", "x", "noise", "baseline,baseline", "\udcff", "é"),
    "--n_embd": ("1000000000", "64"),
    "--out_dir": ("x",),
}
UNTRIED = ("plot",)  # draws in a process of its own


def configure(case):
    """One random command line; it begins, or is refused in one line, soon."""
    draw = case.rng.random()
    if draw < 0.1:
        return sweep(case)
    words = template.words(max_iters=2, warmup_iters=0, eval_interval=2)
    if draw < 0.4:
        words = words[:5] + [write_config(case)] + words[5:]
    names = case.rng.sample([name for name in OPTIONS if name not in UNTRIED], case.rng.choice((1, 1, 2, 3)))
    words += [f"--{name}={text(case.rng, name)}" for name in names if draw < 0.1 or draw > 0.3]
    if draw > 0.97:
        words.append(case.rng.choice(("--", "-x", "--seed", "--=1", "-", "", "--seed 2", "x=y", "--no-such=1", "\udcff")))
    return begins(case, words)


def text(rng, name):
    choices = OPTIONS[name].choices
    return rng.choice(choices) if choices and rng.random() < 0.5 else rng.choice(TEXTS)


def write_config(case):
    path = case.path / "evil.py"
    if case.rng.random() < 0.25:
        path.write_bytes(case.rng.choice(FILES))
    else:
        names = case.rng.sample([name for name in OPTIONS if name not in UNTRIED], case.rng.choice((1, 2)))
        path.write_text("\n".join(f"{name} = {case.rng.choice(LITERALS)}" for name in names))
    return path.name


def begins(case, words):
    """A run that ends, or that trains on and is killed: recovered. Refused: in one line."""
    child = case.start("train.py", words)
    child.wait_while(lambda: "iterations 0 to" not in (child.io / "out").read_text(errors="replace"), PATIENCE)
    if child.status is None and "iterations 0 to" not in (child.io / "out").read_text(errors="replace"):
        child.kill()
        raise Wrong(f"neither begins nor ends in {PATIENCE} s: {child.command[-300:]}{config_of(case)}")
    child.wait_while(lambda: True, FAR)
    if child.status is None:
        child.kill()
        return "recovered"
    return judged(case, child, fine=(0, 3))


def judged(case, child, fine):
    try:
        return "refused" if outcome(child, fine) == "refused" else "recovered"
    except Wrong as wrong:
        kind = str(wrong).partition(":")[0]
        lines = child.err.strip().splitlines() or [""]
        raise Wrong(f"{kind}: {lines[-1][:150]}: {child.command[-300:]}{config_of(case)}") from None


def config_of(case):
    path = case.path / "evil.py"
    return f"; evil.py: {path.read_bytes()[:200]}" if path.is_file() else ""


def sweep(case):
    """One random command line of sweep.py, which says what it would do, or is refused."""
    (case.path / "tiny.py").write_text(template.STUDY)
    name = case.rng.choice([*SWEPT])
    child = case.start("sweep.py", ["tiny.py", f"{name}={case.rng.choice(SWEPT[name])}", "--dry-run"])
    child.wait_while(lambda: True, PATIENCE)
    if child.status is None:
        child.kill()
        raise Wrong(f"no word in {PATIENCE} s: {child.command[:200]}")
    return judged(case, child, fine=(0,))


# servers

BODY = bytes(range(256)) * 40
LATER = BODY[::-1]  # another version of the file
SHA256 = hashlib.sha256(BODY).hexdigest()
HALF = len(BODY) // 2
QUICK = {"TIMEOUT": 0.5, "DEADLINE": 2, "SLOWEST": 5_000}  # in place of download's own, where it has them
HANGS = 40  # seconds after which a download hangs: three attempts at each of two mirrors, on a busy machine


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /good with the file, and /bad as the attack has it; times: how often that was asked."""

    def do_GET(self):
        self.server.times += self.path == "/bad"
        self.close_connection = True
        with contextlib.suppress(OSError):
            whole(self) if self.path == "/good" else self.server.attack(self)

    def send(self, raw):
        self.wfile.write(raw)
        self.wfile.flush()

    def head(self, status=200, **headers):
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.send(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode("latin-1"))

    def slowly(self, parts, pause=0.05):
        for part in parts:
            self.send(part)
            if self.server.stopped.wait(pause):
                return

    def log_message(self, *_):
        """Says nothing."""


def whole(handler, body=BODY, **headers):
    handler.head(Content_Length=len(body), **headers)
    handler.send(body)


def answers(status, body=b"no", **headers):
    def attack(handler):
        handler.head(status, Content_Length=len(body), **headers)
        handler.send(body)

    return attack


def raw(*parts, forever=b"", pause=0.05):
    """Parts, then one more again and again, and the connection's end."""

    def attack(handler):
        for part in parts:
            handler.send(part)
        if forever:
            handler.slowly((forever for _ in range(100_000)), pause)

    return attack


def byte_by_byte(before, after=b""):
    def attack(handler):
        handler.send(before)
        handler.slowly(after[i : i + 1] for i in range(len(after)))

    return attack


def breaks(then, first=BODY[:HALF], **headers):
    """Half of the file, a broken connection, and then another behaviour on the continuation."""

    def attack(handler):
        if handler.server.times > 1:
            return then(handler)
        handler.head(Content_Length=len(BODY), **headers)
        handler.send(first)

    return attack


def resets(handler):
    import socket
    import struct

    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def part(start, body, **headers):
    return answers(206, body, Content_Range=f"bytes {start}-{start + len(body) - 1}/{len(BODY)}", **headers)


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LINES = b"".join(b"X-%d: y\r\n" % n for n in range(1000))
ADDRESSES = (
    *("http://", "http:///", "http://[", "http://[::1", "http://a b/", "//", "http://:99999/", "http://127.0.0.1:x/"),
    *("ftp://x/", "file:///etc/passwd", "javascript:1", "http://\xff/", "http://" + "a" * 70 + "/", "http://.a/", ""),
    *("/bad", "http://127.0.0.1:9/", "http://*/", "http://a..b/", "gopher:1", "http://127.0.0.1:-1/"),
)
ATTACKS = (
    *(answers(status) for status in (204, 206, 300, 304, 400, 401, 403, 404, 408, 416, 418, 429, 451, 500, 503, 599)),
    *(answers(302, Location=address) for address in ADDRESSES),
    *(answers(200, body) for body in (b"", BODY[:-1], BODY + b"x", LATER, b"<!DOCTYPE html><html>sign in", b"\0" * len(BODY))),
    *(answers(200, gzip.compress(BODY), Content_Encoding="gzip"), answers(200, BODY, Content_Encoding="gzip")),
    *(resets, raw(b""), raw(b"\0" * 1000), raw(b"HTTP/9.9 abc\r\n\r\n"), raw(b"220 ftp ready\r\n"), raw(OK + b"\r\n", BODY)),
    *(raw(OK + b"\r\n", forever=b"x" * 60_000, pause=0), raw(OK + b"\r\n", forever=b"x")),
    *(raw(forever=b"HTTP/1.1 100 Continue\r\n\r\n", pause=0.01), raw(OK, forever=b"X: y\r\n"), raw(OK + LINES * 100)),
    *(byte_by_byte(b"", OK * 100), byte_by_byte(OK, b"X: " + b"y" * 10_000), byte_by_byte(CHUNKED, b"0" * 10_000)),
    *(raw(CHUNKED + b"-5\r\nxx"), raw(CHUNKED + b"zz\r\n"), raw(CHUNKED + b"ffffffffffff\r\nx"), raw(CHUNKED, forever=b"1\r\nx\r\n")),
    *(raw(CHUNKED + b"10\r\n" + BODY[:16] + b"\r\n"), raw(OK + b"Content-Length: -5\r\n\r\nx"), raw(OK + b"Content-Length: x\r\n\r\nx")),
    *(answers(200, BODY, Content_Length="1"), raw(OK + b"Content-Length: 99999999999999\r\n\r\n", BODY)),
    *(breaks(part(HALF + 1, BODY[HALF + 1 :])), breaks(part(0, BODY)), breaks(part(HALF, LATER[HALF:], ETag='"2"'), ETag='"1"')),
    *(breaks(part(HALF, BODY[HALF:] + b"x")), breaks(answers(416)), breaks(resets), breaks(whole), breaks(answers(206, BODY))),
    *(breaks(part(HALF, BODY[HALF:])), breaks(answers(200, LATER)), breaks(resets, first=LATER[:HALF])),
)


def serve(case):
    """A bad mirror before a good one, or alone, of a file of known hash or not; a server for each number."""
    number = int(case.home.name.rpartition("-")[2])
    attack = ATTACKS[number * len(ATTACKS) // 60 % len(ATTACKS)] if number < 60 else case.rng.choice(ATTACKS)
    alone, known = case.rng.random() < 0.2, case.rng.random() < 0.75
    target = case.path / "got"
    child = case.start("train.py", [], before=functools.partial(fetch, attack, alone, known, target))
    try:
        verdict = outcome(child.wait(HANGS))
    except Wrong as wrong:
        raise Wrong(f"{wrong} ({'one mirror' if alone else 'two mirrors'}, hash {'known' if known else 'unknown'})") from None
    left = sorted(path.name for path in case.path.iterdir())
    if verdict == "refused":
        if left or not alone:
            raise Wrong(f"a refusal: with {'files left, ' + str(left) if left else 'a good mirror'}: {child.err.strip()[:300]}")
    elif left != ["got"] or (known and target.read_bytes() != BODY):
        raise Wrong(f"a wrong file got in: {left}")
    elif not known and target.read_bytes() not in (BODY, LATER) and mixed(target.read_bytes()):
        raise Wrong("two versions are mixed: in a file of unknown hash")
    return "refused" if verdict == "refused" else "recovered"


def mixed(found):
    return found[:HALF] == BODY[:HALF] and found != BODY and len(found) == len(BODY)


def fetch(attack, alone, known, target):
    """In the child: serve, download, and end as a script does."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    server.attack, server.times, server.stopped = attack, 0, threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    for name, value in QUICK.items():
        if hasattr(download, name):
            setattr(download, name, value)
    download.time.sleep = lambda _: None
    urls = [f"http://127.0.0.1:{server.server_address[1]}/{name}" for name in (("bad",) if alone else ("bad", "good"))]
    known = (SHA256, len(BODY)) if known else (None, None)
    run_script(lambda _: download.fetch(urls, known[0], target, size=known[1], most=1 << 20) and 0)
