"""Servers on loopback for tests of drop folders elsewhere: S3 (moto), SFTP (asyncssh), one that says nothing."""

from __future__ import annotations

import asyncio
import http.server
import logging
import socket
import threading
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import asyncssh

AZURE_TIME = "Mon, 05 Jan 2026 06:00:00 GMT"


@dataclass
class SftpServer:
    """An SFTP server whose root is a local folder."""

    folder: Path
    port: int
    host_key: str  # public, as in a known_hosts file
    opened: list[str] = field(default_factory=list)  # files that were read

    @property
    def url(self) -> str:
        return f"sftp://cave@127.0.0.1:{self.port}"


@contextmanager
def sftp_server(folder: Path, password: str, client_key: asyncssh.SSHKey | None = None) -> Iterator[SftpServer]:
    """Serve `folder` to the user `cave`, who has a password or a key."""
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    made = SftpServer(folder, 0, host_key.export_public_key().decode().strip())

    class Login(asyncssh.SSHServer):
        def password_auth_supported(self) -> bool:
            return True

        def validate_password(self, username: str, given: str) -> bool:
            return (username, given) == ("cave", password)

        def public_key_auth_supported(self) -> bool:
            return client_key is not None

        def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
            assert client_key is not None
            return username == "cave" and key.public_data == client_key.public_data

    class Files(asyncssh.SFTPServer):
        def __init__(self, channel: Any) -> None:
            super().__init__(channel, chroot=str(folder).encode())

        def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> Any:
            assert not pflags & (asyncssh.FXF_WRITE | asyncssh.FXF_CREAT), "nothing is ever written"
            if path.endswith(b"geheim.csv"):  # root may read anything, so the file's mode cannot say it
                raise asyncssh.SFTPPermissionDenied("no")
            made.opened.append(path.decode("utf-8", "surrogateescape"))
            return super().open(path, pflags, attrs)

    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> Any:
        return await asyncssh.listen(
            "127.0.0.1", 0, server_factory=Login, server_host_keys=[host_key], sftp_factory=Files
        )

    async def stop(listener: Any) -> None:
        listener.close()
        with suppress(TimeoutError):  # a line that was cut is noticed late
            await asyncio.wait_for(listener.wait_closed(), 0.5)

    listener = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    made.port = listener.get_port()
    try:
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(stop(listener), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


@contextmanager
def s3_server() -> Iterator[str]:
    """URL of an empty S3-compatible server."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


class _AzureBlobs(http.server.BaseHTTPRequestHandler):
    """The few answers of Azure's Blob service that reading needs, for one container `estate` of the account `cave`."""

    protocol_version = "HTTP/1.1"
    blobs: ClassVar[dict[str, bytes]]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        question = parse_qs(parts.query)
        _, account, container, *key = unquote(parts.path).split("/", 3)
        name = "".join(key)
        if "SharedKey cave:" not in self.headers.get("Authorization", ""):
            self._answer(403, b"", {"x-ms-error-code": "AuthenticationFailed"})
        elif (account, container) != ("cave", "estate"):
            self._answer(404, b"", {"x-ms-error-code": "ContainerNotFound"})
        elif question.get("comp") == ["list"]:
            prefix = question.get("prefix", [""])[0]
            rows = "".join(
                f"<Blob><Name>{escape(each)}</Name><Properties><Last-Modified>{AZURE_TIME}</Last-Modified>"
                f"<Etag>{self._tag(content)}</Etag><Content-Length>{len(content)}</Content-Length>"
                "<BlobType>BlockBlob</BlobType></Properties></Blob>"
                for each, content in sorted(self.blobs.items())
                if each.startswith(prefix)
            )
            head = '<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="estate">'
            body = f"{head}<Blobs>{rows}</Blobs><NextMarker/></EnumerationResults>"
            self._answer(200, body.encode(), {"Content-Type": "application/xml"})
        elif not name:
            self._answer(200, b"", {"Last-Modified": AZURE_TIME, "ETag": '"0x1"'})
        elif name in self.blobs:
            content = self.blobs[name]
            about = {"Last-Modified": AZURE_TIME, "ETag": f'"{self._tag(content)}"', "x-ms-blob-type": "BlockBlob"}
            if self.headers.get("x-ms-range") and content:
                about["Content-Range"] = f"bytes 0-{len(content) - 1}/{len(content)}"
                self._answer(206, content, about)
            else:
                self._answer(200, content, about)
        else:
            self._answer(404, b"", {"x-ms-error-code": "BlobNotFound"})

    @staticmethod
    def _tag(content: bytes) -> str:
        return f"0x{zlib.crc32(content):X}"

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def azure_server() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A stand-in for Azure (no server of its kind is in Debian or on PyPI): its URL, and the blobs to be."""
    blobs: dict[str, bytes] = {}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Blobs", (_AzureBlobs,), {"blobs": blobs}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/cave", blobs
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def only_known_keys(url: str) -> Iterator[None]:
    """Let the S3 server refuse access keys it does not know, which are all."""

    def refuse_after(calls: str) -> None:
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{url}/moto-api/reset-auth", calls.encode(), headers, method="POST")
        urllib.request.urlopen(request, timeout=10).close()

    refuse_after("0")
    try:
        yield
    finally:
        refuse_after("inf")


@contextmanager
def silent_server() -> Iterator[int]:
    """Port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield listener.getsockname()[1]


@contextmanager
def relay(port: int) -> Iterator[tuple[int, Callable[[], None]]]:
    """A port that leads to another one, and how to cut all its lines for good."""
    ends: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                ends.extend((near, far))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    def cut() -> None:
        for end in (listener, *ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], cut
    finally:
        cut()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
