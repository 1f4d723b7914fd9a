"""The list of a run as it stands after review: what the audit, the gate, exports and activation read.

recommendations.items keeps what the engine made; an item that a person rejected leaves the list, and ranks close up.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from psycopg import sql

from crm_assets.resources.warehouse import Warehouse

_LISTED = """
    select {columns} from (
        select
            items.*,
            row_number() over (partition by items.customer_id order by items.rank)::integer as listed_rank
        from recommendations.items as items
        left join review.applied_decisions as decisions
            on
                items.run_id = decisions.run_id
                and items.customer_id = decisions.customer_id
                and items.wine_id = decisions.wine_id
                and items.scenario = decisions.scenario
                and decisions.decision = 'reject'
        where items.run_id = %s and decisions.run_id is null
    ) as listed
"""


def listed_items(warehouse: Warehouse, run_id: str, columns: Sequence[str]) -> pd.DataFrame:
    """Those columns of the items of a run that nobody has rejected; `rank` is 1..n among them."""
    names = [sql.SQL("listed_rank as rank") if name == "rank" else sql.Identifier(name) for name in columns]
    return warehouse.query(sql.SQL(_LISTED).format(columns=sql.SQL(", ").join(names)), [run_id])
