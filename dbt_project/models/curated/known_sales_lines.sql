{{ config(materialized='view') }}

-- The only place that decides what is future (spec.md §3, Dates).
select
    line_id,
    customer_id,
    client_code,
    document_type,
    document_no,
    line_no,
    order_id,
    sale_date,
    delivery_date,
    revenue_date,
    product_key,
    wine_id,
    kind,
    product_label,
    quantity,
    bottles,
    unit_price_ht,
    amount_ht,
    amount_ttc,
    margin,
    amount_derived,
    treatment,
    is_counted,
    is_negated,
    is_gift,
    is_document_inferred,
    is_vintage_ambiguous,
    is_product_inferred,
    is_customer_inferred,
    has_conflict,
    matched_by,
    file_id,
    source_line
from {{ ref('fct_sales_lines') }}
where is_counted and sale_date <= {{ as_of() }}
