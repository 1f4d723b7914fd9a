{{ config(
    meta={
        'dagster': {'ref': {'name': 'quarantined_rows'}},
        'description':
            "Every refused row has at least one of the ten codes of spec.md §2.3 and no other: an estate can only " ~
            "mend what is explained to it."
    },
) }}

select
    file_id,
    source_line,
    codes
from {{ ref('quarantined_rows') }}
where
    coalesce(cardinality(codes), 0) = 0
    or not codes <@ {{ quarantine_codes() }}
