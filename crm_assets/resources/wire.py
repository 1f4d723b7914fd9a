"""HTTP to one server, and nothing that decides: bytes out, bytes back, or how far it came.

No retry, no redirect, no cookie, no proxy or certificate from the environment, a deadline on everything. The secret
is put into the bytes as they go onto the connection: requests, their headers, the log of httpx and httpcore and the
locals of a traceback hold a placeholder. What an answer means is decided in `resources/brevo.py`.
"""

from __future__ import annotations

import secrets
import threading
import time
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import httpcore
import httpx
from pydantic import SecretStr

from crm_assets.logic.brevo_answers import Broken, Reply
from crm_assets.rules import ApiSeconds

_WRITE_BYTES = 1 << 16
_MOST_BYTES = 64 << 20  # of an answer: ten times the largest page that is ever asked for


class _Hidden(bytes):
    """Bytes that no traceback shows."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"

    def __getitem__(self, part: Any) -> Any:
        found = super().__getitem__(part)
        return _Hidden(found) if isinstance(found, bytes) else found


class _Deadline:
    """Until when the call under way may take, on the machine's clock: time-outs of httpx are per operation."""

    def __init__(self) -> None:
        self.at = 0.0

    def start(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def within(self, timeout: float | None, error: type[Exception]) -> float:
        left = self.at - time.monotonic()
        if left <= 0:
            raise error
        return left if timeout is None else min(timeout, left)


class _Stream(httpcore.NetworkStream):
    """A connection that turns the placeholder into the secret, and keeps the deadline."""

    def __init__(self, inner: httpcore.NetworkStream, placeholder: bytes, secret: SecretStr, deadline: _Deadline):
        self._inner, self._placeholder, self._secret, self._deadline = inner, placeholder, secret, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.within(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._placeholder in buffer:
            buffer = _Hidden(buffer.replace(self._placeholder, self._secret.get_secret_value().encode()))
        for start in range(0, len(buffer), _WRITE_BYTES):
            within = self._deadline.within(timeout, httpcore.WriteTimeout)
            self._inner.write(buffer[start : start + _WRITE_BYTES], within)

    def close(self) -> None:
        self._inner.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> _Stream:
        within = self._deadline.within(timeout, httpcore.ConnectTimeout)
        inner = self._inner.start_tls(ssl_context, server_hostname, within)
        return _Stream(inner, self._placeholder, self._secret, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.NetworkBackend):
    """Opens connections whose streams are ours."""

    def __init__(self, placeholder: bytes, secret: SecretStr, deadline: _Deadline) -> None:
        self._inner = httpcore.SyncBackend()
        self._placeholder, self._secret, self._deadline = placeholder, secret, deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Stream:
        within = self._deadline.within(timeout, httpcore.ConnectTimeout)
        inner = self._inner.connect_tcp(host, port, within, local_address, socket_options)
        return _Stream(inner, self._placeholder, self._secret, self._deadline)

    def sleep(self, seconds: float) -> None:
        raise AssertionError("nothing is retried here, so nothing waits")


class _Transport(httpx.HTTPTransport):
    """httpx's own, over a pool whose connections are ours; `verify`: certificates are always checked."""

    def __init__(self, backend: _Backend) -> None:
        super().__init__(trust_env=False)
        # Were this attribute to go, the placeholder would be sent in place of the secret: refused, and seen.
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(trust_env=False),
            max_connections=1,
            keepalive_expiry=5,  # a server that closes an idle connection while it is used leaves an answer unknown
            network_backend=backend,
        )


class Wire:
    """Calls to one server, one at a time, over a connection that is kept open.

    `secret`: name and value of a header of every call. `transport`: a server within the process.
    """

    def __init__(
        self,
        base_url: str,
        timeouts: ApiSeconds,
        *,
        secret: tuple[str, SecretStr] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._deadline = _Deadline()
        self._timeouts = timeouts
        self._lock = threading.Lock()
        name, self._secret = secret or ("", SecretStr(""))
        placeholder = secrets.token_hex(20)
        # Within the process there is no connection to put the secret into.
        shown = placeholder if transport is None else self._secret.get_secret_value()
        self._headers = {"accept": "application/json"} | ({name: shown} if name else {})
        self._transport = transport or _Transport(_Backend(placeholder.encode(), self._secret, self._deadline))

    def __repr__(self) -> str:
        return f"<Wire {self.base_url}>"

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Reply | Broken:
        """One request and its whole answer. Never raises for what the network does."""
        request = httpx.Request(
            method,
            self.base_url + path,
            params=params,
            # Answers to writes are kept as the exact bytes they were.
            headers={**self._headers, "accept-encoding": "identity" if content else "gzip", **(headers or {})},
            content=content,
            extensions={"timeout": self._timeouts.model_dump(exclude={"total"})},
        )
        if content is not None:
            request.headers["content-type"] = "application/json"
        with self._lock:
            self._deadline.start(self._timeouts.total)
            return self._answered(request)

    def _answered(self, request: httpx.Request) -> Reply | Broken:
        status: int | None = None
        try:
            response = self._transport.handle_request(request)
            status = response.status_code
            try:
                blocks: list[bytes] = []
                size = 0
                for block in response.iter_bytes():
                    size += len(block)
                    if size > _MOST_BYTES:
                        return Broken("unreadable", status)
                    blocks.append(block)
            finally:
                response.close()
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout):
            return Broken("not_connected")
        except httpx.TimeoutException:
            return Broken("timed_out", status)
        except (httpx.DecodingError, zlib.error):
            return Broken("unreadable", status)
        except httpx.TransportError:
            return Broken("disconnected", status)
        content = b"".join(blocks)
        if secret := self._secret.get_secret_value().encode():
            content = content.replace(secret, b"[key]")  # echoed by a server, it must not come into the ledger
        return Reply(status, {name.lower(): value for name, value in response.headers.items()}, content)

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()
