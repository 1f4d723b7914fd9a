with profiles as (

    select * from {{ ref('product_profiles') }}

),

sold as (

    -- What a 75 cl bottle was sold for, VAT included.
    select
        product_key,
        percentile_cont(0.5) within group (order by (amount_ttc / bottles)::double precision)::numeric as price_75cl_ttc
    from {{ ref('known_sales_lines') }}
    where
        bottles > 0
        and amount_ttc > 0
        and {{ as_of() }} - sale_date < {{ rule_number('products.missing_price_days') }}
    group by product_key

),

stock as (

    select product_key, stock_date, greatest(sum(available), 0) as available
    from {{ ref('stock_levels') }}
    where is_current
    group by product_key, stock_date

),

snapshots as (

    -- Newest day of a stock file that covers enough of the active catalogue for absence to mean none left.
    select max(covering.stock_date) as stock_date
    from (
        select max(stock.stock_date) as stock_date
        from {{ ref('stg_stock') }} as stock
        inner join profiles on stock.product_key = profiles.product_key
        where
            stock.codes is null
            and stock.stock_date <= {{ as_of() }}
            and profiles.is_active and not profiles.is_archived and not profiles.is_inferred
        group by stock.file_id
        having
            count(distinct stock.product_key) >= {{ rule_number('products.stock_coverage_min') }} * (
                select count(*) from profiles as active
                where active.is_active and not active.is_archived and not active.is_inferred
            )
    ) as covering

),

completed as (

    select
        profiles.*,
        coalesce(profiles.price_ttc, round(sold.price_75cl_ttc * profiles.format_cl / 75, 2)) as price,
        profiles.price_ttc is null and sold.price_75cl_ttc is not null as is_price_estimated,
        coalesce(stock.stock_date < snapshots.stock_date, stock.stock_date is null) as is_absent,
        case
            when coalesce(stock.stock_date < snapshots.stock_date, stock.stock_date is null) then snapshots.stock_date
            else stock.stock_date
        end as stock_date,
        stock.available
    from profiles
    cross join snapshots
    left join sold on profiles.product_key = sold.product_key
    left join stock on profiles.product_key = stock.product_key

),

measured as (

    select
        completed.*,
        case when completed.price > 0 then round(completed.price * 75 / completed.format_cl, 4) end as price_75cl_ttc,
        case
            when completed.stock_date is null then 'unknown'
            when {{ as_of() }} - completed.stock_date > {{ rule_number('products.stock_max_age_days') }} then 'unknown'
            when completed.is_absent or completed.available <= 0 then 'out'
            else 'in'
        end as stock_status
    from completed

)

select
    measured.product_key,
    measured.wine_id,
    measured.kind,
    measured.label,
    measured.vintage,
    measured.format_cl,
    measured.family,
    measured.sub_family,
    measured.macro_category,
    measured.colour,
    measured.grape,
    measured.sweetness,
    measured.price as price_ttc,
    measured.is_price_estimated,
    measured.price_75cl_ttc,
    measured.cost,
    coalesce(
        measured.margin,
        round(measured.price_ttc / (1 + coalesce(
            ({{ rule_json('values.vat.by_family') }} ->> measured.family)::numeric,
            {{ rule_number('values.vat.default') }}
        )) - measured.cost, 4)
    ) as margin,
    measured.price_band,
    case
        when measured.price_75cl_ttc is null then null
        when measured.price_75cl_ttc < {{ rule_number('products.price_segments.standard') }} then 'entry'
        when measured.price_75cl_ttc < {{ rule_number('products.price_segments.premium') }} then 'standard'
        when measured.price_75cl_ttc < {{ rule_number('products.price_segments.luxury') }} then 'premium'
        else 'luxury'
    end as price_segment,
    measured.premium_tier,
    measured.aroma_fruit,
    measured.aroma_floral,
    measured.aroma_spice,
    measured.aroma_mineral,
    measured.aroma_acidity,
    measured.aroma_body,
    measured.aroma_tannin,
    measured.season_tags,
    measured.stock_status,
    case measured.stock_status when 'in' then measured.available when 'out' then 0 end as available,
    measured.stock_date,
    measured.is_active,
    measured.is_archived,
    measured.is_inferred,
    measured.is_active
    and not measured.is_archived
    and not measured.is_inferred
    and coalesce(measured.price > 0, false)
    and {{ rule_json('products.recommendable_kinds') }} ? measured.kind as is_recommendable,
    measured.allocation,
    measured.sold_by,
    measured.url,
    measured.image_url,
    measured.description,
    measured.awards
from measured
