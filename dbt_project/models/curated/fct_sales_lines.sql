{{ config(
    materialized='incremental',
    incremental_strategy='append',
    on_schema_change='fail',
    meta={'follows': 'sales_line_versions'},
    indexes=[{'columns': ['row_id'], 'unique': true}],
    pre_hook=["{{ draw_build_number() }}", "{{ forget_changed_lines() }}"],
    post_hook=["{{ settle_when_built_anew() }}", "{{ note_what_it_was_built_with() }}"],
) }}
{#- Lines of credit documents come out negative whatever the export's habit; `is_negated` tells which were not. -#}
with current_lines as (

    select versions.*
    from {{ ref('sales_line_versions') }} as versions
    where
        versions.is_current
        and {{ when_incremental('versions.row_id in (select row_id from changed_lines)') }}

),

treatments as (

    -- Fenced: else the join would normalise the type again for every line.
    select {{ normalize_label('key') }} as document_type, value as treatment
    from jsonb_each_text({{ rule_json('documents.types') }})
    limit all

),

country_rates as (

    select key as country, value::numeric as rate
    from jsonb_each_text({{ rule_json('values.vat.by_country') }})

),

family_rates as (

    select key as family, value::numeric as rate
    from jsonb_each_text({{ rule_json('values.vat.by_family') }})

),

joined as (

    select
        lines.row_id,
        lines.file_id,
        lines.source_line,
        current_lines.line_id,
        current_lines.order_id,
        current_lines.line_no,
        current_lines.has_conflict,
        current_lines.is_split,
        lines.client_code,
        lines.document_type,
        lines.document_no,
        lines.is_document_inferred,
        lines.sale_date,
        lines.delivery_date,
        lines.quantity,
        lines.unit_price_ht,
        lines.amount_ht,
        lines.amount_ttc,
        lines.margin,

        clients.customer_id,
        clients.is_inferred as is_customer_inferred,

        lines.text_id,
        texts.product_key,
        texts.matched_by,
        texts.is_vintage_ambiguous,
        texts.wine_id,
        texts.kind,
        texts.product_label,
        texts.is_inferred as is_product_inferred,
        texts.bottle_coefficient,

        coalesce(treatments.treatment, 'unmapped') as treatment,

        -- Family rates are of the countries whose rate is known; elsewhere the sale leaves without VAT.
        case
            when country_rates.rate is null then {{ rule_number('values.vat.other_countries') }}
            else coalesce(family_rates.rate, country_rates.rate)
        end as vat,

        lines.delivery_name is not null and (
            (
                clients.name_words <> '{}'
                and not clients.name_words <@ words.delivery_words
                and not words.delivery_words <@ clients.name_words
            )
            or lines.delivery_postal_code <> clients.postal_code
        ) as is_gift
    from current_lines
    inner join {{ ref('stg_sales_lines') }} as lines on current_lines.row_id = lines.row_id
    left join {{ ref('sale_clients') }} as clients on lines.client_code = clients.client_code
    left join {{ ref('product_texts') }} as texts
        on lines.text_id = texts.text_id and texts.sale_year in (0, extract(year from lines.sale_date))
    left join {{ ref('country_texts') }} as countries on lines.raw_country = countries.country_text
    left join
        {{ ref('country_texts') }} as delivery_countries
        on lines.raw_delivery_country = delivery_countries.country_text
    left join treatments on lines.document_type = treatments.document_type
    left join country_rates
        on coalesce(delivery_countries.country, countries.country, clients.country) = country_rates.country
    left join family_rates on texts.family = family_rates.family
    cross join lateral (
        select
            case
                when lines.delivery_name is not null
                    then string_to_array({{ normalize_label('lines.delivery_name') }}, ' ')
            end as delivery_words
    ) as words

),

priced as (

    select
        joined.*,
        coalesce(
            joined.amount_ht,
            trim_scale(round(joined.amount_ttc / (1 + joined.vat), 4)),
            joined.quantity * joined.unit_price_ht
        ) as net,
        coalesce(
            joined.amount_ttc,
            trim_scale(round(coalesce(joined.amount_ht, joined.quantity * joined.unit_price_ht) * (1 + joined.vat), 4))
        ) as gross
    from joined
    limit all

)

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
    greatest(sale_date, delivery_date) as revenue_date,
    product_key,
    wine_id,
    kind,
    product_label,
    case when treatment = 'credit' then -abs(quantity) else quantity end as quantity,
    case when treatment = 'credit' then -abs(quantity) else quantity end * bottle_coefficient as bottles,
    unit_price_ht,
    case when treatment = 'credit' then -abs(net) else net end as amount_ht,
    case when treatment = 'credit' then -abs(gross) else gross end as amount_ttc,
    case when treatment = 'credit' and net > 0 then -margin else margin end as margin,
    amount_ht is null as amount_derived,
    treatment,
    treatment in ('count', 'credit') as is_counted,
    treatment = 'credit' and (net > 0 or quantity > 0) as is_negated,
    coalesce(is_gift, false) as is_gift,
    is_document_inferred,
    is_vintage_ambiguous,
    is_product_inferred,
    is_customer_inferred,
    has_conflict,
    is_split,
    matched_by,
    file_id,
    source_line,
    row_id,
    text_id,
    {{ build_no() }} as build_no
from priced
