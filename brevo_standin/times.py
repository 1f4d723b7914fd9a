"""What time it is for the stand-in, and what is to happen later: real or virtual, one queue of dated deeds."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

# Brevo dates its log and its webhooks as clocks in Paris do (brevo.md A2, A6).
PARIS = ZoneInfo("Europe/Paris")
VIRTUAL_START = datetime(2026, 3, 10, 9, 0, tzinfo=UTC)  # a Tuesday morning


class Times:
    """The moment, and the deeds that wait for theirs. A virtual one moves only when it is told to."""

    def __init__(self, start: datetime | None = None) -> None:
        """`start`: where a virtual clock begins; None: the machine's clock."""
        self.start = start
        self._now = start
        self._queue: list[tuple[datetime, int, Callable[[], None]]] = []
        self._number = itertools.count()

    @property
    def is_virtual(self) -> bool:
        return self.start is not None

    def now(self) -> datetime:
        return self._now if self._now is not None else datetime.now(UTC)

    def at(self, moment: datetime, deed: Callable[[], None]) -> None:
        """Do `deed` once the clock has come to `moment`."""
        heapq.heappush(self._queue, (moment, next(self._number), deed))

    def after(self, seconds: float, deed: Callable[[], None]) -> None:
        self.at(self.now() + timedelta(seconds=seconds), deed)

    def step(self, target: datetime) -> bool:
        """Do the next deed that is due by `target`, at its own moment; False when there is none left."""
        if self._queue and self._queue[0][0] <= target:
            moment, _, deed = heapq.heappop(self._queue)
            if self._now is not None:
                self._now = max(self._now, moment)
            deed()
            return True
        if self._now is not None:
            self._now = max(self._now, target)
        return False

    def set(self, moment: datetime | None) -> None:
        """Put a clock somewhere without doing anything: to play a record back, and None to the machine's clock."""
        self._now = moment

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """All that is done inside happens at one moment, also by the machine's clock."""
        was = self._now
        self._now = self.now()
        try:
            yield
        finally:
            self._now = self._now if self.is_virtual else was

    def forget(self) -> None:
        """Drop what waits; a virtual clock stays where it is, for time only ever passes."""
        self._queue.clear()


def in_paris(moment: datetime) -> str:
    """As the log dates it: 2026-03-10T10:00:00.000+01:00."""
    return moment.astimezone(PARIS).isoformat(timespec="milliseconds")


def in_utc(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
