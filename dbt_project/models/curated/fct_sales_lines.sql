{#- Lines of credit documents come out negative whatever the export's habit; `is_positive` tells which were not. -#}
with lines as (

    select sales.*, versions.order_id, versions.line_id, versions.line_no as line_number, versions.has_conflict
    from {{ ref('sales_line_versions') }} as versions
    inner join {{ ref('stg_sales_lines') }} as sales on versions.row_id = sales.row_id
    where versions.is_current

),

treatments as (

    select {{ normalize_label('key') }} as document_type, value as treatment
    from jsonb_each_text({{ rule_json('documents.types') }})

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
        lines.line_id,
        lines.order_id,
        lines.client_code,
        lines.document_type,
        lines.document_no,
        lines.line_number,
        lines.is_document_inferred,
        lines.has_conflict,
        lines.sale_date,
        lines.delivery_date,
        lines.product_label,
        lines.quantity,
        lines.unit_price_ht,
        lines.amount_ht,
        lines.amount_ttc,
        lines.margin,

        lines.customer_id,
        profiles.is_inferred as is_customer_inferred,
        lines.product_key,
        lines.matched_by,
        lines.is_vintage_ambiguous,
        products.wine_id,
        products.kind,
        products.label,
        products.is_inferred as is_product_inferred,

        case
            when products.is_drink then coalesce(lines.bottle_coefficient, products.bottle_coefficient)
            else 0
        end as bottle_coefficient,

        coalesce(treatments.treatment, 'unmapped') as treatment,

        -- Family rates are of the countries whose rate is known; elsewhere the sale leaves without VAT.
        case
            when country_rates.rate is null then {{ rule_number('values.vat.other_countries') }}
            else coalesce(family_rates.rate, country_rates.rate)
        end as vat,

        lines.delivery_name is not null and (
            (
                profiles.name_words <> '{}'
                and not profiles.name_words <@ words.delivery_words
                and not words.delivery_words <@ profiles.name_words
            )
            or lines.delivery_postal_code <> profiles.postal_code
        ) as is_gift
    from lines
    inner join {{ ref('customer_profiles') }} as profiles on lines.customer_id = profiles.customer_id
    inner join {{ ref('product_profiles') }} as products on lines.product_key = products.product_key
    left join treatments on lines.document_type = treatments.document_type
    left join country_rates
        on coalesce(lines.delivery_country, lines.country, profiles.country) = country_rates.country
    left join family_rates on products.family = family_rates.family
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
    line_number as line_no,
    order_id,
    sale_date,
    delivery_date,
    greatest(sale_date, delivery_date) as revenue_date,
    product_key,
    wine_id,
    kind,
    coalesce(product_label, label) as product_label,
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
    matched_by,
    file_id,
    source_line
from priced
