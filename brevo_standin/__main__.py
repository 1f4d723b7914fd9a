"""`python -m brevo_standin`: the stand-in as a process of its own."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from brevo_standin.audience import Audience
from brevo_standin.limits import GENERAL
from brevo_standin.server import listening, server
from brevo_standin.standin import StandIn


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m brevo_standin", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: a free one; it is said on the first line")
    parser.add_argument("--mode", choices=["body", "http", "none"], default="body", help="where idempotency keys count")
    parser.add_argument("--virtual-clock", type=_moment, metavar="ISO", help="a clock that moves only when told to")
    parser.add_argument("--key", default="xkeysib-standin", help="the API key it knows")
    parser.add_argument("--key-file", type=Path, help="a file that holds that key")
    parser.add_argument("--no-limits", action="store_true", help="throttle nobody")
    parser.add_argument("--state", type=Path, help="a file in which accepted calls outlive a restart")
    parser.add_argument("--seed", type=Path, help="a JSON file: senders, templates, contacts … as POST /standin/seed")
    parser.add_argument("--audience", action="store_true", help="made-up people get, open and click the mails")
    parser.add_argument("--sender", action="append", default=[], help="a registered sender's address; repeatable")
    args = parser.parse_args()
    key = args.key_file.read_text().strip() if args.key_file else args.key
    standin = StandIn(
        mode=args.mode, key=key, start=args.virtual_clock, limits=None if args.no_limits else dict(GENERAL)
    )
    if args.sender:
        standin.seed(senders=args.sender)
    if args.seed:
        standin.seed(**json.loads(args.seed.read_text(encoding="utf-8")))
    if args.audience:
        Audience().watch(standin.account)
    if args.state:
        standin.keep_journal(args.state)
    sock = listening(args.port, args.host)
    print(f"http://{args.host}:{sock.getsockname()[1]}", flush=True)
    server(standin).run(sockets=[sock])
    return 0


if __name__ == "__main__":
    sys.exit(main())
