select
    null::text as stock_level_id,
    null::text as product_key,
    null::text as warehouse,
    null::date as stock_date,
    null::numeric as quantity,
    null::numeric as reserved,
    null::numeric as available,
    null::boolean as is_current,
    null::text as file_id,
    null::bigint as source_line
where false
