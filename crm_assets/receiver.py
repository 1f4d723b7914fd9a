"""The receiver of Brevo's webhooks: POST /brevo/<tenant>, `crm receiver`.

A body is kept as it came before it is answered with 200, and read into outcomes.events afterwards. Brevo throws an
event away for ever on any 5xx and on any 4xx but 429 (brevo.md A6): so whatever fails on our side is answered 429,
which it tries again, and 401 is said only to who has not the estate's token. Webhooks are unsigned: what they say is
added to what polling finds, and polling finds it all without them. No log line quotes a body, an address or a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import psycopg
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crm_assets import databases, feedback, local
from crm_assets.clock import Clock, SystemClock
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings, secret
from crm_assets.tenants import RESERVED_SLUGS, SLUG, TenantError, load_tenant

log = logging.getLogger("crm.receiver")

# Brevo puts 500 events at most into one body, a kilobyte each or so.
MAX_BODY_BYTES = 8 << 20
BODY_SECONDS = 20.0  # for a body to arrive whole
CONNECT_SECONDS = 5  # to the database
KEEP_MILLISECONDS = 5000  # for it to take a body
MAX_AT_ONCE = 64  # bodies in memory
MAX_OF_ONE_ESTATE = 48  # of them: what floods one leaves room for the others
DOOR_SECONDS = 10.0  # a tenant's file and token are looked up again after so long
SHUTDOWN_SECONDS = 10

AGAIN, UNKNOWN, TAKEN = 429, 401, 200


class _CannotKeepError(Exception):
    """A body cannot be kept for now; the text says why, without what it says. Brevo is asked to try again."""


@dataclass
class _Door:
    """What is known of one tenant: the hash of its token, and until when that is believed."""

    token: bytes | None
    until: float


@dataclass
class Receiver:
    """The state of one receiver: who may post, what is under way, and what waits to be read."""

    config: Settings
    clock: Clock = field(default_factory=SystemClock)
    is_closing: bool = False
    n_kept: int = 0
    n_refused: int = 0
    _at_once: Counter[str] = field(default_factory=Counter)  # by estate
    _doors: dict[str, _Door] = field(default_factory=dict)
    _urls: dict[str, str] = field(default_factory=dict)
    _readers: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _news: dict[str, asyncio.Event] = field(default_factory=dict)
    # Where bodies are read: apart from the threads that keep, for reading must not make a body wait.
    make_pool: Callable[[], Executor] = lambda: ThreadPoolExecutor(1, "reading")
    _pool: Executor | None = None

    # --- who may post

    def is_allowed(self, slug: str, authorization: str) -> bool:
        """Whether the header bears the token of the tenant. _CannotKeepError where ours to know, and we do not."""
        scheme, _, token = authorization.partition(" ")
        given = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        expected = self._token(slug)
        # Compared whether or not there is such a tenant, in the same time.
        same = hmac.compare_digest(given, expected or bytes(len(given)))
        return same and expected is not None and scheme.lower() == "bearer"

    def _token(self, slug: str) -> bytes | None:
        """SHA-256 of the tenant's token; None where there is no such tenant."""
        door = self._doors.get(slug)
        if door is None or door.until < time.monotonic():
            door = _Door(self._token_hash(slug), time.monotonic() + DOOR_SECONDS)
            if door.token is not None:  # names that nobody has would fill the memory
                self._doors[slug] = door
        return door.token

    def _token_hash(self, slug: str) -> bytes | None:
        path = self._file(slug)
        if path is None:
            return None
        try:
            variable = load_tenant(path).brevo.webhook_token_variable
        except TenantError:
            raise _CannotKeepError(f"tenants/{slug}.yaml cannot be used") from None
        token = secret(variable)
        if token is None:
            raise _CannotKeepError(f"no token in {variable}, which tenants/{slug}.yaml names")
        return hashlib.sha256(token.get_secret_value().encode()).digest()

    def _file(self, slug: str) -> Path | None:
        if not SLUG.match(slug) or slug in RESERVED_SLUGS:
            return None
        if not self.config.tenants.is_dir():
            raise _CannotKeepError("the folder of tenants' files is not there")
        paths = (self.config.tenants / f"{slug}{ending}" for ending in (".yaml", ".yml"))
        return next((path for path in paths if path.is_file()), None)

    # --- keeping

    def keep(self, slug: str, body: bytes) -> str:
        """Store a body under its hash, once; the hash. _CannotKeepError when the database does not take it in time."""
        digest = hashlib.sha256(body).hexdigest()
        try:
            url = self._url(slug)
            with psycopg.connect(
                url,
                application_name="crm-receiver",
                connect_timeout=CONNECT_SECONDS,
                options=f"-c statement_timeout={KEEP_MILLISECONDS}",
            ) as connection:
                connection.execute(
                    "insert into outcomes.received (content_hash, content, received_at) values (%s, %s, %s)"
                    " on conflict (content_hash) do nothing",
                    [digest, body, self.clock.now()],
                )
        except (psycopg.Error, databases.DatabaseError) as error:
            self._urls.pop(slug, None)  # the embedded server may have come back elsewhere
            raise _CannotKeepError(type(error).__name__) from None
        return digest

    def _url(self, slug: str) -> str:
        if slug not in self._urls:
            self._urls[slug] = databases.cluster(self.config).tenant_url(slug)
        return self._urls[slug]

    # --- reading what was kept

    def has_news(self, slug: str) -> None:
        """Have the tenant's bodies read, beside the answers; what comes meanwhile is read in one go afterwards."""
        self._news.setdefault(slug, asyncio.Event()).set()
        reader = self._readers.get(slug)
        if reader is None or reader.done():
            self._readers[slug] = asyncio.create_task(self._read(slug))

    async def _read(self, slug: str) -> None:
        while self._news[slug].is_set() and not self.is_closing:
            self._news[slug].clear()
            try:
                self._pool = self._pool or self.make_pool()
                work = asyncio.get_running_loop().run_in_executor
                await work(self._pool, read_bodies, self._url(slug), slug, self.clock.now())
            except Exception as error:  # whatever it is, the bodies are kept: the next pull reads them
                log.warning("%s: bodies not read yet: %s", slug, type(error).__name__)
                if isinstance(error, BrokenExecutor):
                    self._pool = None  # its process was killed: the next news gets another

    # --- answering

    async def post(self, request: Request) -> Response:
        """One body of Brevo's: 200 when it is kept, 401 for who has no token, 429 for all else."""
        slug = str(request.path_params["tenant"])
        n_of_it, most = self._at_once[slug], min(MAX_OF_ONE_ESTATE, MAX_AT_ONCE)
        if self.is_closing or n_of_it >= most or self._at_once.total() >= MAX_AT_ONCE:
            raise _CannotKeepError("shutting down" if self.is_closing else "too many at once")
        self._at_once[slug] += 1
        try:
            if not await run_in_threadpool(self.is_allowed, slug, request.headers.get("authorization", "")):
                return JSONResponse({"status": "unknown"}, UNKNOWN, {"WWW-Authenticate": "Bearer", **_CLOSE})
            body = await _whole_body(request)
            await run_in_threadpool(self.keep, slug, body)
        finally:
            self._at_once[slug] -= 1
            if not self._at_once[slug]:
                del self._at_once[slug]  # names that nobody has would fill the memory
        self.n_kept += 1
        self.has_news(slug)
        return JSONResponse({"status": "kept"}, TAKEN)

    async def health(self, request: Request) -> Response:
        """That the receiver runs, and counts since it started."""
        return JSONResponse({"status": "closing" if self.is_closing else "ok", "kept": self.n_kept, **self._refusals()})

    def _refusals(self) -> dict[str, int]:
        return {"asked_to_try_again": self.n_refused, "under_way": self._at_once.total()}

    async def close(self) -> None:
        """Take nothing more, and let what is being read end."""
        self.is_closing = True
        readers = [reader for reader in self._readers.values() if not reader.done()]
        if readers:
            await asyncio.wait(readers, timeout=SHUTDOWN_SECONDS)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)


def read_bodies(url: str, slug: str, now: datetime) -> int:
    """A tenant's bodies into outcomes.events; how many events were new."""
    warehouse = Warehouse(url, application_name="crm-receiver")
    return feedback.ingest_received(warehouse, slug, now).feeds["received"].n_new


def _reading_process() -> Executor:
    """A process of its own to read in, which gives way: a burst of bodies is kept first and read afterwards."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_give_way)


def _give_way() -> None:
    local.die_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the receiver's to hear
    os.nice(5)


async def _whole_body(request: Request) -> bytes:
    """The request's body; _CannotKeepError when it is too long, too slow or breaks off."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise _CannotKeepError("longer than a body of Brevo's can be")
                parts.append(part)
    except TimeoutError:
        raise _CannotKeepError("too slow") from None
    except ClientDisconnect:
        raise _CannotKeepError("broken off") from None
    return b"".join(parts)


# The rest of a body that nobody reads is not waited for.
_CLOSE = {"Connection": "close"}


def _again() -> Response:
    return JSONResponse({"status": "try again"}, AGAIN, _CLOSE)


class Never5xx:
    """The outermost layer: whatever goes wrong inside, Brevo hears 429 and tries again."""

    def __init__(self, app: ASGIApp, receiver: Receiver) -> None:
        self.app = app
        self.receiver = receiver

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        has_started = False

        async def checked(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                if message["status"] >= 500:
                    self.receiver.n_refused += 1
                    message = {**message, "status": AGAIN}
            await send(message)

        try:
            await self.app(scope, receive, checked)
        except BaseException as error:  # a cancelled task too: the server says 500 for it
            log.warning("asked to try again: %s", type(error).__name__)
            if not has_started:
                self.receiver.n_refused += 1
                await _again()(scope, receive, send)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise


def app(receiver: Receiver) -> ASGIApp:
    """The receiver as an ASGI application."""

    async def cannot_keep(request: Request, error: Exception) -> Response:
        receiver.n_refused += 1
        log.warning("asked to try again: %s", error)
        return _again()

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await receiver.close()

    routes = [
        Route("/brevo/{tenant}", receiver.post, methods=["POST"]),
        Route("/brevo/{tenant}/", receiver.post, methods=["POST"]),  # Brevo gives an event up at a redirect
        Route("/health", receiver.health, methods=["GET"]),
    ]
    inner = Starlette(routes=routes, exception_handlers={_CannotKeepError: cannot_keep}, lifespan=lifespan)
    return Never5xx(inner, receiver)


def serve(config: Settings) -> None:
    """Run the receiver until it is told to stop."""
    import uvicorn

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    server = uvicorn.Config(
        app(Receiver(config, make_pool=_reading_process)),
        host=config.receiver_host,
        port=config.receiver_port,
        access_log=False,
        log_config=None,
        lifespan="on",
        ws="none",
        http="h11",  # the other parser takes headers without end into memory, before anybody has shown a token
        server_header=False,
        # No limit_concurrency: at the limit uvicorn itself says 503, and Brevo would throw the event away.
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    # uvicorn raises the signal that ended it once more when it is done; by then there is nothing left to end.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        uvicorn.Server(server).run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
