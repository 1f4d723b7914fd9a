"""Misbehaviour by rule: which call goes wrong, and how. Deterministic: a random programme has a seed.

A rule is a JSON object:
* which calls: `method`, `path` (under /v3, a prefix), `address` (a recipient who is in the body);
* which of those: `nth` (the 3rd: 3), `first` and `last` (a range, 1-based), or all of them; `times`: at most so often;
  `rate` with `seed`: so often by chance;
* `do`: one of KINDS, or a list to choose from by chance; `status`, `seconds` where they mean something.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from brevo_standin.wire import Request

# What a fault does, and whether the request has been accepted when it strikes.
BEFORE = {
    "throttle",  # 429; `seconds` until the reset
    "error_before",  # 500, 502, 503 with a page of HTML; nothing was accepted
    "reset_before",  # RST
    "close_before",  # the connection ends without an answer
    "hang_before",  # silence
    "unauthorized",  # 401
    "no_credit",  # 402
    "bad_row",  # 400 because of one recipient
}
AFTER = {
    "error_after",  # accepted, and 500 all the same
    "reset_after",
    "close_after",
    "hang_after",  # silence for `seconds`, then the socket closes; `seconds` null: until the client gives up
    "truncated",  # the connection ends in the middle of the body
    "garbled",  # a whole answer whose JSON is cut
    "slow_body",  # the body dribbles in over `seconds`
}
KINDS = BEFORE | AFTER


@dataclass
class Rule:
    """One rule and how often it has been met and has struck."""

    do: list[str]
    method: str | None = None
    path: str | None = None
    address: str | None = None
    nth: int | None = None
    first: int = 1
    last: int | None = None
    times: int | None = None
    rate: float = 1.0
    seed: int = 0
    status: int = 500
    seconds: float | None = 0.5
    met: int = field(default=0, init=False)
    struck: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        unknown = set(self.do) - KINDS
        if unknown or not self.do:
            raise ValueError(f"no such fault: {', '.join(sorted(unknown)) or 'none said'}")
        self._chance = random.Random(self.seed)

    @classmethod
    def of(cls, said: dict[str, Any]) -> Rule:
        """The rule of a JSON object; ValueError or TypeError when it is none."""
        do = said.get("do", [])
        return cls(**{**said, "do": [do] if isinstance(do, str) else list(do)})

    def meets(self, request: Request) -> Fault | None:
        """The fault that strikes this call, if one does; counts the calls the rule is about."""
        path = request.path.removeprefix("/v3")
        if self.method not in (None, request.method) or (self.path is not None and not path.startswith(self.path)):
            return None
        if self.address is not None and self.address.encode() not in request.body:
            return None
        self.met += 1
        if self.nth is not None and self.met != self.nth:
            return None
        if self.met < self.first or (self.last is not None and self.met > self.last):
            return None
        if self.times is not None and self.struck >= self.times:
            return None
        if self.rate < 1 and self._chance.random() >= self.rate:
            return None
        self.struck += 1
        kind = self.do[0] if len(self.do) == 1 else self._chance.choice(self.do)
        return Fault(kind, self.status, self.seconds, self.address)


@dataclass(frozen=True)
class Fault:
    """One that strikes now."""

    kind: str
    status: int = 500
    seconds: float | None = 0.5
    address: str | None = None

    @property
    def is_before(self) -> bool:
        return self.kind in BEFORE
