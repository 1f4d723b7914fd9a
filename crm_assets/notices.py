"""Outgoing webhooks: what happened is queued in activation.notices and handed to the receivers of the estate's file.

Signed by Standard Webhooks. Each try is written before it is made, so that a notice is told at least once and given up
in the end; the receiver tells repeats by `webhook-id`. A receiver in a private network is refused: its name is resolved
once, every address is looked at, and the connection goes to that very address. Redirects are not followed, the answer's
body is not read. Nothing here fails or delays a run: delivery is a sensor's, or `crm webhooks retry`. What is told is
decided in `logic/notices.py`.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from crm_assets import settings
from crm_assets.clock import Clock
from crm_assets.logic import notices
from crm_assets.logic.notices import Happening
from crm_assets.resources.warehouse import Warehouse
from crm_assets.rules import WebhookRules
from crm_assets.tenants import Tenant, WebhookEndpoint

USER_AGENT = "crm-webhooks/1"
MAX_ANSWER_BYTES = 16_384  # of what is read of an answer: its first line, and those of interim answers before it
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\r|$)")


class DeliveryError(Exception):
    """A try that was not taken: `problem` is a code of logic.notices.PROBLEMS. Holds nothing of URL or payload."""

    def __init__(self, problem: str, status: int | None = None) -> None:
        super().__init__(problem)
        self.problem, self.status = problem, status


# --- queueing


def queue(connection: psycopg.Connection, tenant: Tenant, happenings: Iterable[Happening], now: datetime) -> int:
    """Queue what happened for every receiver that asked for it, in the caller's transaction; how many are new.

    What is queued already, or was delivered, is not queued again.
    """
    rows = notices.notices_of(tenant, happenings, now)
    new = 0
    for row in rows:
        names = ", ".join(row)
        marks = ", ".join(f"%({name})s" for name in row)
        new += connection.execute(
            f"insert into activation.notices ({names}) values ({marks}) on conflict (notice_id) do nothing".encode(),
            row | {"payload": Jsonb(row["payload"])},
        ).rowcount
    return new


_DECISIONS = """
    select run_id, as_of, status, reasons, n_customers, n_permitted, n_eligible, data_quality_score, decided_at
    from gate.decisions
    where not is_historical and decided_at > %s
    order by decided_at, run_id collate "C"
"""
_SENT = """
    select
        campaigns.campaign, campaigns.occurrence, campaigns.step, campaigns.run_id, campaigns.channel,
        campaigns.began_at, campaigns.ended_at,
        count(*) filter (where messages.status = 'sent') as sent,
        count(*) filter (where messages.status = 'failed') as failed,
        count(*) filter (where messages.status = 'unknown') as unknown,
        count(*) filter (where messages.status = 'superseded') as held_back,
        count(*) filter (where messages.status = 'holdout') as holdout
    from activation.campaigns as campaigns
    left join activation.messages as messages
        on
            messages.campaign = campaigns.campaign
            and messages.occurrence = campaigns.occurrence
            and messages.step = campaigns.step
    where campaigns.status = 'done' and campaigns.ended_at > %s
    group by campaigns.campaign, campaigns.occurrence, campaigns.step
    order by campaigns.ended_at, campaigns.campaign collate "C", campaigns.occurrence collate "C", campaigns.step
"""


def observe(warehouse: Warehouse, tenant: Tenant, now: datetime) -> int:
    """Queue what the tables tell of the last days: runs that have passed or been stopped at the gate, and campaigns
    that were sent; how many are new.

    Customers newly at risk are queued where the flag is written (`queue_at_risk`): no table keeps the one before.
    """
    if not tenant.webhooks:
        return 0
    since = now - timedelta(days=tenant.business_rules.webhooks.news_days)
    with warehouse.transaction() as connection:
        cursor = connection.cursor(row_factory=dict_row)
        happenings: list[Happening] = []
        for row in cursor.execute(_DECISIONS.encode(), [since]).fetchall():
            data = {
                "run_id": row["run_id"],
                "as_of": row["as_of"].isoformat(),
                "gate": row["status"],
                "reasons": row["reasons"],
                "data_quality_score": row["data_quality_score"],
                **{name: row[f"n_{name}"] for name in ("customers", "permitted", "eligible")},
            }
            happenings.append(Happening(notices.RUN_FINISHED, row["run_id"], row["decided_at"], data))
            if row["status"] != "open":
                happenings.append(Happening(notices.GATE_CLOSED, row["run_id"], row["decided_at"], data))
        for row in cursor.execute(_SENT.encode(), [since]).fetchall():
            began, ended = row.pop("began_at"), row.pop("ended_at")
            data = {**row, "began_at": began and began.isoformat(), "ended_at": ended.isoformat()}
            subject = f"{row['campaign']}:{row['occurrence']}:{row['step']}"
            happenings.append(Happening(notices.CAMPAIGN_SENT, subject, ended, data))
        return queue(connection, tenant, happenings, now)


def queue_at_risk(
    connection: psycopg.Connection,
    tenant: Tenant,
    customers: Sequence[str],
    run_id: str,
    as_of: str,
    now: datetime,
) -> int:
    """Queue the customers who have become at risk, by client code, in the transaction that writes their flag."""
    if not customers or not any(notices.CUSTOMER_AT_RISK in endpoint.events for endpoint in tenant.webhooks):
        return 0
    found = connection.execute(
        'select client_code from curated.dim_customers where customer_id = any(%s) order by client_code collate "C"',
        [list(customers)],
    )
    codes = [str(code) for (code,) in found]
    rules = tenant.business_rules.webhooks
    return queue(connection, tenant, notices.at_risk_happenings(codes, run_id, as_of, now, rules), now)


# --- delivery


def _resolve(host: str, port: int) -> list[str]:
    """Every address of a name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True)
class Door:
    """The way out: one POST to one address that was looked at. Tests inject a resolver, what is allowed and whom to
    trust; nothing else does.
    """

    resolve: Callable[[str, int], list[str]] = _resolve
    is_allowed: Callable[[str], bool] = notices.is_public
    ports: frozenset[int] | None = notices.PORTS  # None: any
    context: ssl.SSLContext = field(default_factory=ssl.create_default_context)

    def post(self, url: str, headers: dict[str, str], body: bytes, seconds: float) -> int:
        """The status of the receiver's answer; DeliveryError where there is none. Takes `seconds` at most after the
        name is resolved.
        """
        try:
            target = httpx.URL(url)
            host, port, path = target.raw_host.decode("ascii"), target.port or 443, target.raw_path
        except (httpx.InvalidURL, UnicodeError):
            raise DeliveryError("BAD_URL") from None
        if target.scheme != "https" or not host:
            raise DeliveryError("BAD_URL")
        if self.ports is not None and port not in self.ports:
            raise DeliveryError("PORT")
        try:
            addresses = self.resolve(host, port)
        except (OSError, UnicodeError):
            raise DeliveryError("NO_ADDRESS") from None
        if not addresses:
            raise DeliveryError("NO_ADDRESS")
        # One private address among public ones is enough: whoever answers for the name may mean to come in by it.
        if not all(map(self.is_allowed, addresses)):
            raise DeliveryError("PRIVATE_ADDRESS")
        named = f"[{host}]" if ":" in host else host
        lines = {"Host": named if port == 443 else f"{named}:{port}", **headers, "Content-Length": str(len(body))}
        head = b"POST " + path + b" HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode("ascii") + b"\r\n"
        until = time.monotonic() + seconds
        try:
            with self._connected(addresses, port, until) as plain:
                plain.settimeout(_left(until))
                with self.context.wrap_socket(plain, server_hostname=host) as secure:
                    secure.settimeout(_left(until))
                    secure.sendall(head + body)
                    return _status(secure, until)
        except ssl.SSLError as error:
            raise DeliveryError("NO_ANSWER" if isinstance(error, ssl.SSLZeroReturnError) else "TLS") from None
        except OSError:
            raise DeliveryError("NO_ANSWER") from None

    def _connected(self, addresses: Sequence[str], port: int, until: float) -> socket.socket:
        """A connection to the first address that takes one; never to another than those looked at."""
        for address in addresses[:-1]:
            try:
                return socket.create_connection((address, port), timeout=_left(until) / 2)
            except OSError:
                continue
        return socket.create_connection((addresses[-1], port), timeout=_left(until))


def _left(until: float) -> float:
    """Seconds until then; TimeoutError when it is past."""
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _status(connection: ssl.SSLSocket, until: float) -> int:
    """The status of an answer's first line that is final; interim answers (1xx) before it are skipped."""
    read = b""
    while len(read) < MAX_ANSWER_BYTES:
        connection.settimeout(_left(until))
        block = connection.recv(4096)
        read += block
        while b"\r\n" in read:
            found = _STATUS.match(read)
            if not found:
                raise DeliveryError("NO_HTTP")
            if int(found[1]) >= 200:
                return int(found[1])
            end_of_interim = read.find(b"\r\n\r\n")
            if end_of_interim < 0:
                break
            read = read[end_of_interim + 4 :]
        if not block:
            raise DeliveryError("NO_HTTP" if read else "NO_ANSWER")
    raise DeliveryError("NO_HTTP")


def signed(notice_id: str, body: str, secret: SecretStr, now: datetime) -> dict[str, str]:
    """The headers of a try, signed by Standard Webhooks; DeliveryError BAD_SECRET."""
    from standardwebhooks import Webhook

    text = secret.get_secret_value()
    try:
        if not text.startswith("whsec_"):
            raise ValueError
        signature = Webhook(text).sign(notice_id, now, body)
    except Exception:  # whatever the library says of a secret may quote it
        raise DeliveryError("BAD_SECRET") from None
    return {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        "Connection": "close",
        "webhook-id": notice_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }


@dataclass
class Deliveries:
    """What became of one round: how many notices by outcome, and by receiver's host what stands in the way."""

    delivered: int = 0
    failed: int = 0  # to be tried again
    given_up: int = 0
    refused: int = 0
    hosts_taken: set[str] = field(default_factory=set)
    hosts_lost: dict[str, str] = field(default_factory=dict)  # host -> problem of a notice that will not be tried again

    @property
    def tried(self) -> int:
        return self.delivered + self.failed + self.given_up + self.refused


_CLAIM = """
    update activation.notices
    set tries = tries + 1, next_try_at = %(now)s + make_interval(secs => %(longest)s)
    where notice_id = (
        select notice_id from activation.notices
        where
            status = 'waiting' and tries < %(max_tries)s and next_try_at <= %(now)s
            and not endpoint_key = any(%(passed)s)
        order by next_try_at, created_at, notice_id collate "C"
        limit 1
        for update skip locked
    )
    returning notice_id, endpoint, endpoint_key, payload, tries
"""


def deliver(
    warehouse: Warehouse,
    tenant: Tenant,
    clock: Clock,
    *,
    door: Door | None = None,
    secret_of: Callable[[str], SecretStr | None] = settings.secret,
    seconds: float = 40.0,
) -> Deliveries:
    """Hand the waiting notices of an estate to their receivers, those that are due, for `seconds` at most.

    A receiver that did not take one is left alone until the next round. What waits for a receiver that has gone from
    the estate's file is given up.
    """
    rules, endpoints = tenant.business_rules.webhooks, notices.endpoints_by_key(tenant)
    door = door or Door()
    done, passed = Deliveries(), set[str]()
    until = time.monotonic() + seconds
    _tidy(warehouse, rules, list(endpoints), clock.now(), done)
    while time.monotonic() < until:
        now = clock.now()
        with warehouse.transaction() as connection:
            row = (
                connection.cursor(row_factory=dict_row)
                .execute(
                    _CLAIM.encode(),
                    {
                        "now": now,
                        "longest": 60 * max([*rules.backoff_minutes, 1]),
                        "max_tries": rules.max_tries,
                        "passed": sorted(passed),
                    },
                )
                .fetchone()
            )
        if row is None:
            break
        if not _hand_over(warehouse, rules, endpoints[row["endpoint_key"]], row, now, door, secret_of, done):
            passed.add(row["endpoint_key"])
    return done


def _hand_over(
    warehouse: Warehouse,
    rules: WebhookRules,
    endpoint: WebhookEndpoint,
    row: dict[str, Any],
    now: datetime,
    door: Door,
    secret_of: Callable[[str], SecretStr | None],
    done: Deliveries,
) -> bool:
    """One try of a claimed notice, and what became of it, written down; whether the receiver took it."""
    status: int | None = None
    problem: str | None = None
    try:
        secret = secret_of(endpoint.secret_variable)
        if secret is None:
            raise DeliveryError("NO_SECRET")
        body = notices.body_of(row["payload"])
        headers = signed(row["notice_id"], body, secret, now)
        status = door.post(endpoint.url, headers, body.encode(), rules.timeout_seconds)
        if not 200 <= status < 300:
            problem = "GONE" if status == 410 else "REDIRECT" if 300 <= status < 400 else "HTTP_STATUS"
    except DeliveryError as error:
        problem, status = error.problem, error.status
    again = notices.next_try_at(row["tries"], now, rules)
    if problem is None:
        state = notices.DELIVERED
        done.delivered += 1
        done.hosts_taken.add(row["endpoint"])
    elif problem in notices.REFUSALS:
        state = notices.REFUSED
        done.refused += 1
    elif again is None or notices.PROBLEMS[problem][0]:
        state = notices.GIVEN_UP
        done.given_up += 1
    else:
        state = notices.WAITING
        done.failed += 1
    if state in (notices.REFUSED, notices.GIVEN_UP):
        done.hosts_lost[row["endpoint"]] = problem or ""
    ended = None if state == notices.WAITING else now
    with warehouse.transaction() as connection:
        connection.execute(
            "update activation.notices set status = %s, last_status = %s, last_problem = %s, next_try_at = %s,"
            " ended_at = %s where notice_id = %s and status = 'waiting'",
            [state, status, problem, again if ended is None else None, ended, row["notice_id"]],
        )
        if problem == "GONE":
            done.given_up += connection.execute(
                "update activation.notices set status = 'given_up', last_problem = 'GONE', next_try_at = null,"
                " ended_at = %s where endpoint_key = %s and status = 'waiting'",
                [now, row["endpoint_key"]],
            ).rowcount
    return problem is None


def _tidy(warehouse: Warehouse, rules: WebhookRules, known: list[str], now: datetime, done: Deliveries) -> None:
    """Give up what waits for receivers that are gone, or whose last try was cut off; forget what ended long ago."""
    with warehouse.transaction() as connection:
        for problem, condition, value in (
            ("ENDPOINT_REMOVED", "not endpoint_key = any(%s)", known),
            ("INTERRUPTED", "next_try_at <= now_ and tries >= %s", rules.max_tries),
        ):
            done.given_up += connection.execute(
                "update activation.notices set status = 'given_up', last_problem = %s, next_try_at = null,"
                f" ended_at = now_ from (select %s::timestamptz as now_) as moment where status = 'waiting'"
                f" and {condition}".encode(),
                [problem, now, value],
            ).rowcount
        connection.execute(
            "delete from activation.notices where ended_at < %s", [now - timedelta(days=rules.keep_days)]
        )


def retry(warehouse: Warehouse, tenant: Tenant, now: datetime, notice_id: str | None = None) -> int:
    """Let what was given up or refused be tried again from the start, and what waits be tried now; how many.

    All of it, or one notice. What is for a receiver that has gone from the estate's file stays given up.
    """
    known = list(notices.endpoints_by_key(tenant))
    max_tries = tenant.business_rules.webhooks.max_tries
    with warehouse.transaction() as connection:
        revived = connection.execute(
            "update activation.notices set status = 'waiting', tries = 0, next_try_at = %s, ended_at = null"
            " where status in ('given_up', 'refused') and notice_id = coalesce(%s, notice_id)"
            " and endpoint_key = any(%s)",
            [now, notice_id, known],
        ).rowcount
        hastened = connection.execute(
            "update activation.notices set next_try_at = %s where status = 'waiting' and tries < %s"
            " and notice_id = coalesce(%s, notice_id) and next_try_at > %s",
            [now, max_tries, notice_id, now],
        ).rowcount
    return revived + hastened


def listed(warehouse: Warehouse, limit: int = 50) -> list[dict[str, Any]]:
    """The newest notices, without their payload: id, event, host, status, tries, when, and what stands in the way."""
    with warehouse.transaction() as connection:
        rows = (
            connection.cursor(row_factory=dict_row)
            .execute(
                "select notice_id, event, endpoint, status, tries, created_at, next_try_at, last_status, last_problem,"
                ' ended_at from activation.notices order by created_at desc, notice_id collate "C" limit %s',
                [limit],
            )
            .fetchall()
        )
    return [row | {"meaning": notices.PROBLEMS.get(row["last_problem"] or "", (False, None))[1]} for row in rows]
