"""Downloads and archives that go wrong, against a real server on loopback: each refused with its reason, and
nothing half-made left."""

import contextlib
import hashlib
import http.server
import io
import itertools
import re
import threading
import time
import zipfile
from types import SimpleNamespace

import pytest
from conftest import TEXT

from config import ROOT, UserError
from data import build, connection, download, unzip
from data.corpus import Corpus, corpus_folder
from data.text8 import prepare as text8
from data.text_char import prepare as text_char

BODY = b"the text that was asked for\n" * 100
SHA256 = hashlib.sha256(BODY).hexdigest()
SIZE = len(BODY)
HALF = SIZE // 2
PAGE = b"\n<!DOCTYPE html><html><body>sign in</body></html>"
NOBODY = "http://127.0.0.1:9/nobody"  # the discard port: no connection


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers a path by the function of that name in `server.replies`, with the path's request count."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        times = sum(path == self.path for path, _ in self.server.asked)
        with contextlib.suppress(OSError):  # the client goes early, as from some of these it should
            self.server.replies[self.path](self, times)
        self.close_connection = True

    def answer(self, body, status=200, length=None, **headers):
        """length: the Content-Length, the body's own unless given; False for none."""
        self.send_response(status)
        if length is not False:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """A server on loopback. `replies`: {path: function(handler, times asked)}; `asked`: [(path, Range)]."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        server.replies, server.asked, server.stopped = {"/good": whole}, [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        yield server
        server.stopped.set()
        server.shutdown()


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """The waits between attempts, which the tests do not wait."""
    waits = []
    monkeypatch.setattr(download.time, "sleep", waits.append)
    return waits


def reply(body=BODY, status=200, **answer):
    return lambda handler, times: handler.answer(body, status, **answer)


def in_turn(*replies):
    """The first reply to the first request and so on, the last one to all others."""
    return lambda handler, times: replies[min(times, len(replies)) - 1](handler, times)


whole, failing, truncated = reply(), reply(b"", 500), reply(BODY[:HALF], length=SIZE)


def stalled(handler, times):
    truncated(handler, times)
    handler.server.stopped.wait(20)


def pouring(start, more, wait=0.02):
    """A reply that begins with some bytes and goes on with others for 20 s, with waits between them."""

    def pour(handler, times):
        handler.wfile.write(start)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            handler.wfile.write(more)
            if wait:
                handler.server.stopped.wait(wait)
        handler.server.poured = True

    return pour


def endless(handler, times, status=200, **headers):
    """Bytes until the client goes, 64 MB at most."""
    handler.answer(b"", status, length=False, **headers)
    for _ in range(1024):
        handler.wfile.write(bytes(1 << 16))
    handler.server.poured = True


def rest(handler, times, body=BODY, shift=0):
    """What was asked for by its range; shift: so many bytes later."""
    start = int(re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"])[1]) + shift
    handler.answer(body[start:], 206, Content_Range=f"bytes {start}-{SIZE - 1}/{SIZE}")


OK, CHUNKED = b"HTTP/1.1 200 OK\r\n", b"Transfer-Encoding: chunked\r\n\r\n"
SLOW = {
    "stalled": stalled,
    "trickling": pouring(OK + b"Content-Length: %d\r\n\r\n" % SIZE, b"x"),
    "trickling without a length": pouring(OK + b"\r\n", b"x"),
    "trickling status": pouring(b"HTTP/1.1 200 ", b"O"),
    "trickling header": pouring(OK + b"X: ", b"x"),
    "trickling redirect": reply(b"", 302, Location="/trickling"),
    "headers": pouring(OK, b"X: x\r\n", 0.1),
    "continues": pouring(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99, 0),
    "trickling chunk's length": pouring(OK + CHUNKED, b"0"),
    "small chunks": pouring(OK + CHUNKED, b"1\r\nx\r\n"),
    "trailers": pouring(OK + CHUNKED + b"0\r\n", b"X: x\r\n" * 99, 0),
}
BAD = {  # name: (reply, its reason, how often it is asked)
    "missing": (reply(b"", 404), "HTTP 404", 1),
    **{name: (answer, "slower than", 3) for name, answer in SLOW.items()},
    "truncated": (truncated, f"the connection broke after {HALF:,} bytes", 3),
    "understated": (reply(length=HALF), f"{HALF:,} bytes where the file has {SIZE:,}", 3),
    "overstated": (reply(BODY + b"!"), f"more than {SIZE:,} bytes", 1),
    "large page": (reply(b"<HTML>" + bytes(2 * SIZE), length=False), "HTML", 1),
    "circular": (reply(b"", 302, Location="/bad"), "TooManyRedirects", 11),
    "endless": (endless, f"more than {SIZE:,} bytes", 1),
    "endless redirect": (lambda *a: endless(*a, status=302, Location="/missing"), "HTTP 404", 1),
    **{
        f"redirect to {address}": (reply(b"", 302, Location=address), "a malformed address", 1)
        for address in ("http://[::1", "http://[x]:99999999/", f"http://{'a' * 99}.b/")
    },
    "redirect to gopher": (reply(b"", 302, Location="gopher://a/"), "InvalidSchema", 1),
    "part unasked": (reply(BODY[:HALF], 206, Content_Range=f"bytes 0-{HALF - 1}/{SIZE}"), "another part", 3),
    "another file": (reply(BODY[::-1]), "SHA-256", 1),
    "half another": (in_turn(truncated, reply(BODY[::-1])), "SHA-256", 2),
}


ENDLESS_HEADERS = ("continues", "trailers")  # Python 3.14 gives up on them by itself
CONTINUABLE = {  # something has come that may be the beginning of the file
    *("stalled", "trickling", "trickling without a length", "small chunks", "truncated", "understated"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_mirror_is_refused_with_its_reason_and_a_good_one_used(server, tmp_path, monkeypatch, name):
    answer, reason, times = BAD[name]
    monkeypatch.setattr(download, "TIMEOUT", 0.25 if name in SLOW else 30)
    server.replies |= {"/bad": answer, "/missing": reply(b"", 404), "/trickling": SLOW["trickling header"]}
    with pytest.raises(UserError) as error:
        download.fetch([server.url + "/bad", NOBODY], SHA256, tmp_path / "input.txt", size=SIZE)
    said = str(error.value)
    reasons = [reason, *(("no connection", "the connection broke") if name in ENDLESS_HEADERS else ())]
    assert re.search(rf"{server.url}/bad \(([^;]*)({'|'.join(map(re.escape, reasons))})", said)
    assert all(words in said for words in (f"{NOBODY} (no connection", "--source=PATH"))
    assert "\n" not in said
    left = [".input.txt.part"] if name in CONTINUABLE else []
    assert [path.name for path in tmp_path.iterdir()] == left, "nothing half-made is left, but to go on from"
    assert sum(path == "/bad" for path, _ in server.asked) == times
    assert not hasattr(server, "poured"), "an endless body is left before its end"
    monkeypatch.setattr(download, "TIMEOUT", 30)
    server.replies["/bad"] = reply(b"", 404)
    urls = [server.url + "/bad", server.url + "/good"]
    path, origin = download.fetch(urls, SHA256, tmp_path / "input.txt", size=SIZE)
    assert (path.read_bytes(), origin) == (BODY, server.url + "/good")
    assert [file.name for file in tmp_path.iterdir()] == ["input.txt"]


@pytest.mark.parametrize(
    ("rate", "seconds"), [(download.SLOWEST, 101), (download.SLOWEST - 1, download.TIMEOUT + 1)]
)
def test_a_download_may_last_long_where_each_time_out_brings_its_bytes(monkeypatch, rate, seconds):
    """By a clock of the test's own: each second brings a piece, and the watch looks once."""
    clock, looks, file = SimpleNamespace(now=0), itertools.cycle([False, True]), io.BytesIO()
    monkeypatch.setattr(connection, "time", SimpleNamespace(monotonic=lambda: clock.now))
    session = connection.Patience(download.TIMEOUT)
    session.over = SimpleNamespace(wait=lambda _: next(looks))

    def read1(*_, **__):
        clock.now += 1
        session.watch()
        return bytes(rate)

    slow = pytest.raises(download.DownloadError, match="slower than")
    with contextlib.nullcontext() if rate == download.SLOWEST else slow:
        download.copy(SimpleNamespace(read1=read1), file, 100 * rate, 0, session, "it")
    assert clock.now == seconds


def test_a_file_of_the_users_own_is_not_overwritten(server, tmp_path):
    """nanoGPT's users keep their text in a corpus's input.txt."""
    own = tmp_path / "input.txt"
    own.write_text("my own novel")
    for source in (None, server.url + "/good"):
        with pytest.raises(
            UserError, match=r"input\.txt has another SHA-256 .* rename it; .*text_char/prepare\.py FILE"
        ):
            download.fetch([server.url + "/good"], SHA256, own, source, SIZE)
    text_char.main([str(own), f"--source={server.url}/good"], tmp_path)
    assert own.read_text() == "my own novel"
    assert Corpus(str(tmp_path)).meta["source"]["from"] == f"input.txt {server.url}/good"


@pytest.mark.parametrize("proxy", ["socks5://localhost:9", "localhost:9x"])
def test_a_proxy_that_cannot_be_used_is_not_the_mirrors_fault(tmp_path, monkeypatch, proxy):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(UserError, match="the environment's proxy: "):
        download.fetch(["http://a.invalid/x"], SHA256, tmp_path / "input.txt", size=SIZE)


def interrupt(seconds):
    raise KeyboardInterrupt


def test_a_killed_download_goes_on_in_another_process(server, tmp_path, monkeypatch):
    target = tmp_path / "input.txt"
    server.replies["/file"] = truncated
    with monkeypatch.context() as patch:
        patch.setattr(download.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            download.fetch([server.url + "/file"], SHA256, target, size=SIZE)
    server.replies["/file"] = rest
    for _ in range(2):
        download.fetch([server.url + "/file"], SHA256, target, size=SIZE)
        assert target.read_bytes() == BODY
        assert [asked for _, asked in server.asked] == [None, f"bytes={HALF}-"]
        assert [file.name for file in tmp_path.iterdir()] == ["input.txt"]
        target.rename(tmp_path / ".input.txt.part")  # killed before it had its name
    (tmp_path / ".input.txt.part").write_bytes(BODY[::-1])
    server.replies["/file"] = whole
    assert download.fetch([server.url + "/file"], SHA256, target, size=SIZE)[0].read_bytes() == BODY
    victim = tmp_path / "other.txt"
    victim.write_text("other")
    target.unlink()
    (tmp_path / ".input.txt.part").symlink_to(victim)
    download.fetch([server.url + "/file"], SHA256, target, size=SIZE)
    assert (victim.read_text(), target.is_symlink()) == ("other", False)


CONTINUED = {  # name: (replies after a broken one, whether each is asked for the rest)
    "the rest": ([rest], [True]),
    "a part, the rest": ([lambda *arguments: rest(*arguments, body=BODY[:-9]), rest], [True, True]),
    "the whole": ([whole], [True]),
    "of another version": ([lambda *arguments: rest(*arguments, body=b"?" * SIZE), whole], [True, False]),
    "no such range": ([reply(b"", 416), whole], [True, False]),
    "another part": ([lambda *arguments: rest(*arguments, shift=1), whole], [True, False]),
}


@pytest.mark.parametrize("name", CONTINUED)
def test_a_broken_download_goes_on_from_where_it_broke(server, tmp_path, name):
    replies, ranged = CONTINUED[name]
    server.replies["/file"] = in_turn(truncated, *replies)
    download.fetch([server.url + "/file"], SHA256, tmp_path / "input.txt", size=SIZE)
    assert (tmp_path / "input.txt").read_bytes() == BODY
    starts = [asked and int(asked[6:-1]) for _, asked in server.asked]
    assert starts[:2] == [None, HALF]
    assert [start is not None for start in starts[1:]] == ranged
    assert [file.name for file in tmp_path.iterdir()] == ["input.txt"]


def test_certificates_that_are_not_there_are_the_mirrors_failure(server, tmp_path, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    urls = ["https://127.0.0.1:9/", server.url + "/good"]
    assert download.fetch(urls, SHA256, tmp_path / "input.txt")[1] == urls[1]
    with pytest.raises(UserError, match=r"^[^\n]*none\.pem[^\n]*$"):
        download.fetch(urls[:1], SHA256, tmp_path / "other.txt")


def test_faults_are_tried_again_after_longer_waits(server, tmp_path, waits):
    server.replies = {"/gone": reply(b"", 404), "/broken": failing, "/late": in_turn(failing, failing, whole)}
    urls = [server.url + path for path in server.replies]
    _, origin = download.fetch(urls, SHA256, tmp_path / "input.txt")
    assert origin == server.url + "/late"
    assert [path for path, _ in server.asked] == ["/gone"] + ["/broken"] * 3 + ["/late"] * 3
    assert waits == [1, 2, 1, 2]
    download.fetch(urls, SHA256, tmp_path / "input.txt")
    assert len(server.asked) == 7, "a file that is there already is not downloaded again"


def test_a_source_may_be_a_url_and_is_checked_too(server, tmp_path, capsys):
    part = f"bytes {HALF}-{SIZE - 1}/{SIZE}"
    other_half = reply(BODY[HALF:].upper(), 206, ETag='"other"', Content_Range=part)
    server.replies |= {
        "/endless": endless,
        "/page": reply(PAGE),
        "/broken": in_turn(truncated, other_half, whole),
    }
    path, _ = download.fetch([NOBODY], SHA256, tmp_path / "input.txt", server.url + "/good")
    assert path.read_bytes() == BODY
    assert SHA256 not in capsys.readouterr().out
    text_char.main(["--source", server.url + "/broken"], tmp_path / "c")
    assert re.search(f"/broken: no SHA-256 is known .*{SHA256}\n", capsys.readouterr().out)
    assert server.asked[1:] == [("/broken", None)] * 3, "without a hash it begins anew, and mixes no versions"
    server.replies["/part"] = reply(text8.TEXT8.opening * 9)
    text8.main(["--partial", f"--source={server.url}/part"], tmp_path / "d")
    assert not (tmp_path / "d" / "text8.source").exists(), "what came is removed when it is prepared"
    assert Corpus(str(tmp_path / "c")).meta["source"] == {"from": f"{server.url}/broken", "sha256": SHA256}
    for name, reason in (("/endless", "more than 5,000 bytes"), ("/page", "HTML")):
        with pytest.raises(UserError, match=reason):
            download.fetch([], None, tmp_path / "other.txt", server.url + name, most=5000)
    assert not (tmp_path / "other.txt").exists()


@pytest.mark.parametrize("name", ["shakespeare_char", "enwik8"])
def test_a_corpus_that_prepares_itself_says_what_to_do_without_a_network(tmp_path, monkeypatch, name):
    def offline(*_):
        raise download.DownloadError("no connection")

    folder = tmp_path / name
    folder.mkdir()
    (folder / "prepare.py").write_text((ROOT / "data" / name / "prepare.py").read_text())
    monkeypatch.setattr(download, "download", offline)
    with pytest.raises(UserError, match=r"^[^\n]*prepare\.py --source=PATH[^\n]*quickstart[^\n]*$"):
        corpus_folder(str(folder))
    assert {file.name for file in folder.iterdir()} == {"prepare.py", "lock"}


# Archives.

INSIDE = TEXT.encode()
STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def zip_of(*names, content=INSIDE, method=DEFLATED):
    """The bytes of a zip of such members, each of this content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


BAD_ZIPS = {  # name: (content, its reason)
    "other names": (zip_of("corpus/text", "../text", "/text"), "'corpus/text'"),
    "nothing": (zip_of(), "none"),
    "twice": (zip_of("text", "next").replace(b"next", b"text"), "has 2"),
    "too long": (zip_of("text", content=bytes(1_000_000)), "1,000,000 bytes"),
    "bzip2": (zip_of("text", method=zipfile.ZIP_BZIP2), "deflate"),
    "cut": (zip_of("text")[:-30], "cannot be read"),
    "changed": (zip_of("text", method=STORED).replace(b"Cleo", b"Clio", 1), "CRC"),
    "garbled": (zip_of("text")[:60] + b"\xff" * 40 + zip_of("text")[100:], "cannot be read"),
}


@pytest.mark.parametrize("name", BAD_ZIPS)
def test_a_bad_zip_is_refused_with_its_reason(tmp_path, name):
    content, reason = BAD_ZIPS[name]
    (tmp_path / "text.zip").write_bytes(content)
    with pytest.raises(UserError, match=rf"^{tmp_path}/text\.zip: [^\n]*{reason}[^\n]*$"):
        list(unzip.read_text(tmp_path / "text.zip", "text", 100_000))
    assert [file.name for file in tmp_path.iterdir()] == ["text.zip"], "nothing is unpacked"


@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("chunk", [100, 1 << 22])
def test_a_zip_gives_the_bytes_of_its_text(tmp_path, monkeypatch, method, chunk):
    monkeypatch.setattr(build, "CHUNK", chunk)
    for content in (zip_of("other", "text", "__MACOSX/text", method=method), INSIDE):
        (tmp_path / "file").write_bytes(content)
        pieces = list(unzip.read_text(tmp_path / "file", "text", len(INSIDE)))
        assert b"".join(pieces) == INSIDE
        assert max(map(len, pieces)) <= chunk
        with pytest.raises(UserError, match="99"):
            list(unzip.read_text(tmp_path / "file", "text", 99))
