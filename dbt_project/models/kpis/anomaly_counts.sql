with examined as (
    select
        kind,
        count(*) as examined
    from {{ ref('habits') }}
    group by kind
),

found as (
    select
        kind,
        count(*) as found,
        count(*) filter (where severity = 'HIGH') as high,
        case when kind = 'VOLUME_OFF' then max(value_at_stake_ht) else sum(value_at_stake_ht) end as value_at_stake_ht
    from {{ ref('anomalies') }}
    group by kind
),

shares as (
    select
        kinds.key as kind,
        coalesce(examined.examined, 0) as examined,
        coalesce(found.found, 0) as found,
        coalesce(found.high, 0) as high,
        coalesce(found.found::double precision / examined.examined, 0) as share,
        kinds.value::double precision as max_share,
        coalesce(found.value_at_stake_ht, 0) as value_at_stake_ht
    from jsonb_each_text({{ rule_json('kpis.anomalies.max_shares') }}) as kinds
    left join examined on examined.kind = kinds.key
    left join found on found.kind = kinds.key
)

select
    kind,
    examined,
    found,
    high,
    share,
    max_share,
    share > max_share as is_over,
    value_at_stake_ht,
    {{ rule_text('rules_version') }} as rules_version
from shares
