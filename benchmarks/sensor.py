"""A tick of the file sensors with many tenants and nothing new: what the daemon pays every few seconds.

Makes the tenant files and the drop folders, and evaluates the sensors of `crm_assets/defs/automation.py` as the code
server does, against the database of CRM_HOME. Writes JSON: seconds of the first tick (nothing is known of any
folder), of one that finds all settled and asks for runs, and the best of three in which nothing has changed.
`./crm bench --cases sensor` runs it in a CRM_HOME of its own.

    python -m benchmarks.sensor --out FILE [--tenants 1000] [--files 10]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from crm_assets.settings import settings
from crm_assets.tenants import TEMPLATE

CONTENT = b"Code client;Nom\nC1;Muller\n"
UNCHANGED_TICKS = 3


def make(tenants: int, files: int) -> None:
    """Tenant files and drop folders with `files` exports each, written a minute ago."""
    config = settings()
    config.tenants.mkdir(parents=True, exist_ok=True)
    minute_ago = time.time() - 60
    for number in range(tenants):
        slug = f"estate_{number:05d}"
        (config.tenants / f"{slug}.yaml").write_text(TEMPLATE.format(name=slug), encoding="utf-8")
        folder = Path(config.data, slug, "raw", "isavigne", "clients")
        folder.mkdir(parents=True)
        for each in range(files):
            path = folder / f"clients_{each}.csv"
            path.write_bytes(CONTENT)
            os.utime(path, (minute_ago, minute_ago))


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--files", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    make(args.tenants, args.files)

    import dagster as dg

    from crm_assets.dbt_manifest import ensure_manifest

    ensure_manifest()
    from crm_assets.definitions import defs
    from crm_assets.defs import automation
    from crm_assets.resources.control import Control

    repository = defs.get_repository_def()
    with dg.DagsterInstance.local_temp() as instance:

        def tick(sensor: dg.SensorDefinition) -> object:
            with (
                dg.build_sensor_context(instance=instance, repository_def=repository) as context,
                dg.partition_loading_context(dynamic_partitions_store=instance),
            ):
                return sensor.evaluate_tick(context)

        control = Control()  # its server is up
        time.sleep(3)  # a tenant file just written is read again: another write might not show
        found = {"tenant_files, first": seconds(lambda: tick(automation.tenant_files))}
        instance.add_dynamic_partitions("tenant", [path.stem for path in settings().tenants.glob("*.yaml")])
        found["dropped_files, first"] = seconds(lambda: tick(automation.dropped_files))
        found["dropped_files, all settled"] = seconds(lambda: tick(automation.dropped_files))
        # As after the runs: everything has landed.
        with control.session():
            for slug, drop in control.drops().items():
                control.landed(slug, drop.looked_fingerprint or "")
        for sensor in (automation.tenant_files, automation.dropped_files, automation.dropped_files_elsewhere):
            ticks = [seconds(lambda s=sensor: tick(s)) for _ in range(UNCHANGED_TICKS)]
            found[f"{sensor.name}, unchanged"] = min(ticks)
    args.out.write_text(json.dumps({name: round(value, 3) for name, value in found.items()}))


if __name__ == "__main__":
    main()
