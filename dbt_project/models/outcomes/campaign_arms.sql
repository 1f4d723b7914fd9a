{#- Arms are drawn by address, so that what differs between them is what they say. Shares are of the addresses drawn for
    the arm and sent to: whether a message is delivered may be the subject's doing too. -#}
{%- set measures = ['opened', 'clicked', 'converted', 'ordered', 'unsubscribed'] -%}

with arms as (
    {%- for measure in measures %}
    select
        campaign,
        occurrence,
        value as arm,
        sent,
        '{{ measure }}' as measure,
        {{ measure }} as n,
        {{ measure }}::double precision / sent as share,
        is_final,
        final_on
    from {{ ref('campaign_results') }}
    where dimension = 'arm' and sent > 0
    {%- if not loop.last %}
    union all
    {%- endif %}
    {%- endfor %}
),

pairs as (
    select
        first.campaign,
        first.occurrence,
        first.measure,
        first.arm,
        second.arm as other_arm,
        first.sent,
        first.n,
        first.share,
        second.sent as other_sent,
        second.n as other_n,
        second.share as other_share,
        first.is_final and second.is_final as is_final,
        greatest(first.final_on, second.final_on) as final_on,
        count(*) over (partition by first.campaign, first.occurrence, first.measure) as n_pairs
    from arms as first
    inner join arms as second
        on
            second.campaign = first.campaign
            and second.occurrence = first.occurrence
            and second.measure = first.measure
            and second.arm > first.arm
),

-- Of several pairs one may differ by chance: each has its share of the 5 % (Bonferroni); 2 to 4 arms are 1, 3 or 6.
judged as (
    select
        *,
        case n_pairs when 1 then 1.959963984540054 when 3 then 2.393979800 else 2.638257273 end as z
    from pairs
),

bounded as (
    select
        *,
        {%- for end, sign in [('low', '-'), ('high', '+')] %}
        round(
            ({{ newcombe('share', 'sent', 'other_share', 'other_sent', sign, 'z') }})::numeric, 6
        )::double precision as difference_{{ end }},
        {%- endfor %}
        round((share - other_share)::numeric, 6)::double precision as difference
    from judged
)

select
    campaign,
    occurrence,
    measure,
    arm,
    other_arm,
    sent,
    n,
    share,
    other_sent,
    other_n,
    other_share,
    difference,
    difference_low,
    difference_high,
    case
        when difference_low > 0 then arm
        when difference_high < 0 then other_arm
    end as more,
    final_on,
    is_final
from bounded
