{{ config(
    severity='warn',
    meta={
        'dagster': {'ref': {'name': 'customer_preferences'}},
        'description':
            "Every share of a customer's taste, and of a product's popularity, lies in 0..1."
    },
) }}

select customer_id as key
from {{ ref('customer_preferences') }}
where
    diversity not between 0 and 1
    {%- for trait in ('family', 'grape', 'sweetness', 'price_band') %}
    or top_{{ trait }}_1_share not between 0 and 1
    or top_{{ trait }}_2_share not between 0 and top_{{ trait }}_1_share
    or top_{{ trait }}_1_share + top_{{ trait }}_2_share > 1.000001
    {%- endfor %}
union all
select wine_id
from {{ ref('product_popularity') }}
where share not between 0 and 1
