-- Names of columns, never of people: landing keeps no header of a file in which it found no header row.
with newest as (

    select compared.dataset, files.mapping, files.unmapped_headers
    from {{ ref('newest_files') }} as compared
    inner join {{ source('raw', 'files') }} as files
        on compared.file_id = files.file_id and compared.path = files.path
    where compared.previous_file_id is not null

),

previous as (

    select compared.dataset, files.mapping, files.unmapped_headers
    from {{ ref('newest_files') }} as compared
    inner join {{ source('raw', 'files') }} as files
        on compared.previous_file_id = files.file_id and compared.previous_path = files.path

),

{% for side in ['newest', 'previous'] -%}
{{ side }}_columns as (

    select {{ side }}.dataset, 'field' as kind, field.value as name, field.key as header
    from {{ side }}
    cross join lateral jsonb_each_text({{ side }}.mapping) as field
    union
    select {{ side }}.dataset, 'unmapped header' as kind, header.name, header.name as header
    from {{ side }}
    cross join lateral unnest({{ side }}.unmapped_headers) as header (name)

){{ ',' if not loop.last else '' }}

{% endfor %}
select
    coalesce(newest.dataset, previous.dataset) as dataset,
    coalesce(newest.kind, previous.kind) as kind,
    coalesce(newest.name, previous.name) as name,
    previous.header as previous_header,
    newest.header as newest_header,
    case
        when newest.name is null then 'gone'
        when previous.name is null then 'new'
        when {{ normalize_label('newest.header') }} <> {{ normalize_label('previous.header') }} then 'renamed'
        else 'kept'
    end as change
from newest_columns as newest
full outer join previous_columns as previous
    on newest.dataset = previous.dataset and newest.kind = previous.kind and newest.name = previous.name
