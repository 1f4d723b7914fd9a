{{ config(
    meta={
        'dagster': {'ref': {'name': 'fct_sales_lines'}},
        'description':
            "No current or refused row comes from a file that is not loaded: it would be a rest of a landing that " ~
            "was undone."
    },
) }}

with held as (

    {% for model in ['fct_sales_lines', 'stock_levels', 'contact_events', 'quarantined_rows'] -%}
    select '{{ model }}' as held_by, file_id from {{ ref(model) }}
    group by file_id
    {{ 'union all' if not loop.last }}
    {% endfor %}
)

select
    held.held_by,
    held.file_id
from held
left join {{ source('raw', 'files') }} as files on held.file_id = files.file_id and files.status = 'loaded'
where files.file_id is null
