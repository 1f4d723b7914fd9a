"""Workbooks of phone and postal campaigns, from a tenant's database to files. Shared by Dagster and by `crm plan`.

What stands in them is decided in `logic/call_lists.py`. A list is written once, whole: somebody is working with it, and
it is never written over. Nobody on it counts as contacted by that; a contacts file says who was.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time
from pathlib import Path

import pandas as pd

from crm_assets import documents, tables
from crm_assets.campaigns import Campaign
from crm_assets.logic import call_lists
from crm_assets.resources.warehouse import Warehouse
from crm_assets.run_context import TenantRun
from crm_assets.tenants import Tenant

FOLDER = "call_lists"
# Plans by telephone or post that still count.
_PLANS = """
select campaign, occurrence, step, channel, as_of, expires_on from activation.campaigns
where channel in ('phone', 'post') and expires_on >= %s and status <> 'abandoned'
order by campaign, occurrence, step
"""
# fmt: off
_CUSTOMER_COLUMNS = [
    "customer_id", "client_code", "last_name", "first_name", "full_name", "phone", "address", "postal_code", "city",
    "country", "last_order_date",
]
# fmt: on


@dataclass(frozen=True)
class CallList:
    """A list as it lies: `is_new` where it was written now."""

    path: Path
    campaign: str
    people: int
    is_new: bool


def write(run: TenantRun, campaigns: dict[str, Campaign]) -> list[CallList]:
    """The list of each plan by telephone or post that still counts; one whose campaign has no file any more is left."""
    folder = documents.folder_of(run.tenant, run.home, FOLDER)
    lists = []
    for name, occurrence, step, channel, as_of, last_day in run.warehouse.rows(_PLANS, [run.as_of]):
        if name not in campaigns:
            continue
        text = campaigns[name].text.get(run.tenant.locale, "")
        about = call_lists.About(run.tenant.name, name, channel, text, last_day)
        people = _people(run.warehouse, run.tenant, (name, occurrence, step))
        path = folder / call_lists.file_name(about, occurrence, run.tenant.locale)
        is_new = not path.exists()
        if is_new:
            made_at = datetime.combine(as_of, time(), UTC)  # not the clock: the same plan is the same bytes
            documents.write_whole(path, call_lists.workbook(people, about, run.tenant.locale, made_at))
        shown = path.relative_to(run.home) if path.is_relative_to(run.home) else path
        rows = people[["message_id"]].assign(
            campaign=name, occurrence=occurrence, step=step, path=shown.as_posix(), written_at=run.now
        )
        known = run.warehouse.read("activation", "call_lists", ["message_id"], "campaign = %s", [name])
        run.warehouse.upsert(tables.call_lists, rows if is_new else rows[~rows["message_id"].isin(known["message_id"])])
        lists.append(CallList(path, name, len(people), is_new))
    return lists


def _people(warehouse: Warehouse, tenant: Tenant, key: tuple[str, str, int]) -> pd.DataFrame:
    messages = warehouse.read(
        "activation",
        "messages",
        ["message_id", "customer_id", "params"],
        "campaign = %s and occurrence = %s and step = %s and status = 'planned'",
        list(key),
    )
    customers = warehouse.read("curated", "dim_customers", _CUSTOMER_COLUMNS)
    return call_lists.rows(messages, customers, tenant.locale)
