"""Made-up people for the demo: what each does with a mail follows from the mail and nothing else, so that a record
played back tells the same story."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import partial

from brevo_standin.account import Account
from brevo_standin.history import body_of
from brevo_standin.mail import Call, Message

_LINK = re.compile(r'href="(https?://[^"]+)"')


@dataclass(frozen=True)
class Audience:
    """Shares of the mails that get there, and then of those; `minutes`: how long the latest take."""

    hard_bounces: float = 0.015
    soft_bounces: float = 0.01
    opens: float = 0.45
    proxy_opens: float = 0.15
    clicks: float = 0.3  # of those who open
    unsubscribes: float = 0.01
    spam: float = 0.0
    minutes: float = 20.0

    def watch(self, account: Account) -> None:
        """Let these people get every mail of the account from now on."""
        account.on_accepted = partial(self._receive, account)

    def _receive(self, account: Account, call: Call) -> None:
        for message in call.messages:
            if not message.blocked:
                self._react(account, message)
        call.forget_parsed()

    def _react(self, account: Account, message: Message) -> None:
        digest = hashlib.sha256(f"{message.address}|{message.message_id}".encode()).digest()
        chance = [int.from_bytes(digest[start : start + 4], "big") / 2**32 for start in range(0, 28, 4)]

        def later(seconds: float, kind: str, link: str | None = None, reason: str | None = None) -> None:
            deed = partial(account.happen, kind, message, link=link, reason=reason, ip="192.0.2.1" if link else None)
            account.times.after(seconds, deed)

        arrival = 5 + 40 * chance[0]
        if chance[1] < self.hard_bounces:
            later(arrival, "hard_bounce", reason="550 5.1.1 mailbox unavailable")
            return
        if chance[1] < self.hard_bounces + self.soft_bounces:
            later(arrival, "soft_bounce", reason="452 4.2.2 mailbox full")
            return
        later(arrival, "delivered")
        seen = arrival + 30 + 60 * self.minutes * chance[2] ** 2
        if chance[3] < self.proxy_opens:
            later(arrival + 10, "proxy_open")
        if chance[3] >= self.opens:
            return
        later(seen, "opened")
        links = _LINK.findall(body_of(account, message))
        if chance[4] < self.clicks and links:
            later(seen + 20, "click", link=links[int(chance[5] * len(links))])
        if chance[6] < self.unsubscribes:
            later(seen + 60, "unsubscribed")
        elif chance[6] > 1 - self.spam:
            later(seen + 60, "spam")
