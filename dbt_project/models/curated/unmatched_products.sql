with doubtful as (

    select * from {{ source('curated', 'product_matches') }}
    where matched_by in ('fuzzy', 'inferred')

),

texts as (

    select distinct
        doubtful.raw_product_key,
        doubtful.raw_product_label,
        doubtful.raw_vintage,
        doubtful.sale_year,
        {{ text_id('met.') }} as text_id
    from doubtful
    inner join {{ source('staging', 'product_texts_met') }} as met
        on
            doubtful.raw_product_key = met.product_key
            and doubtful.raw_product_label = met.product_label
            and doubtful.raw_vintage = met.vintage

),

sold as (

    select
        texts.raw_product_key,
        texts.raw_product_label,
        texts.raw_vintage,
        texts.sale_year,
        count(*) as lines,
        sum(sales.amount_ht) as amount_ht,
        max(sales.sale_date) as last_sale_date
    from texts
    inner join {{ ref('fct_sales_lines') }} as sales
        on texts.text_id = sales.text_id and texts.sale_year in (0, extract(year from sales.sale_date))
    group by
        texts.raw_product_key, texts.raw_product_label, texts.raw_vintage, texts.sale_year

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
