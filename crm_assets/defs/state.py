"""What later stages write and earlier ones read, as external assets: `["state", table]`, as of the run's start."""

from __future__ import annotations

import dagster as dg

from crm_assets.defs.common import OWNERS, STATE_TABLES, column_schema, state_key, tenants_partitions

state_specs = [
    dg.AssetSpec(
        key=state_key(table),
        description=f"{table.comment}\n\nRead as it was when the run started; written by `{table.fullname}`.",
        group_name="state",
        owners=list(OWNERS),
        kinds={"postgres"},
        partitions_def=tenants_partitions,
        metadata={"dagster/column_schema": column_schema(table), "dagster/table_name": table.fullname},
    )
    for table in STATE_TABLES
]
