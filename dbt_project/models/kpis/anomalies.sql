select
    habits.kind,
    habits.subject_type,
    habits.subject_id,
    habits.population,
    habits.measure,
    habits.measured,
    habits.expected,
    habits.threshold,
    habits.change,
    case
        when habits.value_at_stake_ht >= ({{ rule_json('kpis.anomalies.high_value_ht') }} ->> habits.kind)::numeric
            then 'HIGH'
        else 'LOW'
    end as severity,
    habits.value_at_stake_ht,
    habits.since_date,
    habits.measured_until,
    {{ rule_text('rules_version') }} as rules_version
from {{ ref('habits') }} as habits
where habits.is_beyond
