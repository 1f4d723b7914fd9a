{{ config(
    meta={
        'dagster': {'ref': {'name': 'known_sales_lines'}},
        'description':
            "What states, audiences and measures are computed from are counted lines up to the as-of date: a line dated " ~
            "later counts nowhere until its day (spec.md §3)."
    },
) }}

select line_id
from {{ ref('known_sales_lines') }}
where treatment not in ('count', 'credit') or sale_date > {{ as_of() }}
