{#- Interval of a difference of two proportions by their Wilson scores: R. G. Newcombe, "Interval estimation for the
    difference between independent proportions", Statistics in Medicine 17 (1998), 873-890, method 10. -#}

with sendings as (
    select
        campaign,
        occurrence,
        min((sent_at at time zone 'UTC')::date) as sent_on
    from {{ source('activation', 'messages') }}
    where status = 'sent' and sent_at is not null
    group by campaign, occurrence
),

-- Intention to treat: whoever was drawn for the message counts with it, whether or not it arrived.
people as (
    select
        messages.campaign,
        messages.occurrence,
        messages.address,
        sendings.sent_on,
        bool_or(messages.status = 'holdout') as is_held_out,
        min(messages.customer_id) as customer_id
    from {{ source('activation', 'messages') }} as messages
    inner join sendings on messages.campaign = sendings.campaign and messages.occurrence = sendings.occurrence
    where messages.status <> 'superseded'
    group by messages.campaign, messages.occurrence, messages.address, sendings.sent_on
),

ordered as (
    select distinct
        people.campaign,
        people.occurrence,
        people.address
    from people
    inner join {{ ref('fct_orders') }} as orders
        on
            people.customer_id = orders.customer_id
            and orders.is_qualifying
            and orders.order_date between people.sent_on
            and people.sent_on + {{ rule_number('activation.conversion_days') }}::integer
),

counted as (
    select
        people.campaign,
        people.occurrence,
        people.sent_on,
        count(*) filter (where not people.is_held_out) as treated,
        count(ordered.address) filter (where not people.is_held_out) as treated_ordered,
        count(*) filter (where people.is_held_out) as held_out,
        count(ordered.address) filter (where people.is_held_out) as held_out_ordered
    from people
    left join ordered
        on
            people.campaign = ordered.campaign
            and people.occurrence = ordered.occurrence
            and people.address = ordered.address
    group by people.campaign, people.occurrence, people.sent_on
),

shares as (
    select
        *,
        treated_ordered::double precision / treated as treated_share,
        held_out_ordered::double precision / held_out as held_out_share
    from counted
    where treated > 0 and held_out > 0
),

scored as (
    select
        *,
        {{ wilson('treated_share', 'treated', '-') }} as treated_low,
        {{ wilson('treated_share', 'treated', '+') }} as treated_high,
        {{ wilson('held_out_share', 'held_out', '-') }} as held_out_low,
        {{ wilson('held_out_share', 'held_out', '+') }} as held_out_high
    from shares
),

bounded as (
    select
        *,
        treated_share - held_out_share as uplift,
        sqrt((treated_share - treated_low) ^ 2 + (held_out_high - held_out_share) ^ 2) as below,
        sqrt((treated_high - treated_share) ^ 2 + (held_out_share - held_out_low) ^ 2) as above
    from scored
),

newest_sale as (
    select max(order_date) as order_date
    from {{ ref('fct_orders') }}
    where is_qualifying
)

select
    bounded.campaign,
    bounded.occurrence,
    bounded.sent_on,
    bounded.treated,
    bounded.treated_ordered,
    bounded.held_out,
    bounded.held_out_ordered,
    round(bounded.uplift::numeric, 6)::double precision as uplift,
    round((bounded.uplift - bounded.below)::numeric, 6)::double precision as uplift_low,
    round((bounded.uplift + bounded.above)::numeric, 6)::double precision as uplift_high,
    coalesce(
        newest_sale.order_date >= bounded.sent_on + {{ rule_number('activation.conversion_days') }}::integer, false
    ) as is_final
from bounded
cross join newest_sale
