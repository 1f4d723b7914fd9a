"""The door: everything Dagster sees of this project."""

import dagster as dg

from crm_assets import defs as stages
from crm_assets.defs import automation, explain, preview, sending_controls, state
from crm_assets.defs.dbt import dbt_resource
from crm_assets.defs.resources import tenant_run_resource

defs = dg.Definitions(
    assets=[*dg.load_assets_from_package_module(stages), *state.state_specs],
    asset_checks=dg.load_asset_checks_from_package_module(stages),
    jobs=[*automation.JOBS, *sending_controls.JOBS, explain.explain_customer_job, preview.preview_message_job],
    schedules=[*automation.SCHEDULES, *sending_controls.SCHEDULES],
    sensors=automation.SENSORS,
    resources={"tenant_run": tenant_run_resource, "dbt": dbt_resource()},
    # A step process costs seconds of imports; between tenants the run queue does the work.
    executor=dg.in_process_executor,
)
