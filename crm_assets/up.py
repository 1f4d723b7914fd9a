"""`crm up`: the whole product on one machine, until Ctrl-C.

The same three commands run in docker/compose.yaml. Whoever dies takes the rest down; what a killed `up` left
behind is found by a mark in its environment and ended at the next start.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from crm_assets import databases, local, standin
from crm_assets.campaigns import CampaignFiles
from crm_assets.dbt_manifest import ensure_manifest
from crm_assets.settings import ROOT, Settings, secret
from crm_assets.tenants import Registry, Tenant

MARK = "CRM_UP"
READY_SECONDS = 180
STOP_SECONDS = 25
STANDIN_ESTATE = "demo"  # the one that --with-brevo-standin sends for


class UpError(Exception):
    """The product cannot be started; the message says why and what to do."""


def takes_webhooks(registry: Registry) -> bool:
    """Whether an estate has a token for Brevo's webhooks: without any, nobody could be let in."""
    return any(secret(tenant.brevo.webhook_token_variable) for tenant in registry)


def processes(config: Settings, *, receives: bool = False) -> dict[str, list[str]]:
    """The long-running programs, by name, as docker/compose.yaml has them too; `receives`: Brevo's webhooks as well."""
    receiver = {"receiver": ["python", "-m", "crm_assets.cli", "receiver"]}
    return {
        **(receiver if receives else {}),
        "code-server": [
            *("dagster", "code-server", "start", "-m", "crm_assets.definitions"),
            *("-h", config.code_host, "-p", str(config.code_port)),
        ],
        "webserver": ["dagster-webserver", "-w", "workspace.yaml", "-h", config.host, "-p", str(config.port)],
        "daemon": ["dagster-daemon", "run", "-w", "workspace.yaml"],
    }


def dagster_environment(config: Settings, dagster_url: str) -> dict[str, str]:
    """The environment of everything that talks to the Dagster instance."""
    home = config.home / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    instance = home / "dagster.yaml"
    if not instance.is_symlink() or instance.readlink() != ROOT / "dagster.yaml":
        instance.unlink(missing_ok=True)
        with contextlib.suppress(FileExistsError):  # another command was faster
            instance.symlink_to(ROOT / "dagster.yaml")
    return {
        "DAGSTER_HOME": str(home),
        "CRM_HOME": str(config.home),
        "CRM_DATA": str(config.data),
        "CRM_TENANTS": str(config.tenants),
        "CRM_DAGSTER_URL": dagster_url,
        "CRM_CODE_HOST": config.code_host,
        "CRM_CODE_PORT": str(config.code_port),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        # A run announces each asset and check before it starts: in one statement rather than two hundred.
        "DAGSTER_EVENT_BATCH_SIZE": "500",
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "PYTHONPATH": str(ROOT),
        # Tenants run side by side; threads of one run would wait for each other, and sums would depend on their number.
        "OMP_NUM_THREADS": "1",
    }


def prepare(config: Settings, say: Callable[[str], None]) -> dict[str, str]:
    """Everything that must exist before Dagster starts; returns its environment. Quick when nothing is missing."""
    cluster = databases.cluster(config)
    databases.ensure_control(cluster)
    url = databases.ensure_dagster(cluster)
    registry = Registry(config.tenants)
    for problem in registry.errors.values():
        say(f"left out: {problem}")
    for tenant in registry:
        databases.ensure_tenant(cluster, tenant.slug)
    ensure_manifest()
    return dagster_environment(config, url)


def drop_samples(config: Settings, slug: str, samples: Path = ROOT / "data" / "samples") -> list[str]:
    """Copy the sample estate's files that are not there yet into a tenant's drop folder; their names."""
    dropped = []
    source = samples / "isavigne"
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        target = config.data / slug / "raw" / path.relative_to(samples)
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        # As a careful exporter does: under another name until it is whole.
        scratch = target.with_name(f"{target.name}.part")
        shutil.copyfile(path, scratch)
        scratch.rename(target)
        dropped.append(path.relative_to(samples).as_posix())
    return dropped


def _marked(home: Path) -> list[int]:
    """Processes that an `up` of this CRM_HOME started, however far down, but not this one."""
    wanted = f"{MARK}={home}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                found.append(int(folder.name))
        except OSError:
            continue  # ended meanwhile, or another user's
    return found


def _end(home: Path, grace: float) -> None:
    """End every marked process: asked first, then killed."""
    deadline = time.monotonic() + grace
    asked: set[int] = set()
    while (left := _marked(home)) and time.monotonic() < deadline:
        for pid in set(left) - asked:
            asked.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        time.sleep(0.1)
    for pid in _marked(home):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _spawn(command: Sequence[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    def before_exec() -> None:
        local.default_signals()
        local.die_with_parent(signal.SIGTERM)

    program = str(Path(sys.executable).parent / command[0])
    with log.open("ab") as output:
        return subprocess.Popen(
            [program, *command[1:]],
            env=environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us only: we stop the others in order
            preexec_fn=before_exec,
        )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/server_info", timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _load_error(url: str) -> str | None:
    """Why the code location could not be loaded, as the webserver tells it; None when it is there."""
    query = "{workspaceOrError{... on Workspace{locationEntries{locationOrLoadError{... on PythonError{message}}}}}}"
    request = urllib.request.Request(
        f"{url}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)
    for entry in answer["data"]["workspaceOrError"].get("locationEntries", []):
        error = (entry["locationOrLoadError"] or {}).get("message")
        if error:
            return str(error).strip()
    return None


def require_standin(config: Settings, registry: Registry) -> Tenant:
    """The estate that may send to Brevo's stand-in; UpError when something of the real Brevo is in the way."""
    tenant = registry.tenants.get(STANDIN_ESTATE)
    if not (ROOT / "brevo_standin").is_dir():
        raise UpError("--with-brevo-standin: the stand-in is no part of this installation")
    if tenant is None:
        raise UpError(f"--with-brevo-standin sends for the estate {STANDIN_ESTATE}, and {config.tenants} has none")
    variable = tenant.brevo.api_key_variable
    if secret(variable) is not None:
        raise UpError(f"{variable} has a value: --with-brevo-standin takes no real key's place; unset it first")
    if others := [other.slug for other in registry if other is not tenant and other.brevo.api_key_variable == variable]:
        raise UpError(f"{variable} is the variable of {', '.join(others)} too: give {STANDIN_ESTATE} one of its own")
    if "brevo_url" in Settings().model_fields_set:  # what our children will find
        raise UpError("CRM_BREVO_URL is set: --with-brevo-standin leads there by itself; unset it first")
    return tenant


def start_standin(
    config: Settings, tenant: Tenant, environment: dict[str, str], say: Callable[[str], None]
) -> subprocess.Popen[bytes]:
    """Start the stand-in and mark it, so that every process of this CRM_HOME finds it."""
    campaigns = CampaignFiles(config.tenants, tenant).campaigns.values()
    senders = {tenant.brevo.sender_email, *(campaign.sender_email or "" for campaign in campaigns)} - {""}
    port = config.standin_port or _free_port()
    if not _is_free("127.0.0.1", port):
        raise UpError(f"port {port} of 127.0.0.1 is taken; free it, or choose another with CRM_STANDIN_PORT")
    log = config.home / "logs" / "brevo-standin.log"
    child = _spawn(standin.command(config.home, port, senders), environment, log)
    root = standin.announce(config.home, port, child.pid, [tenant.brevo.api_key_variable])
    if root is None:
        child.kill()
        raise UpError(f"Brevo's stand-in did not answer; its log: {log}")
    say(f"Brevo's stand-in, which sends to nobody: {root}   ({tenant.slug} is live there; every other estate is dry)")
    return child


def up(config: Settings, say: Callable[[str], None], *, with_brevo_standin: bool = False) -> int:
    """Run the product until a signal, or until one of its programs ends; 0 or 1."""
    config.home.mkdir(parents=True, exist_ok=True)
    url = f"http://{config.host}:{config.port}"
    with (config.home / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"already up: {url}")
            return 0
        _end(config.home, grace=10)
        if not _is_free(config.host, config.port):
            raise UpError(f"port {config.port} of {config.host} is taken; free it, or choose another with CRM_PORT")
        if "code_port" not in config.model_fields_set:
            config = config.model_copy(update={"code_port": _free_port()})
        standin.forget(config.home)
        if with_brevo_standin:
            require_standin(config, Registry(config.tenants))
        return _supervise(config, url, say, with_brevo_standin)


def _supervise(config: Settings, url: str, say: Callable[[str], None], with_brevo_standin: bool) -> int:
    from crm_assets.resources.control import Control

    stopped_by: list[int] = []
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sig, lambda number, _frame: stopped_by.append(number))
    children: dict[str, subprocess.Popen[bytes]] = {}
    try:
        say("preparing databases and the dbt manifest")
        environment = {**os.environ, **prepare(config, say), MARK: str(config.home)}  # noqa: TID251
        Control(config).forget_requests()
        registry = Registry(config.tenants)
        if "demo" in registry.tenants:
            dropped = drop_samples(config, "demo")
            say(f"dropped {len(dropped)} sample files of the demo estate" if dropped else "the samples are in place")
        logs = config.home / "logs"
        logs.mkdir(exist_ok=True)
        if with_brevo_standin:
            tenant = require_standin(config, registry)
            children["brevo-standin"] = start_standin(config, tenant, environment, say)
        for name, command in processes(config, receives=takes_webhooks(registry)).items():
            children[name] = _spawn(command, environment, logs / f"{name}.log")
        deadline = time.monotonic() + READY_SECONDS
        announced, told, misses = False, False, 0
        while not stopped_by:
            for name, child in children.items():
                if child.poll() is not None:
                    say(f"{name} ended with {child.returncode}; its log: {logs / f'{name}.log'}")
                    return 1
            misses = misses + 1 if config.database_url is None and local.running_server(config) is None else 0
            if misses >= 5:  # one connection that fails may be a busy moment
                say(f"the embedded PostgreSQL is gone; its log: {config.home / 'postgres' / 'postgres.log'}")
                return 1
            if not announced and _answers(url):
                problem = _load_error(url)
                if problem and "UserCodeUnreachable" not in problem:
                    say(f"the code location does not load: {problem}")
                    return 1
                announced = problem is None
            if announced and not told:
                told = True
                say(f"Dagster UI: {url}   (Ctrl-C stops everything; logs in {logs})")
            elif not announced and time.monotonic() > deadline:
                say(f"the UI did not answer within {READY_SECONDS} s; see {logs / 'webserver.log'}")
                return 1
            time.sleep(0.5 if not announced else 1)
        say("stopping")
        return 0
    finally:
        # The daemon first: it must not start runs while their code server goes away.
        for name in ("daemon", "receiver", "webserver", "code-server", "brevo-standin"):
            if name in children and children[name].poll() is None:
                children[name].send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while any(child.poll() is None for child in children.values()) and time.monotonic() < deadline:
            time.sleep(0.1)
        _end(config.home, grace=10)
        for child in children.values():
            child.wait()
        standin.forget(config.home)
        if config.database_url is None:
            local.stop_server(config)
