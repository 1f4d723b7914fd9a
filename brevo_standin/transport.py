"""The stand-in under an httpx client of the same process: no socket, and faults as httpx would report them."""

from __future__ import annotations

import httpx

from brevo_standin.standin import StandIn
from brevo_standin.wire import Request


class StandInTransport(httpx.BaseTransport):
    """Hands each request to the stand-in. Nobody waits: a hang is a time-out at once."""

    def __init__(self, standin: StandIn) -> None:
        self.standin = standin

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        reply = self.standin.handle(
            Request.of(request.method, request.url.raw_path.decode(), request.read(), dict(request.headers))
        )
        kind = reply.fault.kind if reply.fault is not None else ""
        if kind.startswith("hang"):
            raise httpx.ReadTimeout("timed out", request=request)
        if kind.startswith("reset"):
            raise httpx.ReadError("[Errno 104] Connection reset by peer", request=request)
        if kind.startswith("close") or kind == "truncated":
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.", request=request)
        body = reply.body[: len(reply.body) // 2] if kind == "garbled" else reply.body
        headers = {"content-type": reply.content_type, **reply.headers}
        return httpx.Response(reply.status, headers=headers, content=body, request=request)
