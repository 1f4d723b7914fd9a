"""How fast a live send is, on the real clock, and how much memory it takes (`./crm bench --cases throughput`).

Brevo takes 1,000 versions a call and 100 calls a minute. A campaign past its ramp-up is sent to a stand-in in a process
of its own; beside the speed stand the sender's peak memory and its own time for each call. With a template kept at
Brevo a call is full; with our own HTML its bytes are the limit.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks import killing, sending_estate
from benchmarks.bench import peak_mib
from crm_assets import databases, local, sending
from crm_assets.campaigns import Campaign
from crm_assets.clock import SystemClock
from crm_assets.resources import brevo
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import ROOT, Settings, settings

OPEN_ALWAYS = {"weekdays": [1, 2, 3, 4, 5, 6, 7], "opens": "00:00", "closes": "23:59"}
CASES = {
    "100k, template at Brevo": (100_000, True),
    "10k, template at Brevo": (10_000, True),
    "5k, own HTML": (5_000, False),
}
CALLS_A_MINUTE, VERSIONS = 100, 1000


def campaign(is_at_brevo: bool) -> Campaign:
    template = {"template": "brevo:selection"} if is_at_brevo else {}
    return Campaign.model_validate(
        {"name": "spring", "kind": "reco", "subject": {"fr": "Notre sélection"}, "holdout": False, **template}
    )


def send(count: int, is_at_brevo: bool, home: Path) -> dict[str, Any]:
    """One campaign, planned and sent; figures of this process, which does nothing else."""
    calendar = {"public_holidays": False, "alsace_moselle": False}
    tenant = sending_estate.tenant(rules={"activation": {"window": OPEN_ALWAYS, "calendar": calendar}})
    clock, now = SystemClock(), datetime.now(UTC)
    cluster = databases.cluster(settings())
    url = databases.ensure_tenant(cluster, f"throughput_{count}_{int(is_at_brevo)}")
    warehouse, one = Warehouse(url), campaign(is_at_brevo)
    sending_estate.build(warehouse, tenant, count, tenant.today(now), now)
    plan = killing.plan(warehouse, tenant, one, tenant.today(now), now)
    sending_estate.accept_test(warehouse, one.name, now)
    # The ramp-up is half an hour of waiting: it was yesterday.
    warehouse.execute(
        "insert into activation.chunks (tag, campaign, occurrence, step, idempotency_key, request_hash, n_messages,"
        " n_bytes, status, frozen_at, first_tried_at, settled_by) values"
        " ('ramp-up', %s, 'once', 1, '', '', 50, 0, 'accepted', %s, %s, 'bench')",
        [one.name, now - timedelta(days=1), now - timedelta(days=1)],
    )
    (home / "data" / "demo" / "raw").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "brevo_standin", "--key", killing.KEY, "--seed", str(home / "seed.json")]
    (home / "seed.json").write_text(json.dumps(killing.SEED))
    standin = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert standin.stdout is not None
        there = settings().model_copy(update={"live": True, "brevo_url": f"{standin.stdout.readline().strip()}/v3"})
        config = there.model_copy(update={"home": home, "data": home / "data"})

        def connect(tenant: Any, _: Settings, clock: Any, *, mode: Any) -> brevo.Brevo:
            return brevo.client(tenant, there, clock, mode=mode)

        # Planning held all messages; what is asked is what sending holds.
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = peak_mib()
        given: dict[str, Any] = {"confirmed_hash": plan.plan_hash, "by": "the bench", "connect": connect}
        began, used = time.monotonic(), time.process_time()
        done = sending.send_campaign(sending.Sending(warehouse, tenant, one, config, clock, **given))
        seconds, used = time.monotonic() - began, time.process_time() - used
    finally:
        standin.terminate()
        standin.wait(timeout=10)
    (first, last) = warehouse.rows("select min(started_at), max(ended_at) from activation.attempts")[0]
    a_minute = done.messages / max((last - first).total_seconds(), 60 / CALLS_A_MINUTE) * 60
    return {
        "messages": done.messages,
        "calls": done.chunks,
        "bytes_a_call": done.bytes // max(done.chunks, 1),
        "messages_a_call": round(done.messages / max(done.chunks, 1)),
        "seconds": round(seconds, 1),
        "messages_a_minute": round(a_minute),
        "share_of_brevos_limit": round(a_minute / (CALLS_A_MINUTE * VERSIONS), 3),
        "processor_seconds_a_call": round(used / max(done.chunks, 1), 3),
        "mib_before": before,
        "peak_mib": peak_mib(),
        "status": done.status,
    }


def main() -> int:
    """Measure each case in a process of its own; figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("COUNT", "AT_BREVO"), help="used by itself: one case")
    args = parser.parse_args()
    if args.one:
        home = Path(os.environ["CRM_HOME"]).parent / f"home{args.one[0]}{args.one[1]}"
        print(json.dumps(send(int(args.one[0]), args.one[1] == "1", home)))
        return 0
    home = Path(tempfile.mkdtemp(prefix="crmthroughput-"))
    home.chmod(0o755)
    os.environ |= {"CRM_HOME": str(home / "var"), "CRM_BREVO_KEY": killing.KEY, "CRM_SECRET": "of a bench"}
    os.environ.pop("CRM_DATABASE_URL", None)
    settings.cache_clear()
    try:
        found = {}
        for name, (count, is_at_brevo) in CASES.items():
            command = [sys.executable, "-m", "benchmarks.throughput", "--one", str(count), str(int(is_at_brevo))]
            ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
            found[name] = json.loads(ran.stdout)
        print(json.dumps(found, indent=2))
        if args.out:
            args.out.write_text(json.dumps(found))
        return 0
    finally:
        local.stop_server(settings())
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
