"""Brevo's processes: work that is queued, runs, and is completed, by the stand-in's clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from brevo_standin.times import Times, in_utc
from brevo_standin.wire import Reply, Request, not_found, whole_number

QUEUED_SECONDS, WORKING_SECONDS = 5.0, 25.0


@dataclass
class Process:
    """One of them. `info` and `export_url` are there once it is completed."""

    id: int
    name: str
    created_at: datetime
    status: str = "queued"
    completed_at: datetime | None = None
    info: dict[str, Any] | None = None
    export_url: str | None = None
    content: str = field(default="", repr=False)

    def row(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "status": self.status,
            "created_at": in_utc(self.created_at),
            "completed_at": in_utc(self.completed_at) if self.completed_at else None,
        }
        if self.info is not None:
            row["info"] = self.info
        if self.export_url is not None:
            row["export_url"] = self.export_url
        return row


class Processes:
    """All of them. `notify(url, content)`: posts to a `notifyUrl` when one is completed."""

    def __init__(self, times: Times) -> None:
        self.times = times
        self.notify: Callable[[str, dict[str, Any]], None] = lambda _url, _content: None
        self.forget()

    def forget(self) -> None:
        self.by_id: dict[int, Process] = {}

    def routes(self) -> list[tuple[str, str, Callable[..., Reply]]]:
        return [("GET", "/processes", self.all), ("GET", "/processes/{number}", self.one)]

    def start(self, name: str, work: Callable[[], dict[str, Any] | str | None], notify: str | None = None) -> int:
        """Queue some work, done when the process is completed; what it returns is its info, a text an export."""
        process = Process(len(self.by_id) + 1, name, self.times.now())
        self.by_id[process.id] = process

        def run() -> None:
            process.status = "processing"
            self.times.after(WORKING_SECONDS, end)

        def end() -> None:
            made = work()
            process.status, process.completed_at = "completed", self.times.now()
            if isinstance(made, str):
                process.content, process.export_url = made, f"/standin/exports/{process.id}.csv"
            else:
                process.info = made
            if notify is not None:
                self.notify(notify, process.row())

        self.times.after(QUEUED_SECONDS, run)
        return process.id

    def one(self, request: Request, number: str) -> Reply:
        process = self.by_id.get(int(number)) if number.isdecimal() else None
        if process is None:
            raise not_found("Process ID does not exist")
        row = process.row()
        if process.export_url is not None:  # a whole address, as Brevo's is: on the host that was asked
            row["export_url"] = f"http://{request.headers.get('host', 'standin.invalid')}{process.export_url}"
        return Reply.of(row)

    def all(self, request: Request) -> Reply:
        limit, offset = whole_number(request, "limit", 10, most=50), whole_number(request, "offset", 0)
        rows = [process.row() for process in self.by_id.values()]
        rows = rows if request.first("sort") == "asc" else rows[::-1]
        return Reply.of({"processes": rows[offset : offset + limit], "count": len(rows)})
