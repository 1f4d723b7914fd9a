"""Brevo's stand-in beside `crm up`: started, marked in CRM_HOME, found from other terminals, and never confused with
Brevo (docs/brevo.md, "The stand-in").

Whoever reads the settings while the mark's process lives is led to the stand-in, on which every call is live and nobody
is written to. A key of Brevo never goes there, and the stand-in's made-up key goes nowhere else: `key_for`. What the
stand-in does is written in the package `brevo_standin`, which the product's image leaves out.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

READY_SECONDS = 60
_MADE_UP = "xkeysib-standin-"
_BREVO_KEY = re.compile(r"xkeysib-[0-9a-f]{64}-\w{16}")


@dataclass(frozen=True)
class Mark:
    """A stand-in that runs: where, its made-up key, whose variables that key takes the place of, and its process."""

    url: str
    key: str
    variables: list[str]
    pid: int
    began: str  # the process's start in clock ticks since boot: another process may get the same number

    def __repr__(self) -> str:
        return f"Mark({self.url})"


def _path(home: Path) -> Path:
    return home / "standin" / "running.json"


def _began(pid: int) -> str | None:
    """When a process started; None when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def running(home: Path) -> Mark | None:
    """The stand-in that runs beside `crm up` of this CRM_HOME; None when there is none, or it has died."""
    try:
        mark = Mark(**json.loads(_path(home).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return mark if _began(mark.pid) == mark.began else None


def key_for(url: str, value: str | None, variable: str, home: Path) -> str | None:
    """The key to use at `url`; None when there is none, or it belongs elsewhere. `value`: what the variable holds.

    At the stand-in of `home` only its made-up key counts, and only in place of a variable without a value. Elsewhere
    only what the variable holds: never a made-up key but on this machine, never one of Brevo's over plain HTTP.
    """
    mark = running(home)
    if mark is not None and mark.url == url:
        return mark.key if value is None and variable in mark.variables else None
    parts = urlsplit(url)
    if value is None or (value.startswith(_MADE_UP) and parts.hostname not in ("127.0.0.1", "localhost", "::1")):
        return None
    return None if _BREVO_KEY.fullmatch(value) and parts.scheme != "https" else value


def command(home: Path, port: int, senders: Iterable[str]) -> list[str]:
    """How the stand-in is started: its state in CRM_HOME, so that a restart forgets no accepted message."""
    folder = home / "standin"
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_text(_MADE_UP + secrets.token_hex(24))
    (folder / "seed.json").write_text(json.dumps({"senders": sorted(set(senders))}))
    return [
        *(Path(sys.executable).name, "-m", "brevo_standin", "--port", str(port), "--key-file", str(key)),
        *("--state", str(folder / "journal.jsonl"), "--seed", str(folder / "seed.json"), "--audience"),
    ]


def announce(home: Path, port: int, pid: int, variables: list[str]) -> str | None:
    """Wait until the stand-in answers, then write its mark: its root URL, None when it did not come up."""
    root = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and (began := _began(pid)) is not None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{root}/standin/clock", timeout=5).close()
            key = (home / "standin" / "key").read_text()
            mark = Mark(f"{root}/v3", key, variables, pid, began)
            scratch = _path(home).with_suffix(f".{os.getpid()}")
            scratch.touch(mode=0o600)
            scratch.write_text(json.dumps(asdict(mark)))
            scratch.rename(_path(home))
            return root
        time.sleep(0.1)
    return None


def forget(home: Path) -> None:
    """Take the mark away."""
    _path(home).unlink(missing_ok=True)
