{{ config(pre_hook="{{ draw_build_number() }}", post_hook="{{ note_what_it_was_built_with() }}") }}
with texts as (

    select distinct
        {{ text_id() }} as text_id,
        product_key as raw_product_key,
        product_label as raw_product_label,
        vintage as raw_vintage,
        article as raw_article
    from {{ source('staging', 'product_texts_met') }}

),

resolved as (

    select
        texts.text_id,
        matches.sale_year,
        matches.product_key,
        matches.matched_by,
        matches.vintage_ambiguous as is_vintage_ambiguous,
        products.wine_id,
        products.kind,
        products.family,
        products.is_inferred,
        coalesce({{ clean_text('texts.raw_product_label') }}, products.label) as product_label,
        case
            when products.is_drink then coalesce(formats.coefficient, products.bottle_coefficient)
            else 0
        end as bottle_coefficient
    from texts
    inner join {{ source('curated', 'product_matches') }} as matches
        on
            texts.raw_product_key = matches.raw_product_key
            and texts.raw_product_label = matches.raw_product_label
            and texts.raw_vintage = matches.raw_vintage
    inner join {{ ref('product_profiles') }} as products on matches.product_key = products.product_key
    left join {{ ref('article_formats') }} as formats
        on texts.raw_article = formats.article and texts.raw_product_label = formats.product_label

),

hashed as (

    -- Changes with anything that a sales line takes from here.
    select
        resolved.*,
        hash_record_extended(resolved, 0) as product_version
    from resolved

)

{{ rows_with_build_of_change('hashed', ['text_id', 'sale_year'], 'product_version') }}
