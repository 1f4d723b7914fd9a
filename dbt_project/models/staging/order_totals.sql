{{ config(
    materialized='incremental',
    incremental_strategy='append',
    meta={'follows': 'fct_sales_lines'},
    pre_hook=["{{ draw_build_number() }}", "{{ forget_changed_orders() }}"],
    post_hook=[
        "truncate {{ touched_orders() }}",
        "{{ settle_when_built_anew() }}",
        "{{ note_what_it_was_built_with() }}",
    ],
) }}
-- Sums only: what depends on the day, or on the customer's other documents, is decided in fct_orders.
select
    lines.order_id,
    min(lines.customer_id) as customer_id,
    min(lines.client_code) as client_code,
    min(lines.document_type) as document_type,
    min(lines.document_no) as document_no,
    min(lines.treatment) as treatment,
    min(lines.sale_date) as order_date,
    max(lines.delivery_date) as delivery_date,
    count(*) as lines,
    sum(lines.bottles) as bottles,
    sum(lines.amount_ht) as amount_ht,
    sum(lines.amount_ttc) as amount_ttc,
    sum(lines.margin) as margin,
    bool_or(lines.is_document_inferred) as is_document_inferred,
    bool_or(lines.is_split) as is_split,
    {{ build_no() }} as build_no
from {{ ref('fct_sales_lines') }} as lines
where {{ when_incremental("lines.row_id in (
    select versions.row_id
    from " ~ ref('sales_line_versions') ~ " as versions
    inner join changed_orders as changed on versions.order_id = changed.order_id
)") }}
group by lines.order_id
