{{ config(
    meta={
        'dagster': {'ref': {'name': 'fct_sales_lines'}},
        'description':
            "Lines of a credit document take money and bottles back, whatever sign the export gave them (spec.md " ~
            "§3): none of quantity, bottles and amounts is above zero."
    },
) }}

select line_id
from {{ ref('fct_sales_lines') }}
where treatment = 'credit' and greatest(quantity, bottles, amount_ht, amount_ttc) > 0
