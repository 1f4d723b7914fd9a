"""What a result depends on, as hashes: the code, and the state that people and Brevo have written.

Together with the as-of date, the files' hashes and the rules they make the run_id of spec.md §5: the same
inputs are the same run.
"""

from __future__ import annotations

import hashlib
from datetime import date
from functools import cache
from pathlib import Path

from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import ROOT
from crm_assets.tenants import Tenant

# What decides a result: the computations, their SQL, wording and mapping. Numbers are the rules' own version.
CODE_FOLDERS = (
    "crm_assets/logic",
    "crm_assets/templates",
    "crm_assets/config/sources",
    "crm_assets/defs",
    "dbt_project/models",
    "dbt_project/macros",
)
_CODE_SUFFIXES = {".py", ".sql", ".yaml", ".yml", ".j2", ".html", ".txt"}

# One row of text per decision that changes who may hear what; planned and dry-run messages change nothing.
_STATE = """
    select coalesce(md5(string_agg(line, '|' order by line collate "C")), '') from (
        select row(
            'contact', address, is_unsubscribed, is_blocked, is_unsubscribed_now, is_blocked_now, blocked_reason,
            (refused_at at time zone 'UTC')::date, tracking_consent
        )::text as line from activation.contacts
        union all
        select concat_ws(',', 'review', run_id, customer_id, wine_id, scenario, decision, decided_at::text)
        from review.decisions
        union all
        select concat_ws(',', 'event', event_key) from outcomes.events
        union all
        select concat_ws(',', 'sent', message_id)
        from activation.messages where status in ('sending', 'sent', 'unknown')
    ) as state
"""

_DATASET = """
    select coalesce(md5(string_agg(sha256, '|' order by sha256 collate "C")), '')
    from (select distinct sha256 from raw.files where status = 'loaded') as contents
"""


@cache
def code_version() -> str:
    """First 12 hex of the SHA-256 over the files that decide a result."""
    digest = hashlib.sha256()
    for path in sorted(p for folder in CODE_FOLDERS for p in (ROOT / folder).rglob("*") if _is_code(p)):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _is_code(path: Path) -> bool:
    return path.suffix in _CODE_SUFFIXES and path.is_file()


def dataset_version(warehouse: Warehouse) -> str:
    """Hash over the contents of all loaded files, whatever their names and order of arrival."""
    return str(warehouse.rows(_DATASET)[0][0])


def state_version(warehouse: Warehouse) -> str:
    """Hash over refusals, blocks, reviews, delivery events and really sent messages."""
    return str(warehouse.rows(_STATE)[0][0])


def run_id(tenant: Tenant, as_of: date, dataset: str, state: str) -> str:
    """First 16 hex of sha256(tenant, as_of, dataset_version, state_version, rules_version, code_version).

    The rules are all that the tenant's file says: a run under other send countries is another run.
    """
    parts = [tenant.slug, as_of.isoformat(), dataset, state, tenant.version, code_version()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
