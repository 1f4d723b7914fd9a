"""The record of every call to Brevo that changes something: written before it is made, and again with its outcome.

activation.attempts has codes and counts; the exact bytes, which hold personal data, stand apart in
activation.payloads and are forgotten after `payload_days`. Nothing is sent here.
"""

from __future__ import annotations

import hashlib
import uuid
import zlib
from datetime import datetime, timedelta

import psycopg

from crm_assets.clock import Clock
from crm_assets.logic.brevo_answers import Answer
from crm_assets.logic.brevo_requests import WriteRequest
from crm_assets.resources.brevo import Brevo
from crm_assets.resources.warehouse import Warehouse
from crm_assets.rules import BusinessRules


def content_hash(content: bytes) -> str:
    """SHA-256 of the bytes, in hex: how a request or an answer is called in the ledger."""
    return hashlib.sha256(content).hexdigest()


def keep(connection: psycopg.Connection, content: bytes, now: datetime) -> str:
    """Store exact bytes once; their hash."""
    digest = content_hash(content)
    connection.execute(
        "insert into activation.payloads (content_hash, content, kept_at) values (%s, %s, %s)"
        " on conflict (content_hash) do nothing",
        [digest, zlib.compress(content, 1), now],
    )
    return digest


def kept(connection: psycopg.Connection, digest: str) -> bytes | None:
    """The bytes of that hash; None once they are forgotten."""
    found = connection.execute("select content from activation.payloads where content_hash = %s", [digest]).fetchone()
    return kept_content(found[0]) if found else None


def kept_content(stored: bytes) -> bytes:
    """The bytes of a row of activation.payloads."""
    return zlib.decompress(stored)


def begin(
    connection: psycopg.Connection,
    endpoint: str,
    content: bytes,
    n_messages: int,
    now: datetime,
    *,
    is_dry_run: bool,
    campaign: tuple[str, str, int] | None = None,
    tag: str | None = None,
    account: str | None = None,
    attempt_id: str | None = None,
) -> str:
    """Write that a call is about to be made; its attempt_id. `campaign`: name, occurrence, step. `account`: at Brevo.

    The caller commits before it calls: a call that nobody knows of must not exist.
    """
    attempt_id = attempt_id or uuid.uuid4().hex
    name, occurrence, step = campaign or (None, None, None)
    connection.execute(
        "insert into activation.attempts (attempt_id, endpoint, campaign, occurrence, step, tag, account, n_messages,"
        " n_bytes, request_hash, is_dry_run, started_at) values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
        " on conflict (attempt_id) do update set started_at = excluded.started_at, ended_at = null, outcome = null",
        [
            *(attempt_id, endpoint, name, occurrence, step, tag, account, n_messages, len(content)),
            *(keep(connection, content, now) if not is_dry_run else content_hash(content), is_dry_run, now),
        ],
    )
    return attempt_id


def end(connection: psycopg.Connection, attempt_id: str, answer: Answer, now: datetime) -> None:
    """Write how the call ended."""
    digest = keep(connection, answer.content, now) if answer.content else None
    connection.execute(
        "update activation.attempts set outcome = %s, reason = %s, http_status = %s, error_code = %s,"
        " answer_hash = %s, ended_at = %s where attempt_id = %s",
        [answer.outcome, answer.reason, answer.status, answer.error_code, digest, now, attempt_id],
    )


def write(warehouse: Warehouse, client: Brevo, request: WriteRequest, clock: Clock) -> Answer:
    """Make one call that is no message, with its record before and after; a dry run is recorded as one."""
    with warehouse.transaction() as connection:
        attempt_id = begin(
            connection, request.endpoint, request.body, request.n_rows, clock.now(), is_dry_run=client.is_dry_run,
            account=client.account or None,
        )  # fmt: skip
        connection.commit()
        answer = client.write(request)
        end(connection, attempt_id, answer, clock.now())
    return answer


def forget_old(connection: psycopg.Connection, rules: BusinessRules, now: datetime) -> int:
    """Remove exact bytes that have been kept for `payload_days`; how many. The ledger's codes and counts stay."""
    before = now - timedelta(days=rules.activation.payload_days)
    removed = connection.execute("delete from activation.payloads where kept_at < %s", [before]).rowcount
    removed += connection.execute("delete from outcomes.received where received_at < %s", [before]).rowcount
    return removed
