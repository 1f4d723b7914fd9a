with versions as (

    select distinct on (product_key collate "C", warehouse collate "C", stock_date) *
    from {{ ref('stg_stock') }}
    where codes is null
    order by product_key collate "C", warehouse collate "C", stock_date, position desc, file_rank desc

),

dated as (

    select
        versions.*,
        versions.stock_date > {{ as_of() }} as is_future,
        max(versions.stock_date) filter (where versions.stock_date <= {{ as_of() }}) over (
            partition by versions.product_key
        ) as newest_date
    from versions

)

select
    md5(concat_ws('|', product_key, warehouse, stock_date)) as stock_level_id,
    product_key,
    warehouse,
    stock_date,
    quantity,
    reserved,
    quantity - reserved as available,
    not is_future as is_current,
    file_id,
    source_line
from dated
where is_future or stock_date = newest_date
