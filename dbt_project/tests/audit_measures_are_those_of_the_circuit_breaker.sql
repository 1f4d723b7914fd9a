{{ config(
    meta={
        'dagster': {'ref': {'name': 'quality_measures'}},
        'description':
            "The circuit breaker has a measure for each check that the rules name, and no other (spec.md §6): a " ~
            "check without a measure would score 100 in silence."
    },
) }}

select
    coalesce(measures.check_code, rules.check_code) as check_code
from {{ ref('quality_measures') }} as measures
full join jsonb_object_keys({{ rule_json('circuit_breaker.tolerances') }}) as rules (check_code)
    on rules.check_code = measures.check_code
where measures.check_code is null or rules.check_code is null or measures.bad < 0 or measures.total < 0
