with current_rows as (

    select file_id from {{ ref('stock_levels') }}
    union all
    select file_id from {{ ref('contact_events') }}
    union all
    (
        select distinct on (client_code collate "C") file_id
        from {{ ref('stg_customers') }}
        where codes is null
        order by client_code collate "C", position desc, file_rank desc
    )
    union all
    (
        select distinct on (product_key collate "C") file_id
        from {{ ref('stg_products') }}
        where codes is null
        order by product_key collate "C", position desc, file_rank desc
    )
    union all
    (
        select distinct on (label collate "C") file_id
        from {{ ref('stg_aliases') }}
        where codes is null
        order by label collate "C", position desc, file_rank desc
    )

),

curated as (

    select file_id, count(*) as rows from current_rows group by file_id
    union all
    select files.file_id, lines.rows
    from (
        select row_id >> 32 as file_no, count(*) as rows
        from {{ ref('fct_sales_lines') }}
        group by row_id >> 32
    ) as lines
    inner join {{ ref('stg_files') }} as files on lines.file_no = files.file_no

),

quarantined as (

    select file_id, count(*) as rows from {{ ref('quarantined_rows') }} group by file_id

),

accepted as (

    {% for model in ['stg_customers', 'stg_products', 'stg_stock', 'stg_contacts', 'stg_aliases'] -%}
    select file_id, count(*) as rows from {{ ref(model) }} where codes is null group by file_id
    {{ 'union all' if not loop.last }}
    {% endfor %}
),

superseded_sales as (

    select files.file_id, sum(versions.rows)::bigint as rows
    from (
        select row_id >> 32 as file_no, count(*) as rows
        from {{ ref('sales_line_versions') }}
        where not is_current
        group by row_id >> 32
    ) as versions
    inner join {{ ref('stg_files') }} as files on versions.file_no = files.file_no
    group by files.file_id

)

select
    files.file_id,
    files.path,
    files.dataset,
    files.row_count as rows,
    coalesce(curated.rows, 0) as curated,
    -- Of sales lines counted by itself; of the others, what was accepted and is not the current version.
    coalesce(superseded_sales.rows, accepted.rows - coalesce(curated.rows, 0), 0) as superseded,
    coalesce(quarantined.rows, 0) as quarantined
from {{ ref('stg_files') }} as files
left join curated on files.file_id = curated.file_id
left join quarantined on files.file_id = quarantined.file_id
left join accepted on files.file_id = accepted.file_id
left join superseded_sales on files.file_id = superseded_sales.file_id
