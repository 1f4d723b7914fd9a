"""The clock of programs that wait: what time it is, and waiting. Injected, so that tests and the kill bench pass hours
in milliseconds.

Runs of the pipeline read the clock once, in `run_context`; a sender has to wait, and reads it here.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Time as a program sees it."""

    def now(self) -> datetime:
        """The moment, in UTC, with its zone."""

    def sleep(self, seconds: float) -> None:
        """Return when so much time has passed."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
