"""The job that answers, from the UI alone, why a customer gets a message, or none.

It reads what the gate and the plans have decided, takes no run's lock and writes nothing but its answer: into its own
log, and as an observation of gate/next_actions. By codes and values only; the answer is made in `logic/why.py`.
"""

import dagster as dg
from pydantic import Field

from crm_assets import why
from crm_assets.defs.common import tenants_partitions
from crm_assets.settings import settings

NEXT_ACTIONS = dg.AssetKey(["gate", "next_actions"])


class ExplainCustomer(dg.Config):
    """Whom to tell of."""

    # With defaults, so that the Launchpad shows both from the start.
    customer: str = Field(
        "", description="Any client code of the person, in quotes: leading zeros count. No name: it stays in the run."
    )
    run: str = Field("", description="A run_id of gate.decisions; empty: the run of the gate in force.")


@dg.op(
    name="why",
    description="The answer stands in the log; its grounds are the Markdown of the event ASSET_OBSERVATION.",
    out=dg.Out(dg.Nothing),
)
def why_this_customer(context: dg.OpExecutionContext, config: ExplainCustomer) -> None:
    if not context.has_partition_key:
        context.log.warning("Whose customer? Choose the estate as Partition above the configuration, and launch again.")
        return
    slug = context.partition_key
    try:
        answer = why.of_customer(settings(), slug, config.customer, config.run.strip() or None)
    except why.UnknownError as error:
        # An answer too: a run that fails would raise an alert.
        context.log.warning(str(error))
        return
    context.log.info(answer.sentence)
    context.log_event(
        dg.AssetObservation(
            NEXT_ACTIONS,
            partition=slug,
            description=answer.sentence,
            metadata={
                "answer": answer.sentence,
                "grounds": dg.MetadataValue.md(answer.as_markdown()),
                "customer": answer.client_code,
                "code": answer.code,
                "recommendation_run": answer.run_id,
            },
        )
    )


@dg.job(
    name="explain_customer",
    partitions_def=tenants_partitions,
    description="""Why did this customer get no message? In the Launchpad choose the estate as partition, write the
client code as `customer` and launch: the answer is in the run's log, its grounds are the Markdown of the event
ASSET_OBSERVATION there. Sends and changes nothing.""",
)
def explain_customer_job() -> None:
    why_this_customer()
