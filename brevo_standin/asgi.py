"""The stand-in as an ASGI application, with the connections that break on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from brevo_standin.standin import StandIn
from brevo_standin.wire import Reply, Request

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
TICK = 0.25  # seconds between two looks at what has fallen due by the machine's clock
PARTING = 5.0  # seconds at most until a connection that was broken is known to be gone
PIECES = 10  # a slow body comes in so many


class App:
    """One stand-in on one port. `transports`: the open connections by the client's address, see `server.py`."""

    def __init__(self, standin: StandIn) -> None:
        self.standin = standin
        self.transports: dict[tuple[str, int], asyncio.Transport] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        request = Request(
            scope["method"],
            scope["path"],
            parse_qs(scope["query_string"].decode(), keep_blank_values=True),
            {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]},
            body,
        )
        if request.path.startswith("/standin/") and request.method == "POST":
            # Some of them call a webhook's receiver: the loop must be free to answer what that asks meanwhile.
            reply = await asyncio.to_thread(self.standin.handle, request)
        else:
            reply = self.standin.handle(request)
        await self._answer(reply, scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        ticking: asyncio.Task[None] | None = None
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                if not self.standin.times.is_virtual:
                    ticking = asyncio.create_task(self._tick())
                await send({"type": "lifespan.startup.complete"})
            else:
                if ticking is not None:
                    ticking.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await ticking
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _tick(self) -> None:
        while True:
            await asyncio.to_thread(self.standin.catch_up)
            await asyncio.sleep(TICK)

    async def _answer(self, reply: Reply, scope: Scope, receive: Receive, send: Send) -> None:
        fault = reply.fault
        kind = fault.kind if fault is not None else ""
        if kind.startswith("reset"):
            self._reset(scope)
            await _silence(PARTING, receive)
            return
        if kind.startswith("hang"):
            await _silence(fault.seconds, receive)
        if kind.startswith(("hang", "close")):
            self._close(scope)
            await _silence(PARTING, receive)
            return
        body = reply.body[: len(reply.body) // 2] if kind in ("truncated", "garbled") else reply.body
        promised = len(reply.body) if kind == "truncated" else len(body)
        headers = {**reply.headers}
        if reply.status not in (204, 304):
            headers |= {"content-type": reply.content_type, "content-length": str(promised)}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": raw})
        if kind == "truncated":
            await send({"type": "http.response.body", "body": body, "more_body": True})
            self._close(scope)
            await _silence(PARTING, receive)
            return
        if kind == "slow_body":
            step = max(1, len(body) // PIECES)
            for start in range(0, len(body) - step, step):
                await send({"type": "http.response.body", "body": body[start : start + step], "more_body": True})
                await asyncio.sleep((fault.seconds or 0) / PIECES)
                last = start + step
            body = body[last:] if len(body) > step else body
        await send({"type": "http.response.body", "body": body})

    def _transport(self, scope: Scope) -> asyncio.Transport | None:
        return self.transports.get(tuple(scope["client"] or ("", 0)))

    def _reset(self, scope: Scope) -> None:
        """RST instead of FIN: what a client sees when a machine or a middle box dies."""
        transport = self._transport(scope)
        if transport is not None:
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()

    def _close(self, scope: Scope) -> None:
        transport = self._transport(scope)
        if transport is not None:
            transport.close()


async def _silence(seconds: float | None, receive: Receive) -> None:
    """Say nothing for so long, or, where that is None, until the client goes."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(gone(), seconds)
