"""The receiver of Brevo's webhooks: kept before it is answered, 429 for whatever fails on our side, never 5xx."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from crm_assets import databases, feedback, receiver, settings
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import Settings
from tests.logic import estate

SLUG, TOKEN, VARIABLE = "demo", "a long token of this estate", "CRM_BREVO_WEBHOOK_TOKEN"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
EVENT = {"event": "delivered", "email": "ada@x.fr", "message-id": "<1@smtp>", "ts_event": 1_773_046_800}
BODY = json.dumps([EVENT]).encode()


@pytest.fixture
def warehouse(module_warehouse: Warehouse) -> Warehouse:
    """A database, emptied."""
    module_warehouse.execute("truncate outcomes.received, outcomes.events, activation.contacts")
    return module_warehouse


@pytest.fixture
def config(environment: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with one estate that has a token."""
    monkeypatch.setenv(VARIABLE, TOKEN)
    tenants = tmp_path / "tenants"
    tenants.mkdir()
    content = estate.tenant().model_dump(mode="json", exclude_unset=True)
    (tenants / f"{SLUG}.yaml").write_text(json.dumps(content), encoding="utf-8")
    return environment.model_copy(update={"tenants": tenants})


@pytest.fixture
def made(config: Settings, warehouse: Warehouse) -> receiver.Receiver:
    """A receiver whose one estate has a database of its own."""
    made = receiver.Receiver(config)
    made._urls[SLUG] = warehouse.url
    made._url = lambda slug: made._urls.setdefault(slug, warehouse.url)  # type: ignore[method-assign]
    return made


def talking(made: receiver.Receiver, talk: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """What a client gets that talks to the receiver within this process."""

    async def run() -> Any:
        transport = httpx.ASGITransport(receiver.app(made), raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
            answer = await talk(client)
            for reader in list(made._readers.values()):
                await reader
            return answer

    return asyncio.run(run())


def post(made: receiver.Receiver, body: Any = BODY, headers: dict[str, str] | None = None, slug: str = SLUG) -> int:
    async def talk(client: httpx.AsyncClient) -> int:
        answer = await client.post(f"/brevo/{slug}", content=body, headers=AUTH if headers is None else headers)
        return answer.status_code

    return int(talking(made, talk))


def test_a_body_is_kept_as_it_came_and_then_read(made: receiver.Receiver, warehouse: Warehouse) -> None:
    assert [post(made), post(made)] == [200, 200]  # Brevo tries again: the same body
    kept = warehouse.rows("select content, read_at is not null, problem from outcomes.received")
    assert [(bytes(content), *rest) for content, *rest in kept] == [(BODY, True, None)]
    assert warehouse.rows("select address, event, origin from outcomes.events") == [
        ("ada@x.fr", "delivered", "webhook")
    ]


@pytest.mark.parametrize(
    ("slug", "headers"),
    [
        (SLUG, {}),
        (SLUG, {"Authorization": "Bearer "}),
        (SLUG, {"Authorization": "Bearer another token"}),
        (SLUG, {"Authorization": f"Basic {TOKEN}"}),
        (SLUG, {"Authorization": TOKEN}),
        ("nobody", AUTH),
        ("control", AUTH),
        ("..%2Fdemo", AUTH),
    ],
)
def test_who_has_not_the_token_of_the_estate_is_unknown(
    made: receiver.Receiver, warehouse: Warehouse, slug: str, headers: dict[str, str]
) -> None:
    assert post(made, headers=headers, slug=slug) in {401, 404}
    assert warehouse.count("outcomes", "received") == 0


@pytest.mark.parametrize("body", [b"", b"{broken", b"\x00\xff", b"[[[", b'{"event": "opened"}'])
def test_a_body_that_holds_nothing_is_kept_all_the_same(
    made: receiver.Receiver, warehouse: Warehouse, body: bytes
) -> None:
    assert post(made, body) == 200
    assert [bytes(content) for (content,) in warehouse.rows("select content from outcomes.received")] == [body]


def test_a_database_that_is_gone_is_asked_again(made: receiver.Receiver, caplog: pytest.LogCaptureFixture) -> None:
    made._url = lambda slug: "postgresql://nobody:secret-password@127.0.0.1:1/gone"  # type: ignore[method-assign]
    with caplog.at_level(logging.DEBUG):
        assert post(made) == 429
    assert "OperationalError" in caplog.text
    for hidden in ("ada", "secret-password", TOKEN):
        assert hidden not in caplog.text


def test_a_table_that_somebody_locks_is_asked_again(
    made: receiver.Receiver, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "KEEP_MILLISECONDS", 50)
    with psycopg.connect(warehouse.url) as other:
        other.execute("lock table outcomes.received")
        assert post(made) == 429
    assert post(made) == 200


def test_a_server_that_cannot_be_found_is_asked_again(made: receiver.Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(slug: str) -> str:
        raise databases.DatabaseError("the embedded PostgreSQL cannot be used")

    monkeypatch.setattr(made, "_url", broken)
    assert post(made) == 429


@pytest.mark.parametrize("fault", [ValueError("ada@x.fr"), MemoryError(), KeyError("x"), OSError("No space left")])
def test_whatever_breaks_inside_is_no_5xx(
    made: receiver.Receiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    def broken(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(made, "keep", broken)
    assert post(made) == 429
    assert "ada" not in caplog.text
    assert made.n_refused == 1


def test_a_call_that_is_cancelled_is_asked_again(made: receiver.Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cancelled(*_: Any) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(receiver, "_whole_body", cancelled)
    assert post(made) == 429


def test_an_estate_without_a_token_or_with_a_wrong_file_is_our_fault(
    made: receiver.Receiver, config: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    assert post(made) == 429
    monkeypatch.setenv(VARIABLE, TOKEN)
    path = config.tenants / f"{SLUG}.yaml"
    whole = path.read_text(encoding="utf-8")
    path.write_text("name: [", encoding="utf-8")
    assert post(made) == 429
    path.write_text(whole, encoding="utf-8")
    assert post(made) == 200


def test_a_huge_body_and_a_slow_client_are_not_waited_for(
    made: receiver.Receiver, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "MAX_BODY_BYTES", 100)
    assert post(made, b"[" + b" " * 101 + b"]") == 429
    assert post(made, b"[" + b" " * 98 + b"]") == 200
    monkeypatch.setattr(receiver, "BODY_SECONDS", 0.02)

    async def slow() -> AsyncIterator[bytes]:
        yield b"["
        await asyncio.sleep(30)
        yield b"]"

    assert post(made, slow()) == 429
    assert warehouse.count("outcomes", "received") == 1


def test_too_many_at_once_and_a_receiver_that_closes_are_asked_again(
    made: receiver.Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "MAX_AT_ONCE", 0)
    assert post(made) == 429
    monkeypatch.setattr(receiver, "MAX_AT_ONCE", 1)
    assert post(made) == 200
    asyncio.run(made.close())
    assert post(made) == 429


def test_an_estate_that_is_flooded_leaves_room_for_the_others(
    made: receiver.Receiver, config: Settings, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "MAX_AT_ONCE", 3)
    monkeypatch.setattr(receiver, "MAX_OF_ONE_ESTATE", 2)
    content = json.loads((config.tenants / f"{SLUG}.yaml").read_text(encoding="utf-8"))
    (config.tenants / "other.yaml").write_text(json.dumps({**content, "slug": "other"}), encoding="utf-8")

    async def talk(client: httpx.AsyncClient) -> list[int]:
        end = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            yield b"["
            await end.wait()
            yield b"]"

        flood = [asyncio.create_task(client.post(f"/brevo/{SLUG}", content=slow(), headers=AUTH)) for _ in range(2)]
        while made._at_once[SLUG] < 2:
            await asyncio.sleep(0.001)
        answers = [
            (await client.post(f"/brevo/{slug}", content=BODY, headers=AUTH)).status_code for slug in (SLUG, "other")
        ]
        end.set()
        return answers + [(await each).status_code for each in flood]

    assert talking(made, talk) == [429, 200, 200, 200]
    assert not made._at_once


def test_a_slash_too_many_and_a_folder_that_is_not_there_lose_no_event(
    made: receiver.Receiver, warehouse: Warehouse
) -> None:
    assert post(made, slug=f"{SLUG}/") == 200
    made.config = made.config.model_copy(update={"tenants": made.config.tenants / "unmounted"})
    made._doors.clear()
    assert post(made) == 429


def test_what_cannot_be_read_now_is_read_at_the_next_pull(
    made: receiver.Receiver, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> int:
        raise RuntimeError("reading fails")

    monkeypatch.setattr(receiver, "read_bodies", broken)
    assert post(made) == 200
    assert warehouse.count("outcomes", "events") == 0
    assert feedback.ingest_received(warehouse, SLUG, made.clock.now()).feeds["received"].n_new == 1


def test_health_says_that_it_runs_and_nothing_else(made: receiver.Receiver) -> None:
    async def talk(client: httpx.AsyncClient) -> tuple[int, dict[str, Any], int, int]:
        await client.post(f"/brevo/{SLUG}", content=BODY, headers=AUTH)
        health = await client.get("/health")
        return (
            health.status_code,
            health.json(),
            (await client.get(f"/brevo/{SLUG}", headers=AUTH)).status_code,
            (await client.get("/")).status_code,
        )

    status, said, get, root = talking(made, talk)
    assert (status, get, root) == (200, 405, 404)
    assert said == {"status": "ok", "kept": 1, "asked_to_try_again": 0, "under_way": 0}


def test_the_receiver_is_served_without_a_log_of_its_calls(config: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    seen: list[uvicorn.Config] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda self: seen.append(self.config))
    receiver.serve(config)
    assert seen[0].http == "h11"  # whose headers end somewhere
    assert (seen[0].access_log, seen[0].limit_concurrency, seen[0].port) == (False, None, config.receiver_port)
    assert settings.secret(VARIABLE) is not None
