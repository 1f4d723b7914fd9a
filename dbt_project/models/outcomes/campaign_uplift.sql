{#- Intention to treat: whoever was drawn for a message counts with it, whether it arrived, failed, or was held back by
    what became known between plan and send; of the control group nobody is checked again, so nobody is left out of it
    either. Both are counted from the day on which the sending began. -#}
{%- set people = [('treated', 'not is_held_out'), ('held_out', 'is_held_out')] -%}

-- Only the first step is drawn by chance: who gets a later one depends on what the first one did.
with drawn as (
    select
        messages.campaign,
        messages.occurrence,
        messages.address,
        min(messages.customer_id) as customer_id,
        bool_or(messages.status = 'holdout') as is_held_out,
        sendings.quarter,
        sendings.began_on
    from {{ source('activation', 'messages') }} as messages
    inner join {{ ref('sendings') }} as sendings
        on
            sendings.campaign = messages.campaign
            and sendings.occurrence = messages.occurrence
            and sendings.step = messages.step
            and sendings.is_first_step
    group by messages.campaign, messages.occurrence, messages.address, sendings.quarter, sendings.began_on
),

compared as (
    select
        *,
        bool_or(is_held_out) over (partition by campaign, occurrence)
        and bool_or(not is_held_out) over (partition by campaign, occurrence) as has_both
    from drawn
),

-- An address stays in its group all quarter: of the pooled row it counts once, from its first campaign on.
units as (
    select
        'occurrence' as scope,
        quarter,
        campaign,
        occurrence,
        address,
        customer_id,
        is_held_out,
        began_on
    from compared
    where has_both
    union all
    select
        'quarter' as scope,
        quarter,
        '*' as campaign,
        '*' as occurrence,
        address,
        customer_id,
        is_held_out,
        began_on
    from (
        select
            *,
            row_number() over (
                partition by quarter, address order by began_on, campaign collate "C", occurrence collate "C"
            ) as turn
        from compared
        where has_both
    ) as turns
    where turn = 1
),

buyers as (
    select distinct
        units.scope,
        units.quarter,
        units.campaign,
        units.occurrence,
        units.address
    from units
    inner join {{ ref('fct_orders') }} as orders
        on
            orders.customer_id = units.customer_id
            and orders.is_qualifying
            and orders.order_date between units.began_on and units.began_on + {{ conversion_days() }}
),

judged as (
    select
        units.*,
        buyers.address is not null as has_ordered
    from units
    left join buyers
        on
            buyers.scope = units.scope
            and buyers.quarter = units.quarter
            and buyers.campaign = units.campaign
            and buyers.occurrence = units.occurrence
            and buyers.address = units.address
),

counted as (
    select
        scope,
        quarter,
        campaign,
        occurrence,
        make_date(left(quarter, 4)::integer, 3 * right(quarter, 1)::integer, 1) as last_month,
        {%- for name, which in people %}
        count(*) filter (where {{ which }}) as {{ name }},
        count(*) filter (where {{ which }} and has_ordered) as {{ name }}_ordered,
        {%- endfor %}
        min(began_on) as began_on,
        max(began_on) + {{ conversion_days() }} as final_on
    from judged
    group by scope, quarter, campaign, occurrence
),

shares as (
    select
        *,
        {%- for name, _ in people %}
        {{ name }}_ordered::double precision / nullif({{ name }}, 0) as {{ name }}_share,
        {%- endfor %}
        case
            when scope = 'quarter' then greatest(final_on, (last_month + interval '1 month')::date)
            else final_on
        end as known_on
    from counted
),

newest_sale as (
    select max(order_date) as order_date
    from {{ ref('fct_orders') }}
    where is_qualifying
)

select
    shares.scope,
    shares.quarter,
    shares.campaign,
    shares.occurrence,
    shares.began_on,
    shares.treated,
    shares.treated_ordered,
    shares.held_out,
    shares.held_out_ordered,
    round((shares.treated_share - shares.held_out_share)::numeric, 6)::double precision as uplift,
    {%- for name, sign in [('uplift_low', '-'), ('uplift_high', '+')] %}
    round(
        ({{ newcombe('treated_share', 'treated', 'held_out_share', 'held_out', sign) }})::numeric, 6
    )::double precision as {{ name }},
    {%- endfor %}
    shares.known_on as final_on,
    coalesce(newest_sale.order_date >= shares.known_on, false) as is_final
from shares
cross join newest_sale
