"""The state of a tenant's data over its runs, from the tenant's own database.

Joins what the circuit breaker measured (audit.data_quality) with when it was decided upon (gate.decisions). Only
counts and codes. No drawing here, and no judgement: the scores are those that the gate was decided on.
"""

from __future__ import annotations

from datetime import date

import pandas as pd

from crm_assets.logic.audit import ratios
from crm_assets.resources.warehouse import Warehouse

HISTORY_COLUMNS = ["run_id", "as_of", "decided_at", "check_code", "ratio", "tolerance", "score", "overall"]

# Of several decisions about one day the last one stands, and one made at the time before one made with hindsight.
_HISTORY = """
    select
        decisions.run_id, decisions.as_of, decisions.decided_at, quality.check_code, quality.bad, quality.total,
        quality.tolerance, quality.score, decisions.data_quality_score as overall
    from (
        select distinct on (as_of) run_id, as_of, decided_at, data_quality_score
        from gate.decisions
        where (%s::date is null or as_of >= %s::date) and (%s::date is null or as_of <= %s::date)
        order by as_of, is_historical, decided_at desc, run_id collate "C"
    ) as decisions
    inner join audit.data_quality as quality on decisions.run_id = quality.run_id
    order by decisions.as_of, quality.check_code collate "C"
"""


def quality_history(warehouse: Warehouse, since: date | None = None, until: date | None = None) -> pd.DataFrame:
    """HISTORY_COLUMNS, one row per as_of day (its last decision) and check, by day and check_code.

    `ratio` is bad / total, to be held against `tolerance`; `score` 0..100 of the check, `overall` 0..100 of all of
    them as the gate saw it. `since` and `until` are as_of days, both included.
    """
    found = warehouse.query(_HISTORY, [since, since, until, until])
    return found.assign(ratio=ratios(found["bad"], found["total"]))[HISTORY_COLUMNS]
