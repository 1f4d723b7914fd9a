"""A small version of `./crm bench --cases kill`: the sender is killed in the middle, in each idempotency mode."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import killing
from crm_assets import databases


def test_nobody_is_written_to_twice_or_forgotten_when_senders_are_killed(
    cluster: databases.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_BREVO_KEY", killing.KEY)
    size = killing.Size(customers=300, chunk=100, faults=1, kills=2, database_kill_share=0)
    bench = killing.Bench(cluster, cluster.role(""), tmp_path, size)
    bench.prepare()
    for number in range(3):
        bench.run(number)
    assert bench.tally.is_clean
    assert (bench.tally.rounds, bench.tally.duplicates, bench.tally.losses) == (3, 0, 0)
    assert sum(bench.tally.kills.values()) >= 2
    assert bench.tally.messages == 3 * (300 - 6)
