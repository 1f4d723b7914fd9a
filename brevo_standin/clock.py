"""The stand-in's clock as a program sees it that is injected with it: `now()` asks, `sleep()` moves the time on."""

from __future__ import annotations

from datetime import datetime

import httpx


class StandInClock:
    """The clock of a stand-in with virtual time. Sleeping takes no time; it makes the stand-in's pass."""

    def __init__(self, url: str, *, transport: httpx.BaseTransport | None = None) -> None:
        """`url`: the stand-in's root, http://127.0.0.1:port."""
        self._client = httpx.Client(
            base_url=url.removesuffix("/v3").rstrip("/"), timeout=60, transport=transport, trust_env=False
        )

    def now(self) -> datetime:
        return datetime.fromisoformat(self._client.get("/standin/clock").raise_for_status().json()["now"])

    def sleep(self, seconds: float) -> None:
        self._client.post("/standin/clock", json={"advance": seconds}).raise_for_status()
