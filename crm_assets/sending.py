"""Sending a planned campaign: the data as they are now, then frozen calls to Brevo, each at most once (spec.md §7).

Shared by the Dagster asset and by `crm send`; runs without Dagster, and may be killed at any moment. One loop: in the
sending transaction the next messages are checked again and frozen with the exact bytes of their call, then the call is
made, then its outcome is stored; nothing else is frozen before that. What was under way when a sender ended is settled
by `settlement.py`, never by sending again. What may leave is decided in `safeguards.py` and `rechecks.py`, calls are
packed in `logic/outbox.py`.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, NoReturn

import pandas as pd
import psycopg

from crm_assets import activation, attempts, brevo_templates, feedback, instances, safeguards, settlement
from crm_assets.campaigns import Campaign, CampaignFiles
from crm_assets.clock import Clock, SystemClock
from crm_assets.logic.activation import HASHED, PLANNED, RefusalError, short_hash
from crm_assets.logic.outbox import COLUMNS, MESSAGE_TOO_LARGE, Chunk, Packer, chunks
from crm_assets.rechecks import COLUMNS as RECHECKED
from crm_assets.rechecks import Recheck, Verdict, WithinTransaction
from crm_assets.resources import brevo
from crm_assets.resources.brevo import Answer, Brevo
from crm_assets.resources.warehouse import Warehouse, WarehouseError
from crm_assets.run_context import TenantRun
from crm_assets.settings import Settings
from crm_assets.settlement import SETTLING, Settled
from crm_assets.tenants import Tenant

_LOCK = "hashtext('crm sending')"
_LOCK_SECONDS = 10  # a killed sender's session may live so long on the server
ABANDONED, DONE, SENDING, WAITING = "abandoned", "done", "sending", "waiting"
AT_BREVO = "AT_BREVO"  # reason of a message that turned out to have been sent already
_WANTED = [*dict.fromkeys([*RECHECKED, *COLUMNS])]
# Answers that concern the account, not the call: whoever is asked next gets the same.
_REFUSED_ACCOUNT = {"unauthorized": "KEY_REFUSED", "forbidden": "FORBIDDEN", "no_credit": "NO_CREDIT"}
_HASHED_AT_ONCE = 5_000
# Messages refused one by one with nothing accepted in between: from so many on it is not them. More of them, where
# Brevo has taken a call of this very step: bad rows may stand side by side, and would never be got past.
_SUSPICIOUS_FAILURES, _SUSPICIOUS_LATER = 2, 6


@dataclass(frozen=True)
class Sending:
    """What a send works with. `confirmed_hash`: of the exact plan, which makes it live; None: a dry run. `by`: who
    confirmed it. `as_of`: the day that a dry run is for; a live one is for the day it is. `connect`: makes the client.
    """

    warehouse: Warehouse
    tenant: Tenant
    campaign: Campaign
    config: Settings
    clock: Clock = field(default_factory=SystemClock)
    occurrence: str | None = None
    confirmed_hash: str | None = None
    by: str = ""
    as_of: date | None = None
    connect: Callable[..., Brevo] = brevo.client


@dataclass(frozen=True)
class SendSummary:
    """What a send did, in counts. `messages`: accepted by Brevo, or in a dry run packed; `found`: sent by an earlier
    call, as Brevo's log says; `remaining`: still planned. `wait_until`: when it goes on by itself.
    """

    campaign: str
    occurrence: str
    step: int
    plan_hash: str
    dry_run: bool
    status: str
    chunks: int = 0
    messages: int = 0
    bytes: int = 0
    found: int = 0
    unknown: int = 0
    failed: int = 0
    held_back: dict[str, int] = field(default_factory=dict)
    remaining: int = 0
    wait_until: datetime | None = None
    wait_reason: str | None = None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self) -> str:
        """What happened, in a line."""
        held = ", ".join(f"{reason} {count}" for reason, count in self.held_back.items())
        parts = [
            f"{self.campaign} {self.occurrence}: {'dry run' if self.dry_run else 'live'}, {self.messages} messages in"
            f" {self.chunks} calls, {self.bytes} bytes",
            *([f"held back: {held}"] if held else []),
            *(f"{count} {what}" for count, what in ((self.found, "found sent"), (self.failed, "refused")) if count),
            *([f"{self.unknown} of unknown fate"] if self.unknown else []),
            *([f"{self.remaining} still planned"] if self.remaining and not self.dry_run else []),
            *([f"goes on from {self.wait_until:%Y-%m-%d %H:%M} UTC on: {self.wait_reason}"] if self.wait_until else []),
            *([self.problem] if self.problem else []),
        ]
        return "; ".join(parts)


class _Ledger:
    """The one connection of a live send. It holds the estate's sending lock: with it gone, nothing more is written, so
    that two senders never work on one ledger.
    """

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection

    @classmethod
    @contextmanager
    def open(cls, warehouse: Warehouse) -> Iterator[_Ledger]:
        try:
            with psycopg.connect(
                warehouse.url, autocommit=True, application_name=warehouse.application_name
            ) as connection:
                until = time.monotonic() + _LOCK_SECONDS
                while not cls._locked(connection):
                    if time.monotonic() > until:
                        raise RefusalError("ALREADY_SENDING", "another send of this estate is under way; let it end")
                    time.sleep(0.1)
                yield cls(connection)
        except psycopg.Error as error:
            raise WarehouseError(error) from None

    @staticmethod
    def _locked(connection: psycopg.Connection) -> bool:
        row = connection.execute(f"select pg_try_advisory_lock({_LOCK})".encode()).fetchone()
        return bool(row and row[0])

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection]:
        try:
            with self._connection.transaction():
                yield self._connection
        except psycopg.Error as error:
            raise WarehouseError(error) from None


@dataclass(frozen=True)
class _Call:
    """A chunk whose try has been written down: nothing is left but to make it. `tries`: before it, in this run."""

    tag: str
    attempt_id: str
    body: bytes = field(repr=False)
    message_ids: tuple[str, ...]
    begun_at: datetime
    mark: int
    tries: int = 0


@dataclass(frozen=True)
class _Pause:
    """Nothing may leave now: until when, and why; `until` None: a person must act. `problem`: a sentence."""

    until: datetime | None
    reason: str
    problem: str | None = None


@dataclass
class _Work:
    """Messages to be frozen into the next call: those of a refused half, or all that are planned (`ids` None)."""

    ids: list[str] | None = None
    split_from: str | None = None


class _Sender:
    """One live send, from the confirmation to the end of its work or the next wait."""

    def __init__(self, run: Sending, stored: dict[str, Any], ledger: _Ledger, client: Brevo) -> None:
        self.run, self.stored, self.ledger, self.client = run, stored, ledger, client
        self.rules = run.tenant.business_rules
        self.clock = run.clock
        self.key = (str(stored["campaign"]), str(stored["occurrence"]), int(stored["step"]))
        self.recheck = Recheck(run.tenant, run.campaign, stored)
        self.packer = Packer(run.tenant, run.campaign, self.key[1], self.key[2], self.rules)
        self.batches: list[tuple[str, int]] = []  # with planned messages, in order, and how many
        self.halves: list[_Work] = []  # of refused calls, the next one last
        self.again: list[tuple[str, int]] = []  # frozen calls to be made again, and tries so far
        self.suspects: list[tuple[str, str]] = []  # (message_id, tag) refused alone, nothing accepted since
        self.accepted_since_split = True
        self.counts: Counter[str] = Counter()
        self.held: Counter[str] = Counter()
        self.last_refusal = Answer("rejected", "bad_request")
        self.per_call = self.rules.activation.chunk_max_messages

    # --- the whole

    def send(self) -> SendSummary:
        with self.ledger.transaction() as connection:
            settlement.take_over(connection, self.clock.now())
        self._refresh_refusals()
        if pause := self._settle():
            return self._end(pause)
        if self.again and self._is_over():
            self._let_go()
        if self.stored["began_at"] is not None and not self.again and not self._n_planned():
            return self._end(None)
        try:
            self._require_plan()
            self._require_live()
        except RefusalError:
            self._let_go()
            raise
        self._load_batches()
        try:
            return self._end(self._work())
        except RefusalError as refusal:
            self._end(_Pause(None, refusal.code))
            raise

    def _is_over(self) -> bool:
        """Whether the occurrence has been given up, or followed by a newer one."""
        found = self.run.warehouse.rows(
            "select 1 from activation.campaigns as of where (campaign, occurrence, step) = (%s, %s, %s)"
            f" and {settlement.IS_OVER}",
            self.key,
        )
        return bool(found)

    def _let_go(self) -> None:
        """Calls that Brevo never got are not made again as they are, now that nothing may leave."""
        if self.again:
            with self.ledger.transaction() as connection:
                settlement.let_go(connection, [tag for tag, _ in self.again], self.clock.now())
            self.again.clear()

    def _require_live(self) -> None:
        run = self.run
        safeguards.judge(run.warehouse, self.stored, self.rules, self.clock.now())
        safeguards.require_live(
            run.warehouse,
            run.tenant,
            run.config,
            self.stored,
            run.confirmed_hash,
            self.rules,
            self.clock,
            by=run.by,
        )

    def _require_plan(self) -> None:
        if self.stored["status"] == ABANDONED:
            raise RefusalError("ABANDONED", f"{self.key[0]} {self.key[1]} has been given up; nothing more of it leaves")
        require_unchanged(self.run, self.stored)
        brevo_templates.require_unchanged(self.client, activation.fetched_of(self.stored))

    def _refresh_refusals(self) -> None:
        """Read what people have refused since; a send that cannot is refused by `require_live`."""
        run = self.run
        feedback.pull(run.warehouse, run.tenant, self.client, self.rules, self.clock, feeds=feedback.REFUSALS)

    def _keep_fresh(self) -> None:
        """What webhooks have brought counts at once; what is polled, when it has grown old."""
        run = self.run
        if run.warehouse.rows(
            "select exists (select 1 from outcomes.received where read_at is null and problem is null)"
        )[0][0]:
            feedback.ingest_received(run.warehouse, run.tenant.slug, self.clock.now())
        if not feedback.is_fresh(run.warehouse, self.rules, self.clock.now()):
            self._refresh_refusals()
            if not feedback.is_fresh(run.warehouse, self.rules, self.clock.now()):
                raise RefusalError(
                    "REFUSALS_UNREADABLE", "who has refused at Brevo can no longer be read; nothing more leaves"
                )

    def _work(self) -> _Pause | None:
        """Call after call until nothing is planned any more, or nothing may leave."""
        while True:
            self._keep_fresh()
            call = self._next_call()
            if isinstance(call, _Pause):
                return call
            if call is None:
                self._judge_suspects()
                if (pause := self._settle()) is not None or not self.again:
                    return pause
                continue
            if (pause := self._made(call)) is not None:
                return pause

    # --- unknown outcomes

    def _settle(self) -> _Pause | None:
        """Look up what is unknown of this step. Calls that Brevo never got are made again; while nothing is known of
        one, nothing else leaves.
        """
        run = self.run
        settled: Settled = settlement.settle(run.warehouse, run.tenant, self.client, self.rules, self.clock, self.key)
        self.counts["found"] += settled.n_sent
        known = {tag for tag, _ in self.again}
        self.again += [(tag, 0) for tag in settled.absent if tag not in known]
        if set(settled.waiting) - known:
            return _Pause(settled.look_at, SETTLING, settled.problem)
        if settled.partial and not self.again and not self._n_planned():
            return _Pause(settled.look_at, SETTLING, settled.problem)
        return None

    # --- the sending transaction

    def _next_call(self) -> _Call | _Pause | None:
        """Freeze the next call, or say why nothing may leave; None: nothing is planned any more."""
        while True:
            work = self.halves[-1] if self.halves else _Work()
            again = self.again[-1] if self.again else None
            with self.ledger.transaction() as connection:
                row = connection.execute(
                    "select status from activation.campaigns where (campaign, occurrence, step) = (%s, %s, %s)"
                    " for update",
                    self.key,
                ).fetchone()
                if row is None or row[0] == ABANDONED:
                    raise RefusalError("ABANDONED", f"{self.key[0]} {self.key[1]} has been given up")
                now = self.clock.now()
                if again:
                    # Counted by the ramp-up as soon as it is under way again, not twice.
                    connection.execute("update activation.chunks set status = 'released' where tag = %s", [again[0]])
                allowed = safeguards.allowance(
                    connection,
                    self.run.warehouse,
                    self.run.tenant,
                    self.stored,
                    self.rules,
                    now,
                    config=self.run.config,
                )
                if allowed.messages <= 0:
                    if again:
                        settlement.release(connection, again[0], now, "log")
                    pause = _Pause(allowed.wait_until, allowed.reason or "STOPPED")
                    break
                self._require_unexpired(now)
                self.recheck.gates(connection, self.run.tenant.today(now))
                if again:
                    self.again.pop()
                    call = self._frozen_again(connection, *again, allowed.messages, now)
                    is_over = False
                else:
                    call, is_over = self._frozen(connection, work, allowed.messages, now)
            if call is not None:
                return call
            if not again and is_over:
                if not self.halves:
                    return None
                self.halves.pop()
        if again:
            self.again.pop()
        return pause

    def _require_unexpired(self, now: datetime) -> None:
        last_day = self.stored["expires_on"].date()
        if self.run.tenant.today(now) > last_day:
            raise RefusalError("EXPIRED", f"the plan of {self.key[0]} {self.key[1]} expired on {last_day}")

    def _frozen(
        self, connection: psycopg.Connection, work: _Work, most: int, now: datetime
    ) -> tuple[_Call | None, bool]:
        """The next planned messages in a new chunk; whether there were none left."""
        most = min(most, self.rules.activation.chunk_max_messages)
        messages = self._planned(connection, work, min(most, self.per_call))
        if messages.empty:
            return None, True
        verdict = self.recheck.of(connection, messages, self.run.tenant.today(now))
        self._apply(connection, verdict, now)
        ready = messages[~messages["message_id"].isin(verdict.stays)]
        if ready.empty:
            return None, False
        packed = self.packer.freeze(ready, most=most, nonce=uuid.uuid4().hex)
        if packed.too_large:
            self._fail(connection, packed.too_large, MESSAGE_TOO_LARGE)
        chunk = packed.chunk
        if chunk is None:
            return None, False
        # What the bytes left no room for is not checked in vain next time.
        whole = len(chunk.message_ids) + len(packed.too_large) == len(ready)
        n_packed = len(chunk.message_ids)
        self.per_call = self.rules.activation.chunk_max_messages if whole else n_packed + n_packed // 10 + 1
        connection.execute(
            "insert into activation.chunks (tag, campaign, occurrence, step, idempotency_key, request_hash, n_messages,"
            " n_bytes, split_from, status, frozen_at, first_tried_at)"
            " values (%s, %s, %s, %s, %s, %s, %s, %s, %s, 'sending', %s, %s)",
            [
                *(chunk.tag, *self.key, chunk.idempotency_key, chunk.request_hash, len(chunk.message_ids)),
                *(len(chunk.body), work.split_from, now, now),
            ],
        )
        connection.execute(
            "update activation.messages set status = 'sending', tag = %s, sent_at = %s, reason = null"
            " where message_id = any(%s)",
            [chunk.tag, now, list(chunk.message_ids)],
        )
        self.recheck.leaving(ready[ready["message_id"].isin(chunk.message_ids)])
        return self._begun(connection, chunk.tag, chunk.body, chunk.message_ids, now, 0), False

    def _frozen_again(
        self, connection: psycopg.Connection, tag: str, tries: int, most: int, now: datetime
    ) -> _Call | None:
        """The same bytes once more, where everybody in them may still be written to; else the chunk is dissolved and
        who may is planned again.
        """
        messages = WithinTransaction(connection).read(
            "activation",
            "messages",
            _WANTED,
            "tag = %s and status in ('sending', 'unknown')",
            [tag],
            order_by="message_id",
        )
        body = self._kept_body(connection, tag)
        verdict = self.recheck.of(connection, messages, self.run.tenant.today(now)) if len(messages) else Verdict()
        if not len(messages) or verdict.stays or len(messages) > most or body is None:
            settlement.release(connection, tag, now, "log")
            self._apply(connection, verdict, now)
            self._load_batches(connection)
            return None
        connection.execute("update activation.chunks set status = 'sending' where tag = %s", [tag])
        connection.execute(
            "update activation.messages set status = 'sending', sent_at = %s, reason = null where tag = %s",
            [now, tag],
        )
        return self._begun(connection, tag, body, tuple(messages["message_id"]), now, tries)

    def _kept_body(self, connection: psycopg.Connection, tag: str) -> bytes | None:
        row = connection.execute("select request_hash from activation.chunks where tag = %s", [tag]).fetchone()
        return attempts.kept(connection, row[0]) if row else None

    def _begun(
        self,
        connection: psycopg.Connection,
        tag: str,
        body: bytes,
        message_ids: tuple[str, ...],
        now: datetime,
        tries: int,
    ) -> _Call:
        attempt_id = attempts.begin(
            connection, brevo.SEND, body, len(message_ids), now, is_dry_run=False, campaign=self.key, tag=tag,
            account=self.client.account,
        )  # fmt: skip
        connection.execute(
            "update activation.campaigns set status = %s, began_at = coalesce(began_at, %s), wait_until = null,"
            " wait_reason = null where (campaign, occurrence, step) = (%s, %s, %s)",
            [SENDING, now, *self.key],
        )
        return _Call(tag, attempt_id, body, message_ids, now, instances.advance(connection), tries)

    def _planned(self, connection: psycopg.Connection, work: _Work, count: int) -> pd.DataFrame:
        """The next planned messages in order of their batches, at most `count`, locked."""
        key = ("(campaign, occurrence, step) = (%s, %s, %s)", list(self.key))
        if work.ids is not None:
            ids = work.ids[:count]
            found = self._read(connection, f"message_id = any(%s) and {key[0]}", [ids, *key[1]])
            work.ids = work.ids[count:]
            return found
        while self.batches:
            chosen, wanted = [], count
            for batch, n_left in self.batches:
                chosen.append(batch)
                wanted -= n_left
                if wanted <= 0:
                    break
            found = self._read(connection, f"batch_id = any(%s) and {key[0]}", [chosen, *key[1]])
            if len(found):
                order = {batch: place for place, batch in enumerate(chosen)}
                found = found.assign(place=found["batch_id"].map(order))
                found = found.sort_values(["place", "message_id"], kind="stable", ignore_index=True)
                per_batch = found["batch_id"].value_counts()
                taken = found.head(count)["batch_id"].value_counts()
                left = [(b, int(per_batch.get(b, 0) - taken.get(b, 0))) for b in chosen]
                self.batches = [(b, n) for b, n in left if n > 0] + self.batches[len(chosen) :]
                return found.head(count)
            self.batches = self.batches[len(chosen) :]
        self._load_batches(connection)
        return self._planned(connection, work, count) if self.batches else pd.DataFrame(columns=_WANTED)

    def _read(self, connection: psycopg.Connection, where: str, params: Sequence[Any]) -> pd.DataFrame:
        connection.execute(
            f"select 1 from activation.messages where {where} and status = 'planned' for update".encode(), params
        )
        return WithinTransaction(connection).read(
            "activation", "messages", [*_WANTED, "batch_id"], f"{where} and status = 'planned'", params
        )

    def _load_batches(self, connection: psycopg.Connection | None = None) -> None:
        """The batches of this step that have planned messages, in order."""
        statement = (
            "select messages.batch_id, count(*) from activation.messages as messages"
            " inner join activation.batches as batches on messages.batch_id = batches.batch_id"
            " where (messages.campaign, messages.occurrence, messages.step) = (%s, %s, %s)"
            " and messages.status = 'planned' group by messages.batch_id, batches.batch_no order by batches.batch_no"
        )
        if connection is None:
            self.batches = [(b, int(n)) for b, n in self.run.warehouse.rows(statement, self.key)]
        else:
            self.batches = [(b, int(n)) for b, n in connection.execute(statement.encode(), self.key).fetchall()]

    def _n_planned(self) -> int:
        return int(
            self.run.warehouse.rows(
                "select count(*) from activation.messages"
                " where (campaign, occurrence, step) = (%s, %s, %s) and status = 'planned'",
                self.key,
            )[0][0]
        )

    def _apply(self, connection: psycopg.Connection, verdict: Verdict, now: datetime) -> None:
        """Write what the re-check said: superseded with the reason, or sent long ago."""
        if verdict.held:
            connection.execute(
                "update activation.messages as messages set status = 'superseded', reason = held.reason"
                " from unnest(%s::text[], %s::text[]) as held (message_id, reason)"
                " where messages.message_id = held.message_id and messages.status = 'planned'",
                [list(verdict.held), list(verdict.held.values())],
            )
            self.held.update(verdict.held.values())
        if verdict.at_brevo:
            connection.execute(
                "update activation.messages as messages set status = 'sent', sent_at = there.at, reason = %s"
                " from unnest(%s::text[], %s::timestamptz[]) as there (message_id, at)"
                " where messages.message_id = there.message_id and messages.status = 'planned'",
                [AT_BREVO, list(verdict.at_brevo), list(verdict.at_brevo.values())],
            )
            self.counts["found"] += len(verdict.at_brevo)

    def _fail(self, connection: psycopg.Connection, message_ids: Sequence[str], reason: str) -> None:
        connection.execute(
            "update activation.messages set status = 'failed', sent_at = null, reason = %s where message_id = any(%s)",
            [reason, list(message_ids)],
        )
        self.counts["failed"] += len(message_ids)

    # --- the call and its outcome

    def _made(self, call: _Call) -> _Pause | None:
        """Make a call that has been written down, and write what became of it."""
        instances.keep(self.run.config, self.run.tenant.slug, call.mark, call.begun_at)
        stale = timedelta(minutes=self.rules.activation.settling.look_gap_minutes)
        if self.clock.now() - call.begun_at > stale:
            # The machine slept between the check and the call: what was checked then is not known now.
            answer = Answer("not_sent", "not_connected")
        else:
            try:
                answer = self.client.send_email(call.body)
            except brevo.InvalidRequestError:  # found before anything left
                answer = Answer("rejected", "bad_request", error_code="invalid_request")
        now = self.clock.now()
        self.counts["chunks"] += 1
        self.counts["bytes"] += len(call.body)
        with self.ledger.transaction() as connection:
            attempts.end(connection, call.attempt_id, answer, now)
            after = self._recorded(connection, call, answer, now)
        return after()

    def _recorded(
        self, connection: psycopg.Connection, call: _Call, answer: Answer, now: datetime
    ) -> Callable[[], _Pause | None]:
        """Move chunk and messages on by the outcome; what to do once that is committed."""
        if answer.outcome == "accepted" and answer.reason == "ok":
            return self._accepted(connection, call, now)
        self.recheck.recount()
        if answer.outcome == "rejected":
            return self._rejected(connection, call, answer, now)
        if answer.outcome == "not_sent":
            return self._not_sent(connection, call, answer, now)
        # Accepted before, ids and content unknown, is settled as a lost answer is: by the log.
        settlement.mark_unknown(connection, [call.tag], now, answer.reason.upper())
        return self._settle

    def _accepted(self, connection: psycopg.Connection, call: _Call, now: datetime) -> Callable[[], _Pause | None]:
        connection.execute(
            "update activation.chunks set status = 'accepted', settled_at = %s, settled_by = 'answer' where tag = %s",
            [now, call.tag],
        )
        connection.execute(
            "update activation.messages set status = 'sent', sent_at = %s where tag = %s and status = 'sending'",
            [now, call.tag],
        )
        self.counts["messages"] += len(call.message_ids)
        self.suspects.clear()
        self.accepted_since_split = True
        return _go_on

    def _rejected(
        self, connection: psycopg.Connection, call: _Call, answer: Answer, now: datetime
    ) -> Callable[[], _Pause | None]:
        """Halve a refused call; one refused message alone is a dead letter, unless everything is being refused."""
        if answer.reason == "not_found" or len(self.suspects) >= self._suspicious(connection):
            settlement.release(connection, call.tag, now, "answer")
            return lambda: self._everything_refused(answer)
        status = "split" if len(call.message_ids) > 1 else "rejected"
        connection.execute(
            "update activation.chunks set status = %s, settled_at = %s, settled_by = 'answer' where tag = %s",
            [status, now, call.tag],
        )
        if status == "rejected":
            self._fail(connection, call.message_ids, f"REJECTED_{(answer.error_code or answer.reason).upper()}")
            self.suspects.append((call.message_ids[0], call.tag))
            self.last_refusal = answer
            return _go_on
        connection.execute(
            "update activation.messages set status = 'planned', tag = null, sent_at = null where tag = %s", [call.tag]
        )
        if not any(half.split_from for half in self.halves):
            self.accepted_since_split = False
        middle = len(call.message_ids) // 2
        for ids in (call.message_ids[middle:], call.message_ids[:middle]):
            self.halves.append(_Work(list(ids), call.tag))
        self.last_refusal = answer
        return _go_on

    def _judge_suspects(self) -> None:
        """Messages that were refused one by one while nothing of their call was accepted are not to blame."""
        if self.accepted_since_split:
            return
        with self.ledger.transaction() as connection:
            is_suspicious = len(self.suspects) >= self._suspicious(connection)
        if is_suspicious:
            self._everything_refused(self.last_refusal)

    def _suspicious(self, connection: psycopg.Connection) -> int:
        taken = connection.execute(
            "select 1 from activation.chunks where (campaign, occurrence, step) = (%s, %s, %s)"
            " and status = 'accepted' limit 1",
            self.key,
        ).fetchone()
        return _SUSPICIOUS_LATER if taken else _SUSPICIOUS_FAILURES

    def _everything_refused(self, answer: Answer) -> NoReturn:
        with self.ledger.transaction() as connection:
            connection.execute(
                "update activation.messages set status = 'planned', tag = null, sent_at = null, reason = null"
                " where message_id = any(%s) and status = 'failed'",
                [[message for message, _ in self.suspects]],
            )
        self.counts["failed"] -= len(self.suspects)
        self.suspects.clear()
        said = answer.error_code or answer.reason
        raise RefusalError(
            "ALL_REFUSED",
            f"Brevo refuses every call of {self.key[0]} {self.key[1]} ({said}): the fault is in none of the messages."
            " Look whether the sender is registered in the account whose key this is, and whether the template exists"
            f" and is active there; then send again. {self._n_planned()} messages remain planned",
        )

    def _not_sent(
        self, connection: psycopg.Connection, call: _Call, answer: Answer, now: datetime
    ) -> Callable[[], _Pause | None]:
        """Nothing has left: the same call again after a wait, a few times; or an account that must be mended first."""
        if answer.reason in _REFUSED_ACCOUNT:
            settlement.release(connection, call.tag, now, "answer")
            return lambda: self._account_refused(answer)
        backoff, tries = self.rules.brevo.backoff_seconds, call.tries + 1
        wait = answer.retry_after if answer.retry_after is not None else backoff.first * 2**call.tries
        if tries >= self.rules.activation.not_sent_tries or wait > backoff.most:
            settlement.release(connection, call.tag, now, "answer")
            until = now + timedelta(seconds=max(wait, backoff.most))
            return lambda: _Pause(until, answer.reason.upper())

        def again() -> None:
            self.clock.sleep(wait)
            self.again.append((call.tag, tries))

        return again

    def _account_refused(self, answer: Answer) -> NoReturn:
        raise RefusalError(
            _REFUSED_ACCOUNT[answer.reason],
            f"{brevo.advice(answer.reason, self.run.tenant)}; then send again."
            f" {self.counts['messages']} messages have left, {self._n_planned()} remain planned",
        )

    # --- the end

    def _end(self, pause: _Pause | None) -> SendSummary:
        """Write where the campaign stands, and say it."""
        with self.ledger.transaction() as connection:
            settlement.take_over(connection, self.clock.now())
            settlement.let_go(connection, [tag for tag, _ in self.again], self.clock.now())
            row = connection.execute(
                "select count(*) filter (where status = 'planned'),"
                " count(*) filter (where status in ('unknown', 'sending')) from activation.messages"
                " where (campaign, occurrence, step) = (%s, %s, %s)",
                self.key,
            ).fetchone()
            assert row is not None
            n_planned, n_unknown = row
            status = DONE if pause is None and not n_planned and not n_unknown else WAITING
            until, reason = (pause.until, pause.reason) if pause else (None, None)
            now = self.clock.now()
            connection.execute(
                "update activation.campaigns set status = %s, wait_until = %s, wait_reason = %s,"
                " ended_at = case when %s then coalesce(ended_at, %s) end"
                " where (campaign, occurrence, step) = (%s, %s, %s) and status <> %s",
                [status, until, reason, status == DONE, now, *self.key, ABANDONED],
            )
            connection.execute(
                "update activation.batches as batches set status = found.status from ("
                " select batch_id, case when bool_or(status = 'sent') then 'sent' else 'superseded' end as status"
                " from activation.messages where (campaign, occurrence, step) = (%s, %s, %s) and batch_id is not null"
                " group by batch_id having not bool_or(status in ('planned', 'sending', 'unknown'))) as found"
                " where batches.batch_id = found.batch_id and batches.status <> found.status",
                self.key,
            )
        counts = self.counts
        return SendSummary(
            campaign=self.key[0],
            occurrence=self.key[1],
            step=self.key[2],
            plan_hash=self.stored["plan_hash"],
            dry_run=False,
            status=status,
            chunks=counts["chunks"],
            messages=counts["messages"],
            bytes=counts["bytes"],
            found=counts["found"],
            unknown=n_unknown,
            failed=counts["failed"],
            held_back=dict(sorted(self.held.items())),
            remaining=n_planned,
            wait_until=until,
            wait_reason=reason,
            problem=pause.problem if pause else None,
        )


def _go_on() -> None:
    """Nothing more to do after an outcome."""


def require_unchanged(run: Sending, stored: dict[str, Any]) -> None:
    """RefusalError when the campaign's file, templates, sender or a message is no longer what was planned."""
    key = [stored["campaign"], stored["occurrence"], int(stored["step"])]
    if not activation.plan_is_unchanged(run.tenant, run.campaign, stored, _all_messages(run.warehouse, key)):
        raise RefusalError(
            "PLAN_CHANGED",
            f"{key[0]} {key[1]} is no longer what was planned: its file, the template, the sender or a message has"
            " changed since",
        )


def _all_messages(warehouse: Warehouse, key: list[Any]) -> Iterator[pd.DataFrame]:
    """What a plan's hash is made of, some messages at a time: a large campaign is never in memory as a whole."""
    after = ""
    while True:
        found = warehouse.query(
            f"select {', '.join(HASHED)} from activation.messages where (campaign, occurrence, step) = (%s, %s, %s)"
            ' and message_id collate "C" > %s order by message_id collate "C" limit %s',
            [*key, after, _HASHED_AT_ONCE],
        )
        if len(found):
            yield found
            after = found["message_id"].iloc[-1]
        if len(found) < _HASHED_AT_ONCE:
            return


def is_under_way(connection: psycopg.Connection) -> bool:
    """Whether a live send of this estate is at work at this moment."""
    row = connection.execute(
        "select exists (select 1 from pg_locks where locktype = 'advisory' and granted and objsubid = 1"
        " and database = (select oid from pg_database where datname = current_database())"
        f" and objid = ({_LOCK}::bigint & 4294967295)::oid)".encode()
    ).fetchone()
    return bool(row and row[0])


def send_campaign(run: Sending) -> SendSummary:
    """Send a planned occurrence (the latest unless said): live where the hash of its plan is confirmed, else dry.

    A live send goes on until nothing is planned any more, or until it has to wait: then the summary and the campaign's
    row say until when. RefusalError says why nothing, or nothing more, may leave; what has not left remains planned.
    A dry run writes activation.attempts (the same run twice, the same rows) and leaves messages as they are.
    """
    if run.campaign.channel != "email":
        raise RefusalError("NOT_AN_EMAIL", f"campaign {run.campaign.name} is done by {run.campaign.channel}, not sent")
    stored = activation.stored_plan(run.warehouse, run.campaign.name, run.occurrence)
    if stored is None:
        wanted = f" {run.occurrence}" if run.occurrence else ""
        raise RefusalError("NOT_PLANNED", f"campaign {run.campaign.name} has no plan{wanted}; plan it first")
    if run.confirmed_hash is None:
        return _dry_run(run, stored)
    today = run.tenant.today(run.clock.now())
    if run.as_of not in (None, today):
        raise RefusalError("HISTORICAL", f"a live send is of today, {today}, not of {run.as_of}")
    try:
        client = run.connect(run.tenant, run.config, run.clock, mode="live")
    except brevo.LiveRefusedError as error:
        raise RefusalError("LIVE_REFUSED", str(error)) from error
    with client, _Ledger.open(run.warehouse) as ledger:
        return _Sender(run, stored, ledger, client).send()


def _dry_run(run: Sending, stored: dict[str, Any]) -> SendSummary:
    """Check and pack what is planned as a live send would, and hand it to a client that opens no socket."""
    now = run.clock.now()
    today = run.as_of or run.tenant.today(now)
    key = (str(stored["campaign"]), str(stored["occurrence"]), int(stored["step"]))
    last_day = stored["expires_on"].date()
    if today > last_day:
        raise RefusalError("EXPIRED", f"the plan of {key[0]} {key[1]} expired on {last_day}")
    require_unchanged(run, stored)
    client = run.connect(run.tenant, run.config, run.clock, mode="dry")
    recheck = Recheck(run.tenant, run.campaign, stored)
    packer = Packer(run.tenant, run.campaign, key[1], key[2], run.tenant.business_rules)
    held: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    with run.warehouse.transaction() as connection:
        activation.require_running(connection, key[0])
        recheck.gates(connection, today)
        for messages in _pages(connection, key, packer.rules.activation.chunk_max_messages):
            verdict = recheck.of(connection, messages, today)
            held.update(verdict.held.values())
            counts["found"] += len(verdict.at_brevo)
            ready = messages[~messages["message_id"].isin(verdict.stays)]
            recheck.leaving(ready)
            for chunk in chunks(packer, ready):
                _pretend(connection, client, key, chunk, now)
                counts.update(chunks=1, messages=len(chunk.message_ids), bytes=len(chunk.body))
    return SendSummary(
        campaign=key[0],
        occurrence=key[1],
        step=key[2],
        plan_hash=stored["plan_hash"],
        dry_run=True,
        status=stored["status"],
        chunks=counts["chunks"],
        messages=counts["messages"],
        bytes=counts["bytes"],
        found=counts["found"],
        held_back=dict(sorted(held.items())),
        remaining=counts["messages"],
    )


def _pages(connection: psycopg.Connection, key: tuple[str, str, int], size: int) -> Iterator[pd.DataFrame]:
    """The planned messages of a step in order of their batches, some at a time."""
    batches = [
        batch
        for (batch,) in connection.execute(
            "select batch_id from activation.batches where (campaign, occurrence, step) = (%s, %s, %s)"
            " order by batch_no",
            key,
        ).fetchall()
    ]
    left: list[pd.DataFrame] = []
    for batch in batches:
        found = WithinTransaction(connection).read(
            "activation", "messages", _WANTED, "batch_id = %s and status = %s", [batch, PLANNED], order_by="message_id"
        )
        left.append(found)
        while sum(map(len, left)) >= size:
            whole = pd.concat(left, ignore_index=True)
            yield whole.head(size)
            left = [whole.iloc[size:]]
    rest = pd.concat(left, ignore_index=True) if left else pd.DataFrame(columns=_WANTED)
    if len(rest):
        yield rest


def _pretend(
    connection: psycopg.Connection, client: Brevo, key: tuple[str, str, int], chunk: Chunk, now: datetime
) -> None:
    try:
        answer = client.send_email(chunk.body)
    except brevo.InvalidRequestError as error:
        raise RefusalError("INVALID_REQUEST", f"chunk {chunk.tag}: {error}") from error
    attempt_id = attempts.begin(
        connection,
        brevo.SEND,
        chunk.body,
        len(chunk.message_ids),
        now,
        is_dry_run=True,
        campaign=key,
        tag=chunk.tag,
        attempt_id=short_hash(answer.outcome, chunk.tag, chunk.request_hash),
    )
    attempts.end(connection, attempt_id, answer, now)


def sending_of(run: TenantRun, name: str, **given: Any) -> Sending:
    """A send of the campaign `name` within a run of its tenant; `given`: fields of Sending."""
    activation.settle_reviews(run)
    campaign = CampaignFiles(run.config.tenants, run.tenant).get(name)
    return Sending(run.warehouse, run.tenant, campaign, run.config, as_of=run.as_of, **given)


def confirmed(warehouse: Warehouse, campaign: str, occurrence: str | None) -> tuple[str, str]:
    """The plan's hash and who confirmed it, of a plan that a person has confirmed before; RefusalError of others."""
    stored = activation.stored_plan(warehouse, campaign, occurrence)
    if stored is None or pd.isna(stored["confirmed_at"]):
        raise RefusalError("NOT_CONFIRMED", f"nobody has confirmed the plan of {campaign} yet: crm activation confirm")
    return str(stored["plan_hash"]), str(stored["confirmed_by"])
