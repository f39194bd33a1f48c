"""Getting a text: from a path, from mirrors, or out of a zip. No torch.

A server or an archive may send anything: only the whole file with the right SHA-256 ever appears under its
name, no more is read than the file has, and nothing is unpacked to the disk.
"""

import hashlib
import re
import stat
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from config import UserError
from data.files import hash_of, replacing, shown

CHUNK = 1 << 22  # bytes of a text held at a time
PIECE = 1 << 16  # bytes taken from a connection at a time, at most
MOST = 1 << 30  # bytes of a download whose size is not known beforehand
TIMEOUT = 30  # seconds that a connection may bring nothing
SLOWEST = 5_000  # bytes a second that it must bring over any such span
REDIRECTS = 10


def fetch(urls, sha256, target, source=None, size=None, most=MOST):
    """(path of a file with this SHA-256, where it is from): `source` if given, else a download to `target`.

    urls: mirrors, tried in order. source: a path or URL that takes their place. sha256: None takes any.
    size: the file's, in bytes, or None where it is not known; then a download ends at `most`.
    A file at `target` that already has the hash is used as it is. Nothing appears at `target` but a file
    with the hash. UserError where the hash is another, or every mirror failed, with each one's reason.
    """
    if source and "://" not in source:
        return check_hash(Path(source), sha256), Path(source).name
    target = Path(target)
    if not source and target.is_file() and hash_of(target) == sha256:
        return target, target.name
    failures = []
    for url in [source] if source else urls:
        try:
            download(url, sha256, target, size, most)
            return target, url
        except DownloadError as error:
            failures.append(f"{url} ({error})")
    raise UserError(
        f"{target.name} could not be downloaded from {'; '.join(failures)}. If you have the file, use"
        f" python {shown(target.parent / 'prepare.py')} --source=PATH; config/quickstart.py needs no download"
    )


def check_hash(path, sha256):
    if not path.is_file():
        raise UserError(f"--source={path}: no such file")
    if sha256 and (actual := hash_of(path)) != sha256:
        raise UserError(
            f"--source={path}: its SHA-256 is {actual}, this corpus has {sha256};"
            " for a text of your own use python data/text_char/prepare.py FILE"
        )
    return path


# Mirrors.


class DownloadError(Exception):
    """Why one mirror failed, in a few words."""


class PassingError(DownloadError):
    """A fault that may pass, so that another attempt is worth its time."""


def download(url, sha256, target, size=None, most=MOST, attempts=3, wait=1.0):
    """Download `url` to `target`, which appears only whole and with the right SHA-256.

    A fault that may pass (5xx, 408, 425, 429, a time-out, a broken connection) is tried `attempts` times, with
    waits of 1, 2, 4, ... times `wait` seconds, and an attempt goes on from where the last one broke; a
    refusal (other 4xx) or a wrong file is final. What has come lies in a temporary file, which goes when the
    download fails.
    """
    with replacing(target, "w+b") as file:
        transfer = Transfer(url, file, sha256, size, most)
        for attempt in range(attempts):
            if attempt:
                time.sleep(wait * 2 ** (attempt - 1))
            try:
                return transfer.attempt()
            except PassingError as error:
                reason = error
        raise DownloadError(str(reason))


@dataclass
class Transfer:
    """A download under way: what has come lies in `file`, and the next attempt goes on from there."""

    url: str
    file: BinaryIO
    sha256: str | None
    size: int | None
    most: int
    validator: str | None = None  # the server's name for the version of which `file` holds the beginning

    def attempt(self):
        """Go on until the file is whole. DownloadError, or PassingError where it may go better again."""
        import requests
        import urllib3

        try:
            with self.ask() as response:
                resumed = self.begin(response)
                self.receive(response)
        except requests.HTTPError as error:
            raise self.refused(error.response.status_code) from None
        except requests.TooManyRedirects:
            raise DownloadError(f"more than {REDIRECTS} redirects") from None
        except (requests.Timeout, urllib3.exceptions.TimeoutError):
            raise PassingError(f"nothing came for {TIMEOUT:g} s{self.so_far()}") from None
        except requests.ConnectionError as error:
            raise PassingError(f"no connection, {type(error).__name__}{self.so_far()}") from None
        except urllib3.exceptions.HTTPError:
            raise PassingError(f"the connection broke{self.so_far()}") from None
        except requests.RequestException as error:
            raise DownloadError(type(error).__name__) from None
        self.check(response, resumed)

    def ask(self):
        """The response to a request for the file, or for the rest of it where its beginning is here.

        Without a validator, the SHA-256 alone can tell whether the rest belongs to that beginning.
        """
        import requests

        headers = {"Accept-Encoding": "identity"}
        if not (self.validator or self.sha256):
            self.restart()
        if have := self.file.tell():
            headers["Range"] = f"bytes={have}-"
            headers |= {"If-Range": self.validator} if self.validator else {}
        with requests.Session() as session:
            session.max_redirects = REDIRECTS
            hooks = {"response": drop_redirect_body}
            return session.get(self.url, headers=headers, hooks=hooks, stream=True, timeout=TIMEOUT)

    def begin(self, response):
        """Read the headers; returns whether the body is the rest of what is here, and not the whole."""
        response.raise_for_status()
        headers = response.headers
        if response.status_code not in (200, 206):
            raise DownloadError(f"HTTP {response.status_code}")
        if (encoding := headers.get("Content-Encoding", "identity")).lower() != "identity":
            raise DownloadError(f"sent with Content-Encoding {encoding!r}, which was not asked for")
        if not re.fullmatch(r"\d{1,18}", length := headers.get("Content-Length", "0").strip()):
            raise DownloadError(f"its Content-Length is {length[:40]!r}")
        have = self.file.tell()
        if response.status_code == 206:
            if not have or not headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                self.restart()
                raise PassingError("sent another part of the file than was asked for")
            return True
        self.restart()
        etag = headers.get("ETag", "W/")
        self.validator = headers.get("Last-Modified") if etag.startswith("W/") else etag
        return False

    def receive(self, response):
        """Append the body to the file, until it ends or is longer than it may be."""
        from tqdm import tqdm

        start, mark, since = self.file.tell(), self.file.tell(), time.monotonic()
        name = self.url.rsplit("/", 1)[-1]
        with tqdm(total=self.size, initial=start, unit="B", unit_scale=True, desc=name, disable=None) as bar:
            while self.file.tell() <= self.limit and (piece := response.raw.read1(PIECE, decode_content=False)):
                self.file.write(piece)
                bar.update(len(piece))
                if (now := time.monotonic()) - since > TIMEOUT:
                    if self.file.tell() - mark < SLOWEST * (now - since):
                        raise PassingError(f"slower than {SLOWEST:,} bytes a second{self.so_far()}")
                    mark, since = self.file.tell(), now

    def check(self, response, resumed):
        """DownloadError unless the file is the right one."""
        length = self.file.tell()
        wrong = self.wrong(length)
        self.file.seek(0)
        head = self.file.read(512).lower()
        self.file.seek(0, 2)
        if (wrong or not self.sha256) and (b"<html" in head or b"<!doctype html" in head):
            raise DownloadError("a web page (HTML) in place of the file")
        if not wrong:
            return
        if resumed:  # perhaps of two versions of the file
            self.restart()
            raise PassingError(wrong)
        unstated = "Content-Length" not in response.headers
        raise (PassingError if unstated and length < (self.size or 0) else DownloadError)(wrong)

    def wrong(self, length):
        """What is wrong with a body of this length, or None."""
        if length > self.limit:
            return f"more than {self.limit:,} bytes"
        if self.size and length < self.size:
            return f"{length:,} bytes where the file has {self.size:,}"
        self.file.seek(0)
        digest = hashlib.file_digest(self.file, "sha256").hexdigest()
        if self.sha256 and digest != self.sha256:
            return f"{length:,} bytes of another SHA-256, {digest[:12]}..."
        return None

    def refused(self, status):
        """The error for an HTTP status of 400 or more. A range that will not do begins anew."""
        if status == 416:
            self.restart()
        passing = status >= 500 or status in (408, 416, 425, 429)
        return (PassingError if passing else DownloadError)(f"HTTP {status}")

    def restart(self):
        self.file.seek(0)
        self.file.truncate()
        self.validator = None

    def so_far(self):
        return f" after {self.file.tell():,} bytes" if self.file.tell() else ""

    @property
    def limit(self):
        return self.size or self.most


def drop_redirect_body(response, **_):
    """Close a redirect's body unread: requests would read it to its end, and it may have none."""
    if response.is_redirect:
        response.raw.close()


# Archives.


def read_text(path, name, most):
    """The bytes of a plain file, or of the member `name` of a zip, in pieces. A zip is told by its content.

    UserError where the text is longer than `most` bytes, or the zip is not one with that one text.
    """
    with open(path, "rb") as file:
        if file.read(2) == b"PK":
            yield from read_member(path, name, most)
            return
        if (size := file.seek(0, 2)) > most:
            raise UserError(f"{path}: {size:,} bytes, and {name} has {most:,}")
        file.seek(0)
        while piece := file.read(CHUNK):
            yield piece


def read_member(path, name, most):
    """The bytes of the one regular file `name` in a zip, in pieces; nothing is written.

    UserError where the zip is damaged, or holds no such file, or more than `most` bytes or than it states.
    """
    count = 0
    try:
        with zipfile.ZipFile(path) as archive:
            info = member(archive, name)
            stated = info.file_size
            if stated > most:
                raise UserError(f"{path}: its {name!r} is of {stated:,} bytes, and {name} has {most:,}")
            info.file_size += 2 * CHUNK  # else zipfile stops where the header says, whatever follows
            with archive.open(info) as stream:
                while piece := stream.read(CHUNK):
                    count += len(piece)
                    if count > stated:
                        raise UserError(f"{path}: its {name!r} has more than the {stated:,} bytes it states")
                    yield piece
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: a damaged zip ({str(error) or 'it ends early'})") from None
    if count < stated:
        raise UserError(f"{path}: its {name!r} has {count:,} of the {stated:,} bytes it states")


def member(archive, name):
    """The entry of the one member called `name`; UserError unless it is a regular file that can be read."""
    entries = archive.infolist()
    found = [entry for entry in entries if entry.filename == name]
    if len(found) != 1:
        names = ", ".join(repr(entry.filename[:40]) for entry in entries[:3])
        more = ", ..." if len(entries) > 3 else ""
        raise UserError(
            f"{archive.filename}: needs one member {name!r} and has {len(found)}, among {names or 'none'}{more}"
        )
    (entry,) = found
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        raise UserError(f"{archive.filename}: its {name!r} is a link or the like, and no regular file")
    # bz2 and lzma are left out, since zipfile inflates a piece of theirs to any length at once.
    if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{archive.filename}: its {name!r} is encrypted, or compressed by other than deflate")
    return entry
