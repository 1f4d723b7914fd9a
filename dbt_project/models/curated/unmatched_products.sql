select
    null::text as raw_product_key,
    null::text as raw_product_label,
    null::text as raw_vintage,
    null::integer as sale_year,
    null::text as product_key,
    null::text as matched_by,
    null::numeric as score,
    null::text as suggestion,
    null::bigint as lines,
    null::numeric as amount_ht,
    null::date as last_sale_date
where false
