with sent as (
    select
        *,
        {{ local_day('sent_at') }} as sent_on
    from {{ source('activation', 'messages') }}
    where status = 'sent' and sent_at is not null
),

-- (tag, address) is the message, but for one of a call that was split or tried again under another tag: whatever the
-- tag, an address has one message of a step. A tag that its own text tells belongs to a chunk that a restore lost.
named_events as (
    select
        events.event_key,
        events.address,
        events.event,
        events.occurred_at,
        coalesce(events.is_machine, false) as is_machine,
        coalesce(chunks.campaign, events.campaign) as campaign,
        coalesce(chunks.occurrence, events.occurrence) as occurrence,
        coalesce(chunks.step, events.step) as step
    from {{ source('outcomes', 'events') }} as events
    left join {{ source('activation', 'chunks') }} as chunks on chunks.tag = events.tag
),

-- What names no occurrence belongs to the last message of its campaign to that address before it.
matched_events as (
    select
        sent.message_id,
        events.event,
        events.is_machine
    from named_events as events
    inner join sent
        on
            sent.address = events.address
            and sent.campaign = events.campaign
            and sent.occurrence = events.occurrence
            and sent.step = events.step
    union all
    select
        message_id,
        event,
        is_machine
    from (
        select distinct on (events.event_key)
            sent.message_id,
            events.event,
            events.is_machine
        from named_events as events
        inner join sent
            on
                sent.address = events.address
                and sent.campaign = events.campaign
                and sent.sent_at <= events.occurred_at
        where events.occurrence is null or events.step is null
        order by events.event_key, sent.sent_at desc, sent.message_id collate "C"
    ) as by_campaign
),

reactions as (
    select
        message_id,
        -- Who opens or clicks has received, though the provider may have lost that event.
        bool_or(event in ('delivered', 'opened', 'clicked', 'unsubscribed', 'spam')) as is_delivered,
        bool_or(event = 'opened' and not is_machine) as is_opened,
        bool_or(event = 'opened' and is_machine) as is_machine_opened,
        bool_or(event = 'clicked' and not is_machine) as is_clicked,
        bool_or(event in ('hard_bounce', 'blocked', 'invalid')) as is_bounced,
        bool_or(event = 'unsubscribed') as is_unsubscribed,
        bool_or(event = 'spam') as is_complained
    from matched_events
    group by message_id
),

-- Last touch: an order counts for the last message before it, of whichever campaign, within the conversion days.
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
                and orders.order_date between sent.sent_on and sent.sent_on + {{ conversion_days() }}
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
                and bought.sale_date between sent.sent_on and sent.sent_on + {{ conversion_days() }}
        order by bought.order_id, bought.wine_id, sent.sent_at desc, sent.message_id collate "C"
    ) as attributed
    group by message_id
)

select
    sent.message_id,
    sent.campaign,
    sent.occurrence,
    sent.step,
    sent.arm,
    sent.template,
    sent.scenario,
    sent.cluster_id,
    sent.run_id,
    sent.batch_id,
    sent.customer_id,
    sent.address,
    sent.sent_at,
    sent.sent_on,
    coalesce(reactions.is_delivered, false) as is_delivered,
    coalesce(reactions.is_opened, false) as is_opened,
    coalesce(reactions.is_machine_opened, false) as is_machine_opened,
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
