with sent as (
    select
        *,
        (sent_at at time zone 'UTC')::date as sent_on
    from {{ source('activation', 'messages') }}
    where status = 'sent' and sent_at is not null
),

chunks as (
    select distinct
        tag,
        campaign,
        occurrence,
        step
    from {{ source('activation', 'attempts') }}
    where not is_dry_run
),

-- (tag, address) is the message. An event that names no chunk of ours belongs to the last message of its campaign
-- to that address before it.
matched_events as (
    select
        sent.message_id,
        events.event
    from {{ source('outcomes', 'events') }} as events
    inner join chunks on chunks.tag = events.tag
    inner join sent
        on
            sent.address = events.address
            and sent.campaign = chunks.campaign
            and sent.occurrence = chunks.occurrence
            and sent.step = chunks.step
    union all
    select
        message_id,
        event
    from (
        select distinct on (events.event_key)
            sent.message_id,
            events.event
        from {{ source('outcomes', 'events') }} as events
        inner join sent
            on
                sent.address = events.address
                and sent.campaign = events.campaign
                and sent.sent_at <= events.occurred_at
        where not exists (select from chunks where chunks.tag = events.tag)
        order by events.event_key, sent.sent_at desc, sent.message_id collate "C"
    ) as by_campaign
),

reactions as (
    select
        message_id,
        -- Who opens or clicks has received, though the provider may have lost that event.
        bool_or(event in ('delivered', 'opened', 'clicked', 'unsubscribed', 'spam')) as is_delivered,
        bool_or(event = 'opened') as is_opened,
        bool_or(event = 'clicked') as is_clicked,
        bool_or(event in ('hard_bounce', 'blocked', 'invalid')) as is_bounced,
        bool_or(event = 'unsubscribed') as is_unsubscribed,
        bool_or(event = 'spam') as is_complained
    from matched_events
    group by message_id
),

-- Last touch: an order counts for the last message before it, within the conversion days.
any_orders as (
    select
        message_id,
        count(*) as n_orders,
        sum(amount_ht) as revenue_ht,
        sum(margin) as margin_ht
    from (
        select distinct on (orders.order_id)
            sent.message_id,
            orders.amount_ht,
            orders.margin
        from sent
        inner join {{ ref('fct_orders') }} as orders
            on
                orders.customer_id = sent.customer_id
                and orders.is_qualifying
                and orders.order_date between sent.sent_on
                and sent.sent_on + {{ rule_number('activation.conversion_days') }}::integer
        order by orders.order_id, sent.sent_at desc, sent.message_id collate "C"
    ) as attributed
    group by message_id
),

-- An order of a recommended wine counts for the last message that recommended it.
recommended_orders as (
    select
        message_id,
        sum(amount_ht) as recommended_revenue_ht
    from (
        select distinct on (bought.order_id, bought.wine_id)
            sent.message_id,
            bought.order_id,
            bought.amount_ht
        from sent
        inner join {{ ref('purchases') }} as bought
            on
                bought.customer_id = sent.customer_id
                and bought.wine_id = any(sent.wine_ids)
                and bought.sale_date between sent.sent_on
                and sent.sent_on + {{ rule_number('activation.conversion_days') }}::integer
        order by bought.order_id, bought.wine_id, sent.sent_at desc, sent.message_id collate "C"
    ) as attributed
    group by message_id
)

select
    sent.message_id,
    sent.campaign,
    sent.occurrence,
    sent.step,
    sent.run_id,
    sent.batch_id,
    sent.scenario,
    sent.customer_id,
    sent.address,
    sent.sent_at,
    sent.sent_on,
    coalesce(reactions.is_delivered, false) as is_delivered,
    coalesce(reactions.is_opened, false) as is_opened,
    coalesce(reactions.is_clicked, false) as is_clicked,
    coalesce(reactions.is_bounced, false) as is_bounced,
    coalesce(reactions.is_unsubscribed, false) as is_unsubscribed,
    coalesce(reactions.is_complained, false) as is_complained,
    recommended_orders.message_id is not null as is_converted,
    any_orders.message_id is not null as has_ordered,
    coalesce(any_orders.n_orders, 0) as n_orders,
    coalesce(any_orders.revenue_ht, 0) as revenue_ht,
    coalesce(any_orders.margin_ht, 0) as margin_ht,
    coalesce(recommended_orders.recommended_revenue_ht, 0) as recommended_revenue_ht
from sent
left join reactions on reactions.message_id = sent.message_id
left join any_orders on any_orders.message_id = sent.message_id
left join recommended_orders on recommended_orders.message_id = sent.message_id
