"""A request as it came, a reply as it goes, and the refusals in Brevo's own form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """One call. `headers`: names in lower case."""

    method: str
    path: str
    query: Mapping[str, list[str]] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def of(cls, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Request:
        """A request for a path with its query."""
        parts = urlsplit(url)
        lowered = {name.lower(): value for name, value in (headers or {}).items()}
        return cls(method.upper(), unquote(parts.path), parse_qs(parts.query, keep_blank_values=True), lowered, body)

    def first(self, name: str) -> str | None:
        """A parameter of the query, the first where it stands twice."""
        values = self.query.get(name)
        return values[0] if values else None

    @cached_property
    def json(self) -> Any:
        """The body; RefusedError(400) when it is no JSON."""
        try:
            return json.loads(self.body or b"{}")
        except ValueError:
            raise RefusedError(400, "bad_request", "Request body is not valid JSON") from None

    @cached_property
    def mapping(self) -> dict[str, Any]:
        """The body, which must be a JSON object."""
        if not isinstance(self.json, dict):
            raise RefusedError(400, "bad_request", "Request body must be an object")
        return self.json


@dataclass
class Reply:
    """What the server says. `fault`: how the connection misbehaves while saying it, see `faults.py`."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    fault: Any = None

    @classmethod
    def of(cls, content: Any, status: int = 200) -> Reply:
        return cls(status, json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())

    @classmethod
    def html(cls, text: str, status: int = 200) -> Reply:
        return cls(status, text.encode(), content_type="text/html; charset=utf-8")


class RefusedError(Exception):
    """The API says no: HTTP status, Brevo's code and a sentence; `more` stands beside them in the body."""

    def __init__(self, status: int, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.more = status, code, message, more

    @property
    def reply(self) -> Reply:
        return Reply.of({"code": self.code, "message": self.message, **self.more}, self.status)


def invalid(message: str) -> RefusedError:
    return RefusedError(400, "invalid_parameter", message)


def missing(message: str) -> RefusedError:
    return RefusedError(400, "missing_parameter", message)


def not_found(message: str) -> RefusedError:
    return RefusedError(404, "document_not_found", message)


def whole_number(request: Request, name: str, default: int, *, most: int | None = None) -> int:
    """A parameter of the query; RefusedError when it is no whole number of 0..most."""
    text = request.first(name)
    if text is None:
        return default
    if not text.isdecimal():
        raise invalid(f"{name} should be a positive integer")
    if most is not None and int(text) > most:
        raise RefusedError(400, "out_of_range", f"{name} should not be greater than {most}")
    return int(text)
