"""The job that shows, from the UI alone, the message of one customer: it writes a file and says where.

It plans nothing, sends nothing and takes no run's lock. By codes only in the log and the run's configuration; what the
message says stands in the file. The message is made in `crm_assets/preview.py`.
"""

import dagster as dg
from pydantic import Field

from crm_assets import preview, why
from crm_assets.campaigns import CampaignError
from crm_assets.defs.common import tenants_partitions
from crm_assets.settings import settings

MESSAGES = dg.AssetKey(["activation", "messages"])


class PreviewMessage(dg.Config):
    """Whose message, and made with what."""

    # With defaults, so that the Launchpad shows all from the start.
    customer: str = Field(
        "", description="Any client code of the person, in quotes: leading zeros count. No name: it stays in the run."
    )
    campaign: str = Field("", description="Name of a campaign file; empty: the newest that has a message for them.")
    kind: str = Field("", description="One of our templates, e.g. winback or welcome; empty: the message's own.")
    picture: bool = Field(True, description="Pictures too, of a phone and of a desktop, where Chromium is installed.")


@dg.op(
    name="preview",
    description="Where the file is stands in the log and in the event ASSET_OBSERVATION.",
    out=dg.Out(dg.Nothing),
)
def preview_this_message(context: dg.OpExecutionContext, config: PreviewMessage) -> None:
    if not context.has_partition_key:
        context.log.warning("Whose customer? Choose the estate as Partition above the configuration, and launch again.")
        return
    slug, home = context.partition_key, settings()
    try:
        made = preview.of_customer(
            home, slug, config.customer, campaign=config.campaign.strip() or None, kind=config.kind.strip() or None
        )
    except (why.UnknownError, preview.NoPreviewError, CampaignError) as error:
        # An answer too: a run that fails would raise an alert.
        context.log.warning(str(error))
        return
    page = preview.write(made, home)
    files = [page]
    try:
        files += [preview.picture(page, width) for width in preview.WIDTHS] if config.picture else []
    except preview.NoPictureError as error:
        context.log.warning(str(error))
    context.log.info(
        f"{page}\n{made.standing}" + (f"\nThe message may not leave: {made.problems}" * bool(made.problems))
    )
    context.log_event(
        dg.AssetObservation(
            MESSAGES,
            partition=slug,
            description=f"Preview of a message of campaign {made.campaign}: {page}",
            metadata={
                "file": dg.MetadataValue.path(str(page)),
                "open": dg.MetadataValue.url(page.resolve().as_uri()),
                **{f"picture_{path.stem.rpartition('-')[2]}": dg.MetadataValue.path(str(path)) for path in files[1:]},
                "customer": made.client_code,
                "campaign": made.campaign,
                "template": made.template,
                "is_planned": made.is_planned,
                "standing": made.standing,
                "problems": made.problems or "none",
            },
        )
    )


@dg.job(
    name="preview_message",
    partitions_def=tenants_partitions,
    description="""What would this customer's message look like? In the Launchpad choose the estate as partition, write
the client code as `customer` and launch: the path of the HTML file is in the run's log and in the event
ASSET_OBSERVATION there, with what would keep the customer from getting it. Sends and changes nothing.""",
)
def preview_message_job() -> None:
    preview_this_message()
