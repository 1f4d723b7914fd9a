"""The rules and the as-of date, as a table that dbt models read. dbt variables would cost a parse at each change."""

from typing import Any

import dagster as dg
import pandas as pd

from crm_assets import run_context, tables, versions
from crm_assets.defs.common import TenantRun, materialized, tenant_asset


def parameters(run: run_context.TenantRun) -> dict[str, Any]:
    """Dotted name -> value of everything the models may ask for."""
    tenant = run.tenant
    return {
        **run.rules.parameters(),
        "as_of": run.as_of.isoformat(),
        "is_historical": run.is_historical,
        "rules_version": run.rules.version,
        "code_version": versions.code_version(),
        "tenant.country": tenant.country,
        "tenant.timezone": tenant.timezone,
        "tenant.own_addresses": [address.strip().lower() for address in tenant.own_addresses],
        "tenant.document_numbers": tenant.document_numbers,
        "tenant.exports": tenant.exports,
        "tenant.send_countries": tenant.send_countries,
        "tenant.existing_customer_basis": tenant.existing_customer_basis,
    }


@tenant_asset(tables.landing_parameters)
def landing_parameters(context: dg.AssetExecutionContext, tenant_run: TenantRun) -> dg.MaterializeResult[Any]:
    """The rules of `config/rules.yaml` with the estate's overrides, and the as-of date of the run."""
    frame = pd.DataFrame(
        {"name": name, "value": tables.json_text(value)} for name, value in parameters(tenant_run).items()
    )
    tenant_run.warehouse.replace_as_of(tables.landing_parameters, frame)
    return materialized(
        len(frame),
        run=tenant_run,
        rules_version=tenant_run.rules.version,
        is_historical=tenant_run.is_historical,
    )
