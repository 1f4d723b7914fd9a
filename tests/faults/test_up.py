"""`crm up` as a person runs it: starts, is there once, ends without a trace, and comes back after any kill."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from crm_assets import local, up
from crm_assets.settings import ROOT, Settings

READY_SECONDS = 150


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Product:
    """One CRM_HOME and the `crm up` processes started on it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="crmtest-up-"))
        self.folder.chmod(0o755)
        (self.folder / "tenants").mkdir()
        shutil.copy(ROOT / "tenants" / "vieux_lavoir.yaml", self.folder / "tenants")
        self.port = free_port()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "CRM_HOME": str(self.folder / "var"),
            "CRM_DATA": str(self.folder / "data"),
            "CRM_TENANTS": str(self.folder / "tenants"),
            "CRM_PORT": str(self.port),
        }
        self.environment.pop("CRM_DATABASE_URL", None)
        self.config = Settings(home=self.folder / "var", database_url=None)
        self.log = self.folder / "up.log"

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("wb") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "crm_assets.cli", "up"],
                env=self.environment,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def start_and_wait(self) -> subprocess.Popen[bytes]:
        process = self.start()
        deadline = time.monotonic() + READY_SECONDS
        while "Dagster UI" not in self.log.read_text():
            assert process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/server_info", timeout=5) as answer:
            assert answer.status == 200
        return process

    def part(self, name: str) -> int:
        """The process of one of the programs."""
        wanted = up.processes(self.config)[name][0]
        for pid in up._marked(self.config.home):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if any(Path(word).name == wanted for word in command[:2]):
                return pid
        raise AssertionError(f"{name} is not running")

    def left_behind(self) -> list[int]:
        """Processes that are still there: programs, run workers, the database's owner."""
        owner = local.running_server(self.config)
        return up._marked(self.config.home) + ([owner.owner_pid] if owner else [])


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    made = Product()
    yield made
    up._end(made.config.home, grace=5)
    local.stop_server(made.config)
    shutil.rmtree(made.folder, ignore_errors=True)


def test_it_is_there_once_and_ctrl_c_leaves_nothing_behind(product: Product) -> None:
    process = product.start_and_wait()
    second = subprocess.run(
        [sys.executable, "-m", "crm_assets.cli", "up"],
        env=product.environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 0
    assert f"already up: http://127.0.0.1:{product.port}" in second.stderr
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert product.left_behind() == []


def test_a_killed_program_takes_the_rest_down_and_the_next_start_works(product: Product) -> None:
    process = product.start_and_wait()
    os.kill(product.part("daemon"), signal.SIGKILL)
    assert process.wait(60) == 1
    assert "daemon ended" in product.log.read_text()
    assert product.left_behind() == []
    # The command itself, killed: what it left is found and ended by the next start.
    process = product.start_and_wait()
    process.kill()
    process.wait(10)
    process = product.start_and_wait()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert product.left_behind() == []
