"""Getting a file from a path or from mirrors. No torch.

A server may send anything: only a whole file with the right SHA-256 ever appears under its name, and no more is
read than the file has.
"""

import hashlib
import time
from pathlib import Path

from config import UserError
from data.files import hash_of, replacing, shown

PIECE = 1 << 16  # bytes taken from a connection at a time, at most
MOST = 1 << 30  # bytes of a download whose size is not known beforehand
TIMEOUT = 30  # seconds that a connection may bring nothing
SLOWEST = 5_000  # bytes a second that it must bring over any such span
REDIRECTS = 10
ATTEMPTS = 3
PASSING = (408, 416, 425, 429)  # HTTP statuses under 500 that may pass


def fetch(urls, sha256, target, source=None, size=None, most=MOST):
    """(path of a file with this SHA-256, where it is from): `source` if given, else a download to `target`.

    urls: mirrors, tried in order. source: a path or URL that takes their place. sha256: None takes any.
    size: the file's, in bytes, or None where it is not known; then a download ends at `most`.
    A file at `target` that already has the hash is used as it is. UserError where the hash is another, or
    every mirror failed, with each one's reason.
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


class DownloadError(Exception):
    """Why one mirror failed, in a few words. retry: whether the fault may pass."""

    def __init__(self, reason, retry=False):
        super().__init__(reason)
        self.retry = retry


def download(url, sha256, target, size=None, most=MOST):
    """Download `url` to `target`, which appears only whole and with the right SHA-256.

    A fault that may pass (5xx, a time-out, a broken connection) is tried again after 1 s, then 2 s. Where the
    hash is known, which tells whether the parts belong together, a new attempt asks for the missing part alone.
    A refusal (4xx) or a wrong file is final. What has come lies in a temporary file until it is whole.
    """
    with replacing(target, "w+b") as file:
        for attempt in range(1, ATTEMPTS + 1):
            if not sha256:
                empty(file)
            try:
                resumed = receive(url, file, size, most)
                return check(file, sha256, size, most, resumed)
            except DownloadError as error:
                if not error.retry or attempt == ATTEMPTS:
                    raise
            time.sleep(2 ** (attempt - 1))


def receive(url, file, size, most):
    """Append the rest of `url` to `file`; returns whether the server continued it and did not begin anew.

    DownloadError where it cannot be had.
    """
    import requests
    import urllib3

    def broken(reason):
        return DownloadError(f"{reason} after {file.tell():,} bytes" if file.tell() else reason, retry=True)

    try:
        with ask(url, start=file.tell()) as response:
            resumed = begin(response, file)
            copy(response.raw, file, size, most, name=url.rsplit("/", 1)[-1])
            return resumed
    except requests.HTTPError as error:
        status = error.response.status_code
        if status == 416:  # no such range
            empty(file)
        raise DownloadError(f"HTTP {status}", retry=status >= 500 or status in PASSING) from None
    except (requests.Timeout, urllib3.exceptions.TimeoutError):
        raise broken(f"nothing came for {TIMEOUT:g} s") from None
    except requests.ConnectionError as error:
        raise broken(f"no connection, {type(error).__name__}") from None
    except urllib3.exceptions.HTTPError:
        raise broken("the connection broke") from None
    except requests.RequestException as error:
        raise DownloadError(type(error).__name__) from None


def ask(url, start):
    """The response to a request for the file from byte `start` on."""
    import requests

    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.Session() as session:
        session.max_redirects = REDIRECTS
        hooks = {"response": drop_redirect_body}
        return session.get(url, headers=headers, hooks=hooks, stream=True, timeout=TIMEOUT)


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


def copy(body, file, size, most, name):
    """Append a body to the file, until it ends or the file is longer than it may be."""
    from tqdm import tqdm

    mark, since = file.tell(), time.monotonic()
    with tqdm(total=size, initial=mark, unit="B", unit_scale=True, desc=name, disable=None) as bar:
        while file.tell() <= (size or most) and (piece := body.read1(PIECE, decode_content=False)):
            file.write(piece)
            bar.update(len(piece))
            if (now := time.monotonic()) - since > TIMEOUT:
                if file.tell() - mark < SLOWEST * (now - since):
                    raise DownloadError(f"slower than {SLOWEST:,} bytes a second", retry=True)
                mark, since = file.tell(), now


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
    if html:
        raise DownloadError("a web page (HTML) in place of the file")
    if size and length < size:
        raise DownloadError(f"{length:,} bytes where the file has {size:,}", retry=True)
    if resumed:
        empty(file)
    reason = f"more than {limit:,} bytes" if length > limit else f"{length:,} bytes of SHA-256 {digest[:12]}..."
    raise DownloadError(reason, retry=resumed)


def empty(file):
    file.truncate(file.seek(0))
