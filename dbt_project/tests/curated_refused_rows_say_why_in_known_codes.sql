{{ config(meta={'dagster': {'ref': {'name': 'quarantined_rows'}}}) }}

select
    file_id,
    source_line,
    codes
from {{ ref('quarantined_rows') }}
where
    coalesce(cardinality(codes), 0) = 0
    or not codes <@ {{ quarantine_codes() }}
