-- Read once per distinct pair of texts: a million lines sell a few hundred articles.
with articles as (

    select distinct article, product_label
    from {{ source('staging', 'product_texts_met') }}

)

select
    article,
    product_label,
    coalesce({{ bottle_coefficient('article') }}, {{ bottle_coefficient('product_label') }}) as coefficient
from articles
