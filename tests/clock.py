"""A clock for tests: time passes only while somebody sleeps, and that in no time."""

from __future__ import annotations

from datetime import datetime, timedelta


class StillClock:
    """Implements crm_assets.clock.Clock."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment
        self.slept: list[float] = []  # seconds of each sleep

    def now(self) -> datetime:
        return self.moment

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.moment += timedelta(seconds=seconds)
