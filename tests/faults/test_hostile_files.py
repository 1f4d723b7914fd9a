"""Five hundred files that nobody should ever send, through landing and dbt: each fails or lands alone.

What they are is `benchmarks/hostile_files.py`, what must hold `benchmarks/hostile.py`; `./crm bench --cases fuzz` fires
twenty thousand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from benchmarks import hostile, hostile_files
from crm_assets import databases
from crm_assets.resources.warehouse import Warehouse

FILES = 500


@pytest.fixture
def bystander(cluster: databases.Cluster) -> Iterator[Warehouse]:
    """Another estate on the same server."""
    yield Warehouse(databases.ensure_tenant(cluster, "bystander"))
    cluster.drop(cluster.role("bystander"))


def test_hostile_files_end_with_a_status_and_harm_nobody(
    tenant_warehouse: Warehouse, bystander: Warehouse, tmp_path: Path
) -> None:
    arena = hostile.Arena(tenant_warehouse, bystander, tmp_path / "raw")
    drops = list(hostile_files.stream(FILES))
    assert {drop.kind for drop in drops} == set(hostile_files.kinds())
    waiting = iter(drops)
    while batch := list(islice(waiting, hostile.BATCH)):
        arena.fire(batch)
    outcome = arena.outcome
    assert not outcome.faults, hostile.report(outcome)
    assert outcome.files == FILES
    assert set(outcome.statuses) == {*hostile_files.ANY, "unseen"}

    # What the harness would have said, had a row of a good file been lost or another estate been touched.
    last = drops[-FILES % -hostile.BATCH or -hostile.BATCH :]
    good = next(drop for drop in last if drop.rows and drop.statuses == {"loaded"})
    bystander.execute("update raw.files set reason = 'touched'")
    arena.look([replace(good, rows=good.rows[1:])], {}, is_built=True)
    said = " ".join(outcome.faults)
    for part in ("rows that are not its", "good rows ended as", "another estate's tables changed: raw.files"):
        assert part in said
