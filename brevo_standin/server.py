"""The stand-in on a real TCP port: uvicorn, with each connection within reach so that it can be broken."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from brevo_standin.asgi import App
from brevo_standin.standin import StandIn


def listening(port: int = 0, host: str = "127.0.0.1") -> socket.socket:
    """A socket that listens already: who is told its port can connect at once."""
    # With its protocol said, asyncio turns Nagle's algorithm off: 40 ms a call otherwise.
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((host, port))
    made.listen(128)
    return made


def server(standin: StandIn) -> uvicorn.Server:
    """uvicorn around a stand-in; `run(sockets=[listening()])` serves until `should_exit`."""
    app = App(standin)

    class Protocol(H11Protocol):
        """HTTP/1.1 that tells the application which transport a connection has."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.peer = tuple(transport.get_extra_info("peername") or ("", 0))[:2]
            app.transports[self.peer] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            app.transports.pop(self.peer, None)
            super().connection_lost(exc)

    # The errors of broken connections are meant, so nothing is logged. asyncio's own loop: its sockets can be reset.
    config = uvicorn.Config(app, http=Protocol, loop="asyncio", log_config=None, access_log=False, lifespan="on",
                            timeout_graceful_shutdown=1)  # fmt: skip
    return uvicorn.Server(config)


@contextlib.contextmanager
def in_thread(standin: StandIn) -> Iterator[str]:
    """Serve beside the caller; yields the root URL."""
    made, sock = server(standin), listening()
    thread = threading.Thread(target=lambda: asyncio.run(made.serve(sockets=[sock])), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        made.should_exit = True
        thread.join(timeout=10)
        sock.close()
