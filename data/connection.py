"""A request that ends in time, whatever the server sends. No torch.

A socket's own time-out is for each of its reads alone: headers, or the lengths of chunks, that come a byte at a
time keep it open for ever, as "100 Continue" without an end does.
"""

import contextlib
import functools
import socket
import threading
import time

import requests


class Patience(requests.Session):
    """A session whose connections are shut where `seconds` pass between two calls of `renew`; then `late`."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.late, self.sockets, self.over = seconds, False, [], threading.Event()
        for scheme in ("http://", "https://"):
            self.mount(scheme, Adapter(self.sockets))

    def __enter__(self):
        self.renew()
        threading.Thread(target=self.watch, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.close()

    def renew(self):
        self.end = time.monotonic() + self.seconds

    def watch(self):
        while not self.over.wait(self.seconds / 30):
            if time.monotonic() > self.end:
                self.late = True
                for each in list(self.sockets):  # again each time, since a redirect may open another
                    with contextlib.suppress(OSError):  # it is closed
                        socket.socket.shutdown(each, socket.SHUT_RDWR)  # under TLS, where it has that


class Adapter(requests.adapters.HTTPAdapter):
    """Puts the sockets that it connects into a list."""

    def __init__(self, sockets):
        super().__init__()
        self.sockets = sockets

    def get_connection_with_tls_context(self, *arguments, **options):
        pool = super().get_connection_with_tls_context(*arguments, **options)
        pool.ConnectionCls = functools.partial(self.connection, type(pool).ConnectionCls)
        return pool

    def connection(self, kind, **options):
        made = kind(**options)
        connect = made.connect

        def connect_and_keep():
            connect()
            self.sockets.append(made.sock)

        made.connect = connect_and_keep
        return made
