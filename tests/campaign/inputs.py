"""Attacks from outside: command lines and config files of evil values, and servers that misbehave."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import socket
import struct
import threading

import template
from lab import Wrong, outcome

from config import OPTIONS, run_script  # of the tree, whose place lab has set
from data import download

# configs

PATIENCE = 10  # seconds in which a command begins or is refused, on a busy machine
FAR = 2  # seconds that a run is watched once it has begun
split = str.split
NUMBERS = split(
    "nan -nan inf -inf -1 -0 0 1 2 3 17 0.5 1.5 1e9 1e400 1e-400 1_000 0x10 10**5 1000000 1000000000 2147483647"
    f" 2147483648 -9223372036854775809 ٣ {'9' * 18} {'9' * 5000} 1{'0' * 400}"
)
WORDS = [
    *("", " ", "\n", "a" * 300, "a/" * 3000),
    *split(
        "x é \udcff ~nosuchuser/x ~ ~/x . /dev/null /dev/null/x /proc/self/mem /nonexistent/x True False"
        " None [] {} cpu auto off cuda cuda:99 mps float16 bfloat16 corpus ./corpus ./source run"
    ),
]
LITERALS = split(
    r"10**5000 -10**5000 float('nan') float('inf') -1 0 1 2 0.5 1e308 None True '' 'x' '\0' 'x\0y' '\ud800' 1j"
    " '~nosuchuser/x' b'x' [1] {} (1,) range(3) print lambda:1 ... int 2**31 2**63 10**9 'a'*10**6 object()"
    " type('T',(int,),{})(2)"
)
FILES = (
    *(
        b"",
        b"\xef\xbb\xbfseed = 2\n",
        b"seed = '\xe9'\n",
        b"seed = 1\0\n",
        b"seed =\n",
        b"raise SystemExit(3)\n",
    ),
    *(b"raise KeyError\n", b"import nosuch\n", b"(" * 500, b"globals()['a b'] = 1\n", b"no_option = 1\n"),
    *(b"def f(): return f()\nf()\n", b"seed: int\n", b"1 / 0\n", b"import os\n_x = 1\n"),
)
STRANGE = ("--", "-x", "--seed", "--=1", "-", "", "--seed 2", "x=y", "--no-such=1", "\udcff")
SWEPT = {
    "--seeds": split(f"1-1000000000 {'9' * 5000} 1- -1 a 1,1 5-1 {'1' * 30} 1-3 ٣ 1-3,9-99999999"),
    "--time-budget": split("nan inf -1 0 1e400 x 5"),
    "--jobs": split(f"0 -1 nan x 2 1000000000 {'9' * 5000}"),
    "--arms": split(", x noise baseline,baseline \udcff é"),
    "--n_embd": ["1000000000", "64"],
    "--out_dir": ["x"],
}
SIZES = split(
    "n_embd n_layer n_head block_size batch_size gradient_accumulation_steps max_iters eval_tokens seed"
)
PATHS = ("dataset", "init_from", "out_dir")
UNTRIED = ("plot",)  # draws in a process of its own


def configure(case):
    """One random command line; it begins, or is refused in one line, soon."""
    draw = case.rng.random()
    if draw < 0.1:
        return sweep(case)
    words = template.words(max_iters=2, warmup_iters=0, eval_interval=2)
    if draw < 0.4:
        words = [*words[:5], write_config(case), *words[5:]]
    names = draw_names(case.rng, 3)
    words += [f"--{name}={text(case.rng, name)}" for name in names if draw < 0.1 or draw > 0.3]
    if draw > 0.97:
        words.append(case.rng.choice(STRANGE))
    return begins(case, words)


def draw_names(rng, most):
    """Some options, sizes and paths more often than the others."""
    group = rng.choice((SIZES, PATHS, [*OPTIONS], [*OPTIONS]))
    return rng.sample([name for name in group if name not in UNTRIED], rng.randint(1, most))


def text(rng, name):
    choices = OPTIONS[name].choices
    likely = choices or (WORDS if str in OPTIONS[name].kinds else NUMBERS)
    return rng.choice(likely if rng.random() < 0.7 else (*NUMBERS, *WORDS))


def write_config(case):
    path = case.path / "evil.py"
    if case.rng.random() < 0.25:
        path.write_bytes(case.rng.choice(FILES))
    else:
        names = draw_names(case.rng, 2)
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
QUICK = {"TIMEOUT": 1, "DEADLINE": 3}  # in place of download's own, where it has them
HANGS = 60  # seconds after which a download hangs: three attempts at each of two mirrors, on a busy machine


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
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def part(start, body, **headers):
    return answers(206, body, Content_Range=f"bytes {start}-{start + len(body) - 1}/{len(BODY)}", **headers)


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LINES = b"".join(b"X-%d: y\r\n" % n for n in range(1000))
SLOW_HEADER, ENDLESS = b"X: " + b"y" * 10_000, b"HTTP/1.1 100 Continue\r\n\r\n"
STATUSES = (204, 206, 300, 304, 400, 401, 403, 404, 408, 416, 418, 429, 451, 500, 503, 599)
ADDRESSES = [
    *("", "http://a b/"),
    *split(
        "http:// http:/// http://[ http://[::1 // http://:99999/ http://127.0.0.1:x/ ftp://x/ file:///etc/passwd"
        f" javascript:1 http://\xff/ http://{'a' * 70}/ http://.a/ /bad http://127.0.0.1:9/ http://*/ http://a..b/"
        " http://127.0.0.1:-1/"
    ),
]
BODIES = (b"", BODY[:-1], BODY + b"x", LATER, b"<!DOCTYPE html><html>sign in", b"\0" * len(BODY))
ATTACKS = (
    *map(answers, STATUSES),
    *(answers(302, Location=address) for address in ADDRESSES),
    *(answers(200, body) for body in BODIES),
    *(answers(200, body, Content_Encoding="gzip") for body in (gzip.compress(BODY), BODY)),
    *(resets, raw(), raw(b"\0" * 1000), raw(b"HTTP/9 x\r\n\r\n"), raw(b"220 ftp\r\n"), raw(OK, b"\r\n", BODY)),
    *(raw(OK, b"\r\n", forever=b"x" * 60_000, pause=0), raw(OK, b"\r\n", forever=b"x"), raw(OK, LINES * 100)),
    *(raw(forever=ENDLESS, pause=0.01), raw(OK, forever=b"X: y\r\n"), raw(CHUNKED, forever=b"1\r\nx\r\n")),
    *(byte_by_byte(b"", OK * 100), byte_by_byte(OK, SLOW_HEADER), byte_by_byte(CHUNKED, b"0" * 10_000)),
    *(raw(CHUNKED, size + b"\r\n" + BODY[:16]) for size in (b"-5", b"zz", b"ffffffffffff", b"10", b"")),
    *(raw(OK, b"Content-Length: " + size + b"\r\n\r\n", BODY) for size in (b"-5", b"x", b"1", b"9" * 15, b"")),
    *map(breaks, (resets, whole, answers(416), answers(206, BODY), answers(200, LATER), part(0, BODY))),
    *(breaks(part(HALF + more, BODY[HALF + more :])) for more in (-1, 0, 1)),
    *(breaks(part(HALF, LATER[HALF:], ETag='"2"'), ETag='"1"'), breaks(part(HALF, BODY[HALF:] + b"x"))),
    breaks(resets, first=LATER[:HALF]),
)  # fmt: skip


def serve(case):
    """A bad mirror before a good one, or alone, of a file of known hash or not; a server for each number."""
    attack = ATTACKS[case.index % len(ATTACKS)]
    alone, known = case.rng.random() < 0.2, case.rng.random() < 0.75
    target = case.path / "got"
    child = case.start("train.py", [], before=functools.partial(fetch, attack, alone, known, target))
    try:
        verdict = outcome(child.wait(HANGS))
    except Wrong as wrong:
        how = f"{'one mirror' if alone else 'two mirrors'}, hash {'known' if known else 'unknown'}"
        raise Wrong(f"{wrong} ({how})") from None
    left = sorted(path.name for path in case.path.iterdir())
    if verdict == "refused":
        if left or not alone:
            why = f"with files left, {left}" if left else "with a good mirror"
            raise Wrong(f"a refusal: {why}: {child.err.strip()[:300]}")
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
    server.handle_error = lambda *_: None
    server.daemon_threads, server.block_on_close = True, False
    server.attack, server.times, server.stopped = attack, 0, threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    for name, value in QUICK.items():
        if hasattr(download, name):
            setattr(download, name, value)
    download.time.sleep = lambda _: None
    mirrors = ["bad"] if alone else ["bad", "good"]
    urls = [f"http://127.0.0.1:{server.server_address[1]}/{name}" for name in mirrors]
    known = (SHA256, len(BODY)) if known else (None, None)
    run_script(lambda _: download.fetch(urls, known[0], target, size=known[1], most=1 << 20) and 0)
