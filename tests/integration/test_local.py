"""The embedded server: one owner, shared by everybody, and nothing left behind however it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from crm_assets import local
from crm_assets.settings import Settings

STARTS_SERVERS = True


@pytest.fixture
def config() -> Iterator[Settings]:
    home = Path(tempfile.mkdtemp(prefix="crmtest-local-"))
    home.chmod(0o755)
    made = Settings(home=home, embedded_idle_minutes=5)
    yield made
    local.stop_server(made)
    shutil.rmtree(home, ignore_errors=True)


def postmaster(config: Settings) -> int:
    found = list(config.home.glob("postgres/data/postmaster.pid"))
    assert found, "these tests need a data folder inside CRM_HOME"
    return int(found[0].read_text().split("\n", 1)[0])


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def value(server: local.Server) -> int:
    with psycopg.connect(server.admin_url) as connection:
        row = connection.execute("select n from kept").fetchone()
    assert row is not None
    return int(row[0])


def put(server: local.Server) -> None:
    with psycopg.connect(server.admin_url) as connection:
        connection.execute("create table kept as select 42 as n")


def test_all_who_ask_at_once_share_one_server_and_one_url(config: Settings) -> None:
    with ThreadPoolExecutor(4) as pool:
        servers = set(pool.map(lambda _: local.ensure_server(config), range(4)))
    assert len(servers) == 1
    server = servers.pop()
    put(server)
    assert local.stop_server(config)
    assert local.running_server(config) is None
    again = local.ensure_server(config)
    assert again.port == server.port, "a URL that was handed out stays good"
    assert value(again) == 42


def test_a_killed_owner_takes_its_server_along_and_the_next_start_finds_the_data(config: Settings) -> None:
    server = local.ensure_server(config)
    put(server)
    pid = postmaster(config)
    os.kill(server.owner_pid, signal.SIGKILL)
    wait_until_gone(pid)
    assert value(local.ensure_server(config)) == 42


def test_a_killed_server_ends_its_owner_and_the_next_start_recovers(config: Settings) -> None:
    server = local.ensure_server(config)
    put(server)
    os.kill(postmaster(config), signal.SIGKILL)
    wait_until_gone(server.owner_pid)
    assert value(local.ensure_server(config)) == 42


def test_a_stale_pid_file_that_names_a_stranger_does_not_stop_the_start(config: Settings) -> None:
    server = local.ensure_server(config)
    put(server)
    pid_file = config.home / "postgres" / "data" / "postmaster.pid"
    content = pid_file.read_text()
    assert local.stop_server(config)
    stranger = str(os.getpid())
    pid_file.write_text(content.replace(content.split("\n", 1)[0], stranger, 1))
    assert value(local.ensure_server(config)) == 42


def test_a_server_nobody_uses_stops_by_itself(config: Settings) -> None:
    brief = config.model_copy(update={"embedded_idle_minutes": 0.02})
    before = os.environ.get("CRM_EMBEDDED_IDLE_MINUTES")
    os.environ["CRM_EMBEDDED_IDLE_MINUTES"] = "0.02"
    try:
        server = local.ensure_server(brief)
    finally:
        os.environ.pop("CRM_EMBEDDED_IDLE_MINUTES")
        if before is not None:
            os.environ["CRM_EMBEDDED_IDLE_MINUTES"] = before
    wait_until_gone(server.owner_pid)
    assert local.running_server(config) is None


def test_nobody_else_may_enter_the_socket_folder(config: Settings) -> None:
    server = local.ensure_server(config)
    assert Path(server.socket_dir).stat().st_mode & 0o077 == 0
