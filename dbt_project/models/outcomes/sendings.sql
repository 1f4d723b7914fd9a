with sent as (
    select
        campaign,
        occurrence,
        step,
        min(sent_at) as first_sent_at,
        max(sent_at) as last_sent_at
    from {{ source('activation', 'messages') }}
    where status = 'sent' and sent_at is not null
    group by campaign, occurrence, step
),

dated as (
    select
        campaigns.campaign,
        campaigns.occurrence,
        campaigns.step,
        campaigns.step
        = min(campaigns.step) over (partition by campaigns.campaign, campaigns.occurrence) as is_first_step,
        campaigns.kind,
        campaigns.channel,
        campaigns.run_id,
        to_char(campaigns.as_of, 'YYYY"Q"Q') as quarter,
        -- Both groups are counted from here, whenever the last message left.
        {{ local_day('least(campaigns.began_at, sent.first_sent_at)') }} as began_on,
        {{ local_day('sent.first_sent_at') }} as first_sent_on,
        {{ local_day('sent.last_sent_at') }} as last_sent_on
    from {{ source('activation', 'campaigns') }} as campaigns
    inner join sent
        on
            sent.campaign = campaigns.campaign
            and sent.occurrence = campaigns.occurrence
            and sent.step = campaigns.step
)

select
    campaign,
    occurrence,
    step,
    is_first_step,
    kind,
    channel,
    run_id,
    quarter,
    began_on,
    first_sent_on,
    last_sent_on,
    last_sent_on + {{ conversion_days() }} as final_on
from dated
