-- Read once per distinct pair of texts: a million lines sell a few hundred articles.
with articles as (

    select distinct coalesce(article, '') as article, coalesce(product_label, '') as product_label
    from {{ source('raw', 'sales_lines') }}

)

select
    article,
    product_label,
    coalesce({{ bottle_coefficient('article') }}, {{ bottle_coefficient('product_label') }}) as coefficient
from articles
