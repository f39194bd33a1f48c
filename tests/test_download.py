"""Downloads and archives that go wrong, against a real server on loopback: each refused with its reason, and
nothing half-made left. Every request of these tests is answered by `Handler`."""

import contextlib
import hashlib
import http.server
import io
import re
import threading
import time
import zipfile

import pytest
from conftest import TEXT

from config import ROOT, UserError
from data import download
from data.corpus import Corpus, corpus_folder
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
        self.server.headers.append(self.headers)
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
        server.replies, server.asked, server.headers, server.stopped = {}, [], [], threading.Event()
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


def sleep(handler, seconds):
    handler.server.stopped.wait(seconds)


def whole(handler, times):
    handler.answer(BODY)


def missing(handler, times):
    handler.answer(b"", 404)


def failing(handler, times):
    handler.answer(b"", 500)


def stalled(handler, times):
    handler.answer(BODY[:HALF], length=SIZE)
    sleep(handler, 20)


def silent(handler, times):
    sleep(handler, 20)


def trickling(handler, times):
    handler.answer(b"", length=SIZE)
    for byte in BODY:
        handler.wfile.write(bytes([byte]))
        sleep(handler, 0.02)


def truncated(handler, times):
    handler.answer(BODY[:HALF], length=SIZE)


def understated(handler, times):
    handler.answer(BODY, length=HALF)


def overstated(handler, times):
    handler.answer(BODY + b"!", length=SIZE + 1)


def no_number(handler, times):
    handler.answer(BODY, length="many")


def web_page(handler, times):
    handler.answer(PAGE)


def large_web_page(handler, times):
    handler.answer(b"<HTML>" + bytes(2 * SIZE), length=False)


def circular(handler, times):
    handler.answer(b"", 302, Location=handler.path)


def endless_redirect(handler, times):
    handler.answer(b"", 302, length=False, Location="/endless")
    pour(handler)


def endless(handler, times):
    handler.answer(b"", length=False)
    pour(handler)


def pour(handler):
    """Bytes until the client goes, in a test of whether it goes: 64 MB at most."""
    for _ in range(1024):
        handler.wfile.write(bytes(1 << 16))
    handler.server.poured = True


def compressed(handler, times):
    handler.answer(BODY, Content_Encoding="gzip")


def no_content(handler, times):
    handler.answer(b"", 204)


def other_part(handler, times):
    handler.answer(BODY[:HALF], 206, Content_Range=f"bytes 0-{HALF - 1}/{SIZE}")


def other_file(handler, times):
    handler.answer(BODY[::-1])


def broken_then(reply, **headers):
    """Breaks off in the middle, and answers the next request by `reply`."""

    def do(handler, times):
        if times == 1:
            handler.answer(BODY[:HALF], length=SIZE, **headers)
        else:
            reply(handler, times)

    return do


def rest(handler, times):
    start = int(re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"])[1])
    handler.answer(BODY[start:], 206, Content_Range=f"bytes {start}-{SIZE - 1}/{SIZE}")


def rest_of_another(handler, times):
    if handler.headers["Range"]:
        handler.answer(b"?" * (SIZE - HALF), 206, Content_Range=f"bytes {HALF}-{SIZE - 1}/{SIZE}")
    else:
        whole(handler, times)


def no_such_range(handler, times):
    if handler.headers["Range"]:
        handler.answer(b"", 416)
    else:
        whole(handler, times)


def third_time(handler, times):
    (whole if times == 3 else failing)(handler, times)


BAD = {  # reply: (its reason, how often it is asked)
    missing: ("HTTP 404", 1),
    failing: ("HTTP 500", 3),
    no_content: ("HTTP 204", 1),
    stalled: (f"nothing came for 0.3 s after {HALF:,} bytes", 3),
    silent: ("nothing came for 0.3 s", 3),
    trickling: ("slower than 5,000 bytes a second", 3),
    truncated: (f"the connection broke after {HALF:,} bytes", 3),
    understated: (f"{HALF:,} bytes where the file has {SIZE:,}", 1),
    overstated: (f"more than {SIZE:,} bytes", 1),
    no_number: ("its Content-Length is 'many'", 1),
    web_page: ("a web page (HTML) in place of the file", 1),
    large_web_page: ("a web page (HTML) in place of the file", 1),
    circular: ("more than 10 redirects", 11),
    endless_redirect: (f"more than {SIZE:,} bytes", 1),
    endless: (f"more than {SIZE:,} bytes", 1),
    compressed: ("sent with Content-Encoding 'gzip'", 1),
    other_part: ("sent another part of the file", 3),
    other_file: (f"{SIZE:,} bytes of another SHA-256", 1),
    broken_then(other_file): (f"{SIZE:,} bytes of another SHA-256", 2),
}


@pytest.mark.parametrize("reply", BAD, ids=lambda reply: reply.__qualname__.split(".")[0])
def test_a_bad_mirror_is_refused_with_its_reason_and_a_good_one_used(server, tmp_path, monkeypatch, reply):
    reason, times = BAD[reply]
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    server.replies = {"/bad": reply, "/endless": endless, "/good": whole}
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        download.fetch([server.url + "/bad", NOBODY], SHA256, tmp_path / "input.txt", size=SIZE)
    said = str(error.value)
    for words in (
        f"{server.url}/bad ({reason}",
        f"{NOBODY} (no connection",
        "--source=PATH",
        "config/quickstart.py",
    ):
        assert words in said
    assert "\n" not in said
    assert not list(tmp_path.iterdir()), "nothing half-made is left"
    assert sum(path == "/bad" for path, _ in server.asked) == times
    assert time.monotonic() - start < 10
    assert not hasattr(server, "poured"), "an endless body is left before its end"

    urls = [server.url + "/bad", server.url + "/good"]
    path, origin = download.fetch(urls, SHA256, tmp_path / "input.txt", size=SIZE)
    assert (path.read_bytes(), origin) == (BODY, server.url + "/good")
    assert [file.name for file in tmp_path.iterdir()] == ["input.txt"]


CONTINUED = {  # reply to the second request: the Ranges asked for
    "by the hash": (broken_then(rest), [None, f"bytes={HALF}-"]),
    "by ETag": (broken_then(rest, ETag='"one"'), [None, f"bytes={HALF}-"]),
    "ignored": (broken_then(whole), [None, f"bytes={HALF}-"]),
    "of another version": (broken_then(rest_of_another), [None, f"bytes={HALF}-", None]),
    "refused": (broken_then(no_such_range), [None, f"bytes={HALF}-", None]),
    "another part": (broken_then(other_part), [None, f"bytes={HALF}-", None]),
}


@pytest.mark.parametrize("name", CONTINUED)
def test_a_broken_download_goes_on_from_where_it_broke(server, tmp_path, name):
    reply, ranges = CONTINUED[name]
    if name == "another part":
        server.replies["/file"] = lambda handler, times: (whole if times == 3 else reply)(handler, times)
    else:
        server.replies["/file"] = reply
    download.fetch([server.url + "/file"], SHA256, tmp_path / "input.txt", size=SIZE)
    assert (tmp_path / "input.txt").read_bytes() == BODY
    assert [asked for _, asked in server.asked] == ranges
    assert server.headers[1]["If-Range"] == ('"one"' if name == "by ETag" else None)
    assert all(headers["Accept-Encoding"] == "identity" for headers in server.headers)
    assert [file.name for file in tmp_path.iterdir()] == ["input.txt"]


@pytest.mark.parametrize(
    ("headers", "if_range"),
    [
        ({}, None),
        ({"ETag": 'W/"weak"'}, None),
        ({"ETag": '"strong"'}, '"strong"'),
        ({"Last_Modified": "Sat, 01 Jan 2000 00:00:00 GMT"}, "Sat, 01 Jan 2000 00:00:00 GMT"),
    ],
)
def test_without_a_hash_only_what_the_server_vouches_for_is_continued(server, tmp_path, headers, if_range):
    second = rest if if_range else whole
    server.replies["/mine"] = broken_then(second, **headers)
    path, _ = download.fetch([], None, tmp_path / "input.txt", server.url + "/mine")
    assert path.read_bytes() == BODY
    assert server.asked[1][1] == (f"bytes={HALF}-" if if_range else None)
    assert server.headers[1]["If-Range"] == if_range


def test_faults_are_tried_again_after_longer_and_longer_waits(server, tmp_path, waits):
    server.replies = {"/gone": missing, "/broken": failing, "/late": third_time}
    urls = [server.url + path for path in server.replies]
    _, origin = download.fetch(urls, SHA256, tmp_path / "input.txt")
    assert origin == server.url + "/late"
    assert [path for path, _ in server.asked] == ["/gone"] + ["/broken"] * 3 + ["/late"] * 3
    assert waits == [1.0, 2.0, 1.0, 2.0]
    download.fetch(urls, SHA256, tmp_path / "input.txt")
    assert len(server.asked) == 7, "a file that is there already is not downloaded again"


def test_a_source_may_be_a_url_and_is_bounded_too(server, tmp_path, monkeypatch):
    server.replies = {"/mine": whole, "/endless": endless}
    path, _ = download.fetch([NOBODY], SHA256, tmp_path / "input.txt", server.url + "/mine")
    assert path.read_bytes() == BODY
    text_char.main(["--source", server.url + "/mine"], tmp_path / "c")
    assert Corpus(str(tmp_path / "c")).meta["source"]["sha256"] == SHA256
    with pytest.raises(UserError, match=r"more than 5,000 bytes"):
        download.fetch([], None, tmp_path / "other.txt", server.url + "/endless", most=5000)
    assert not (tmp_path / "other.txt").exists()


@pytest.mark.parametrize("name", ["shakespeare_char", "enwik8", "text8"])
def test_a_corpus_that_prepares_itself_says_what_to_do_without_a_network(tmp_path, monkeypatch, name):
    def offline(url, *_):
        raise download.DownloadError("no connection, ConnectionError")

    folder = tmp_path / name
    folder.mkdir()
    (folder / "prepare.py").write_text((ROOT / "data" / name / "prepare.py").read_text())
    monkeypatch.setattr(download, "download", offline)
    with pytest.raises(UserError) as error:
        corpus_folder(str(folder))
    for words in ("no connection", "prepare.py --source=PATH", "config/quickstart.py"):
        assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert {file.name for file in folder.iterdir()} == {"prepare.py", "lock"}


# Archives.

INSIDE = TEXT.encode()


def zip_of(*names, content=INSIDE, method=zipfile.ZIP_DEFLATED, mode=0):
    """The bytes of a zip of such members, each of this content and Unix mode."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr, info.create_system = method, mode << 16, 3
            archive.writestr(info, content)
    return buffer.getvalue()


def restated(data, size, wanted):
    """A zip with another uncompressed size in both of its headers."""
    old, new = (n.to_bytes(4, "little") for n in (size, wanted))
    local, central = 22, data.index(b"PK\1\2") + 24  # where the size is
    assert data[local : local + 4] == data[central : central + 4] == old
    return data[:local] + new + data[local + 4 : central] + new + data[central + 4 :]


def encrypted(data):
    """A zip whose headers say that its one member is encrypted."""
    local, central = 6, data.index(b"PK\1\2") + 8  # where the flags are
    return data[:local] + b"\1" + data[local + 1 : central] + b"\1" + data[central + 1 :]


LONG = bytes(1_000_000)
STORED = zipfile.ZIP_STORED
LIMIT = 100_000  # bytes that the text may have

BAD_ZIPS = {  # name: (content, words of the reason)
    "other name": (zip_of("enwik9"), r"one member 'text' and has 0, among 'enwik9'"),
    "nothing": (zip_of(), r"has 0, among none"),
    "folder": (zip_of("corpus/text"), r"'corpus/text'"),
    "up and out": (zip_of("../text"), r"has 0, among '\.\./text'"),
    "absolute": (zip_of("/text"), r"has 0, among '/text'"),
    "twice": (zip_of("text", "next").replace(b"next", b"text"), r"has 2"),
    "link": (zip_of("text", content=b"/etc/passwd", mode=0o120777), r"a link"),
    "device": (zip_of("text", mode=0o060666), r"no regular file"),
    "too long": (zip_of("text", content=LONG), r"of 1,000,000 bytes, and text has 100,000"),
    "bomb": (restated(zip_of("text", content=LONG), 1_000_000, 1000), r"more than the 1,000 bytes it states"),
    "stored bomb": (
        restated(zip_of("text", content=LONG[:9999], method=STORED), 9999, 5),
        r"more than the 5 byt",
    ),
    "bzip2": (zip_of("text", method=zipfile.ZIP_BZIP2), r"other than deflate"),
    "short": (restated(zip_of("text", content=b"ab" * 900), 1800, 1801), r"1,800 of the 1,801 bytes it states"),
    "cut": (zip_of("text")[:-30], r"damaged zip \(File is not a zip file\)"),
    "changed": (zip_of("text", method=STORED).replace(b"Cleo", b"Clio", 1), r"damaged zip \(Bad CRC"),
    "garbled": (zip_of("text")[:60] + b"\xff" * 40 + zip_of("text")[100:], r"damaged zip"),
    "encrypted": (encrypted(zip_of("text")), r"encrypted, or compressed"),
}


@pytest.mark.parametrize("name", BAD_ZIPS)
def test_a_bad_zip_is_refused_with_its_reason(tmp_path, name):
    content, words = BAD_ZIPS[name]
    (tmp_path / "text.zip").write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        sum(map(len, download.read_text(tmp_path / "text.zip", "text", LIMIT)))
    assert str(error.value).startswith(f"{tmp_path / 'text.zip'}: ")
    assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["text.zip"], "nothing is unpacked"


@pytest.mark.parametrize("method", [STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("chunk", [100, 1 << 22])
def test_a_zip_gives_the_bytes_of_its_text(tmp_path, monkeypatch, method, chunk):
    monkeypatch.setattr(download, "CHUNK", chunk)
    for content in (zip_of("other", "text", "__MACOSX/text", method=method), INSIDE):
        (tmp_path / "file").write_bytes(content)
        pieces = list(download.read_text(tmp_path / "file", "text", len(INSIDE)))
        assert b"".join(pieces) == INSIDE
        assert max(map(len, pieces)) <= chunk
    with pytest.raises(UserError, match=r"bytes, and text has 99"):
        list(download.read_text(tmp_path / "file", "text", 99))


def test_a_bomb_is_left_after_one_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "CHUNK", 5000)
    content = restated(zip_of("text", content=LONG), len(LONG), 6000)
    (tmp_path / "text.zip").write_bytes(content)
    pieces = download.read_text(tmp_path / "text.zip", "text", LIMIT)
    assert len(next(pieces)) == 5000
    with pytest.raises(UserError, match="more than the 6,000 bytes"):
        next(pieces)


def test_a_page_is_refused_where_no_hash_is_known_either(server, tmp_path):
    server.replies["/text.txt"] = lambda handler, times: handler.answer(PAGE)
    with pytest.raises(UserError, match=r"web page \(HTML\)"):
        download.fetch([], None, tmp_path / "text.txt", f"http://127.0.0.1:{server.server_port}/text.txt")
    assert not any(tmp_path.iterdir())
