"""The pace of calls to Brevo: one per account and group of endpoints, shared by all processes through the control
database.

A call takes the next slot in a short transaction and waits for it outside, through the injected clock. The pace is
that of the rules (generic cell rate algorithm); what an account's own headers say slows it further, never faster.
What is called is none of this module's business.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import psycopg

from crm_assets.clock import Clock
from crm_assets.logic.brevo_answers import Limits
from crm_assets.resources.warehouse import WarehouseError
from crm_assets.rules import BrevoRules, Pace

log = logging.getLogger("crm.brevo")

T = TypeVar("T")

# A row written further in the future than clocks of machines differ was written by another clock.
_CLOCKS_DIFFER = timedelta(seconds=60)


def interval(pace: Pace) -> float:
    """Seconds between two calls in the long run.

    `at_once` calls may follow each other without a wait; with them no span of `pace.seconds` holds more than
    `pace.calls` calls, because n(span) <= span / interval + at_once - 1.
    """
    return pace.seconds / (pace.calls - pace.at_once + 1)


class Throttle:
    """The slots of one account."""

    def __init__(self, control_url: str, account: str, rules: BrevoRules, clock: Clock) -> None:
        self._url = control_url
        self._open: psycopg.Connection | None = None
        self._lock = threading.Lock()
        self._account = account
        self._rules = rules
        self._clock = clock

    def close(self) -> None:
        """Close the connection to the control database, if there is one."""
        if self._open is not None:
            self._open.close()

    def _asked(self, work: Callable[[psycopg.Connection], T]) -> T:
        """One transaction on the connection that is kept, or on a new one where that has gone meanwhile."""
        with self._lock:
            try:
                if self._open is not None:
                    try:
                        with self._open.transaction():
                            return work(self._open)
                    except psycopg.OperationalError:
                        self._open.close()
                self._open = psycopg.connect(self._url, autocommit=True, application_name="crm-brevo")
                with self._open.transaction():
                    return work(self._open)
            except psycopg.Error as error:
                raise WarehouseError(error) from None

    def _pace(self, bucket: str) -> Pace:
        pace: Pace = getattr(self._rules.buckets, bucket)
        return pace

    def wait(self, bucket: str, patience: float | None = None) -> float:
        """Take the group's next slot and return when it has come: 0.

        Where it lies further away than `patience` seconds (`backoff_seconds.most` unless said), nothing is taken or
        waited for: the seconds until then. WarehouseError when the control database cannot be asked: without a pace
        there is no call.
        """
        patience = self._rules.backoff_seconds.most if patience is None else patience
        wait = self._asked(lambda connection: self._take(connection, bucket, patience))
        if wait > patience:
            return wait
        if wait > 0:
            self._clock.sleep(wait)
        return 0.0

    def _take(self, connection: psycopg.Connection, bucket: str, patience: float) -> float:
        key = [self._account, bucket]
        step = interval(self._pace(bucket))
        early = timedelta(seconds=step * (self._pace(bucket).at_once - 1))
        now = self._clock.now()
        connection.execute(
            "insert into brevo.buckets (account, bucket, next_at, updated_at) values (%s, %s, %s, %s)"
            " on conflict do nothing",
            [*key, now - early, now],
        )
        row = connection.execute(
            "select next_at, updated_at from brevo.buckets where account = %s and bucket = %s for update", key
        ).fetchone()
        assert row is not None, "inserted above, and never deleted"
        next_at = row[0] if row[1] <= now + _CLOCKS_DIFFER else now - early
        slot = max(now, next_at)
        wait = (slot - now).total_seconds()
        if wait <= patience:
            after = max(next_at + early, slot) + timedelta(seconds=step) - early
            connection.execute(
                "update brevo.buckets set next_at = %s, updated_at = %s where account = %s and bucket = %s",
                [after, now, *key],
            )
        return wait

    def note(self, bucket: str, limits: Limits, *, is_throttled: bool) -> None:
        """Remember what an answer's headers said; the next slot moves away where they leave less than our pace."""
        now = self._clock.now()
        hold = self._hold(bucket, limits, is_throttled)
        resets_at = now + timedelta(seconds=limits.reset) if limits.reset is not None else None
        try:
            self._asked(
                lambda connection: connection.execute(
                    "update brevo.buckets set remaining = %s, resets_at = %s, updated_at = %s,"
                    " next_at = greatest(next_at, %s) where account = %s and bucket = %s",
                    [limits.remaining, resets_at, now, now + timedelta(seconds=hold), self._account, bucket],
                )
            )
        except WarehouseError as error:
            # The call was made and its answer must reach the ledger: a pace forgotten costs a 429 at worst.
            log.warning("the pace of %s could not be noted: %s", bucket, error)

    def _hold(self, bucket: str, limits: Limits, is_throttled: bool) -> float:
        """Seconds for which nothing more may be called."""
        if is_throttled:
            return self._rules.backoff_seconds.first if limits.reset is None else limits.reset
        if limits.reset is None or limits.remaining is None:
            return 0.0
        if limits.remaining <= 0:
            return limits.reset
        spread = limits.reset / limits.remaining
        return spread if spread > interval(self._pace(bucket)) else 0.0
