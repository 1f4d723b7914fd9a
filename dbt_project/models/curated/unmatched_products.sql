with doubtful as (

    select * from {{ source('curated', 'product_matches') }}
    where matched_by in ('fuzzy', 'inferred')

),

sold as (

    select
        doubtful.raw_product_key,
        doubtful.raw_product_label,
        doubtful.raw_vintage,
        doubtful.sale_year,
        count(*) as lines,
        sum(sales.amount_ht) as amount_ht,
        max(sales.sale_date) as last_sale_date
    from doubtful
    inner join {{ source('raw', 'sales_lines') }} as texts
        on
            doubtful.raw_product_key = coalesce(texts.product_key, '')
            and doubtful.raw_product_label = coalesce(texts.product_label, '')
            and doubtful.raw_vintage = coalesce(texts.vintage, '')
    inner join {{ ref('fct_sales_lines') }} as sales
        on
            texts.file_id = sales.file_id
            and texts.source_line = sales.source_line
            and doubtful.sale_year in (0, extract(year from sales.sale_date))
    group by
        doubtful.raw_product_key, doubtful.raw_product_label, doubtful.raw_vintage, doubtful.sale_year

)

select
    doubtful.raw_product_key,
    doubtful.raw_product_label,
    doubtful.raw_vintage,
    doubtful.sale_year,
    doubtful.product_key,
    doubtful.matched_by,
    doubtful.score::numeric as score,
    doubtful.suggestion,
    sold.lines,
    sold.amount_ht,
    sold.last_sale_date
from doubtful
inner join sold
    on
        doubtful.raw_product_key = sold.raw_product_key
        and doubtful.raw_product_label = sold.raw_product_label
        and doubtful.raw_vintage = sold.raw_vintage
        and doubtful.sale_year = sold.sale_year
