{{ config(meta={'dagster': {'ref': {'name': 'fct_sales_lines'}}}) }}

select line_id
from {{ ref('fct_sales_lines') }}
where treatment = 'credit' and greatest(quantity, bottles, amount_ht, amount_ttc) > 0
