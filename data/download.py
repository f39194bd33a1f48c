"""Getting a file from a path or from mirrors. No torch.

A server may send anything: only a whole file with the right SHA-256 ever appears under its name, and no more is
read than the file has.
"""

import contextlib
import hashlib
import os
import time
from pathlib import Path

from config import UserError, command, user_path
from data.files import hash_of, make_folder, naming, replacing, shown, sync_folder

PIECE = 1 << 16  # bytes taken from a connection at a time, at most
MOST = 1 << 30  # bytes of a download whose size is not known beforehand
TIMEOUT = 30  # seconds until the headers, redirects and all, and until each TIMEOUT * SLOWEST bytes of the body
SLOWEST = 5_000  # bytes a second
REDIRECTS = 10
ATTEMPTS = 3
PASSING = (408, 416, 425, 429)  # HTTP statuses under 500 that may pass


def fetch(urls, sha256, target, source=None, size=None, most=MOST, held="it", words=()):
    """(path of a file with this SHA-256, where it is from): `source` if given, else a download to `target`.

    urls: mirrors, tried in order. source: a path or URL that takes their place. sha256: None takes any.
    size: the file's, in bytes, or None where it is not known; then a download ends at `most`. held: what
    the script's --source takes. words: what else its command needs.
    A file at `target` that already has the hash is used as it is, and one of another hash is not touched.
    UserError where the hash is another, or every mirror failed, with each one's reason.
    """
    if source and "://" not in source:
        return check_hash(user_path(source), sha256), Path(source).name
    target = Path(target)
    if sha256 and target.is_file():
        if hash_of(target) != sha256:
            own = f"; {command('data/text_char/prepare.py', 'FILE')} prepares a text of your own"
            raise UserError(
                f"{shown(target)} has another SHA-256 than this corpus's: delete it if it is a broken download,"
                f" else rename it{own if target.name == 'input.txt' else ''}"
            )
        return target, target.name
    failures = []
    for url in [source] if source else urls:
        print(f"downloading {url}", flush=True)
        try:
            download(url, sha256, target, size, most)
        except DownloadError as error:
            failures.append(f"{url} ({error})")
            continue
        if not sha256:
            print(f"{url}: no SHA-256 is known to check this file by; it has {hash_of(target)}")
        return target, url
    raise UserError(
        f"{target.name} could not be downloaded from {'; '.join(failures)}. If you have the file,"
        f" {command(shown(target.parent / 'prepare.py'), *words, '--source=PATH')} takes {held};"
        " config/quickstart.py needs no download"
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


class DownloadError(Exception):
    """Why one mirror failed, in a few words. retry: whether the fault may pass."""

    def __init__(self, reason, retry=False):
        super().__init__(reason)
        self.retry = retry


def download(url, sha256, target, size=None, most=MOST):
    """Download `url` to `target`, which appears only whole and with the right SHA-256.

    A fault that may pass (5xx, a time-out, a broken connection) is tried again after 1 s, then 2 s. Where the
    hash is known, which tells whether the parts belong together, a new attempt asks for the missing part alone,
    be it of another process or of another mirror. A refusal (4xx) or a wrong file is final.
    """
    with arriving(target) if sha256 else replacing(target, "w+b") as file:
        for attempt in range(1, ATTEMPTS + 1):
            if not sha256:
                empty(file)
            try:
                resumed = file.tell() == size or receive(url, file, size, most)
                return check(file, sha256, size, most, resumed)
            except DownloadError as error:
                if not error.retry or attempt == ATTEMPTS:
                    raise
            time.sleep(2 ** (attempt - 1))


@contextlib.contextmanager
def arriving(target):
    """The file in which a download arrives, at its end; it takes the target's place when it is whole. What has
    come of one that breaks off, or is killed, stays for the next."""
    part = target.with_name(f".{target.name}.part")
    try:
        make_folder(part.parent)
        if part.is_symlink():  # it would be written through
            part.unlink()
        with open(part, "a+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
        sync_folder(part.parent)
    except OSError as error:
        raise naming(part, error) from None
    finally:
        if part.is_file() and not part.stat().st_size:
            part.unlink()


def receive(url, file, size, most):
    """Append the rest of `url` to `file`; returns whether the server continued it and did not begin anew.

    DownloadError where it cannot be had.
    """
    import requests
    import urllib3

    from data.connection import Patience

    with Patience(TIMEOUT) as session:
        try:
            with ask(session, url, start=file.tell()) as response:
                resumed = begin(response, file)
                copy(response.raw, file, size, most, session, name=url.rsplit("/", 1)[-1])
                return resumed
        except requests.HTTPError as error:
            status = error.response.status_code
            if status == 416:  # no such range
                empty(file)
            raise DownloadError(f"HTTP {status}", retry=status >= 500 or status in PASSING) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise failure(error, session.late, file.tell()) from None


def failure(error, late, length):
    """The DownloadError for an exception of requests, after so many bytes. late: whether time was up."""
    import requests
    import urllib3

    if late or isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
        reason = f"slower than {SLOWEST:,} bytes a second over {TIMEOUT:g} s"
    elif isinstance(error, requests.ConnectionError):
        reason = f"no connection, {type(error).__name__}"
    elif isinstance(error, requests.exceptions.InvalidProxyURL) or "SOCKS" in str(error):
        return DownloadError(f"the environment's proxy: {error}")
    elif isinstance(error, ValueError):  # of requests, urllib3 or Python, as the address is
        return DownloadError(f"a malformed address, {type(error).__name__}")
    elif isinstance(error, requests.RequestException):
        return DownloadError(type(error).__name__)
    else:
        reason = "the connection broke"
    return DownloadError(f"{reason} after {length:,} bytes" if length else reason, retry=True)


def ask(session, url, start):
    """The response to a request for the file from byte `start` on."""
    import requests

    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    session.max_redirects = REDIRECTS
    hooks = {"response": drop_redirect_body}
    try:
        return session.get(url, headers=headers, hooks=hooks, stream=True, timeout=TIMEOUT)
    except requests.RequestException:
        raise
    except OSError as error:  # REQUESTS_CA_BUNDLE names no file
        raise DownloadError(str(error)) from None


def drop_redirect_body(response, **_):
    """Close a redirect's body unread: requests would read it to its end, and it may have none."""
    if response.is_redirect:
        response.raw.close()


def begin(response, file):
    """Read the headers; returns whether the body continues what is in `file`, which is emptied otherwise."""
    response.raise_for_status()
    status, start = response.status_code, file.tell()
    if status == 206 and start and response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        return True
    empty(file)
    if status == 206:
        raise DownloadError("sent another part of the file than was asked for", retry=True)
    if status != 200:
        raise DownloadError(f"HTTP {status}")
    return False


def copy(body, file, size, most, session, name):
    """Append a body to the file, until it ends or the file is longer than it may be."""
    from tqdm import tqdm

    session.renew()
    start = mark = file.tell()
    with tqdm(total=size, initial=start, unit="B", unit_scale=True, desc=name, disable=None) as bar:
        while file.tell() <= (size or most):
            piece = body.read1(PIECE, decode_content=False)
            if session.late:  # its end is then no end
                raise failure(None, True, file.tell())
            if not piece:
                break
            file.write(piece)
            bar.update(len(piece))
            if file.tell() - mark >= SLOWEST * TIMEOUT:
                mark = file.tell()
                session.renew()


def check(file, sha256, size, most, resumed):
    """DownloadError unless the file is the right one. resumed: it may be of two versions of the file."""
    length, limit = file.tell(), size or most
    file.seek(0)
    head = file.read(512).lower()
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    html = b"<html" in head or b"<!doctype html" in head
    if digest == sha256 or (sha256 is None and length <= limit and not html):
        return
    if size and length < size and not html:
        raise DownloadError(f"{length:,} bytes where the file has {size:,}", retry=True)
    empty(file)
    if html:
        raise DownloadError("a web page (HTML) in place of the file")
    reason = f"more than {limit:,} bytes" if length > limit else f"{length:,} bytes of SHA-256 {digest[:12]}..."
    raise DownloadError(reason, retry=resumed)


def empty(file):
    file.truncate(file.seek(0))
