{%- set numbers = ['price_ttc', 'cost', 'margin', 'aroma_fruit', 'aroma_floral', 'aroma_spice', 'aroma_mineral',
                   'aroma_acidity', 'aroma_body', 'aroma_tannin', 'sold_by'] -%}
with source as (

    select
        products.*,
        files.file_rank,
        files.decimal_separator,
        {{ row_position('products', 'files') }} as position
    from {{ source('raw', 'products') }} as products
    inner join {{ ref('stg_files') }} as files on products.file_id = files.file_id
    left join {{ mended_file('products', 'files') }}

),

cleaned as (

    select
        file_id,
        file_rank,
        source_line,
        position,
        decimal_separator,
        problems,
        {% for field in ['label', 'article', 'vintage', 'family', 'sub_family', 'macro_category', 'colour', 'kind',
                         'grape', 'sweetness', 'price_band', 'premium_tier', 'season_tags', 'is_active', 'is_archived',
                         'allocation', 'url', 'image_url', 'description', 'awards'] -%}
        {{ clean_text(field) }} as {{ field }},
        {% endfor -%}
        {% for field in numbers -%}
        {{ number_text(field) }} as {{ field }},
        {% endfor -%}
        -- A product without a key goes by its label: what Catalogue of logic/curated.py calls it too.
        coalesce(
            {{ client_code('product_key') }}, nullif({{ normalize_label("concat_ws(' ', label, vintage)") }}, '')
        ) as product_key
    from source
    limit all

),

typed as (

    select
        cleaned.*,
        coalesce({{ normalize_label('cleaned.label') }}, '') as normalized_label,
        {% for field in numbers -%}
        {{ parse_number('cleaned.' ~ field, 'cleaned.decimal_separator') }} as {{ field }}_number,
        {% endfor -%}
        case upper(cleaned.premium_tier)
            when 'STANDARD' then 0
            when 'PREMIUM' then 1
            when 'PRESTIGE' then 2
            when 'ICON' then 3
            else case
                when cleaned.premium_tier ~ '^[0-3]([.,]0)?$' then left(cleaned.premium_tier, 1)::int
                else ({{ parse_bool('cleaned.premium_tier') }})::int
            end
        end as tier
    from cleaned
    limit all

),

renamed as (

    select
        typed.file_id,
        typed.file_rank,
        typed.source_line,
        typed.position,

        typed.product_key,
        typed.label,
        typed.normalized_label,
        typed.article,
        substring(typed.vintage from '(?:19|20)[0-9]{2}')::int as vintage,
        typed.family,
        typed.sub_family,
        typed.macro_category,
        typed.colour,
        typed.kind,
        typed.grape,
        typed.sweetness,
        typed.price_band,
        case when {{ parse_bool('typed.allocation') }} is not false then typed.allocation end as allocation,
        typed.url,
        typed.image_url,
        typed.description,
        typed.awards,
        {% for field in ['price_ttc', 'cost', 'margin'] -%}
        typed.{{ field }}_number as {{ field }},
        {% endfor -%}
        -- Outside its set a value says nothing (spec.md §2.1); landing has reported it.
        {% for field in numbers if field.startswith('aroma_') -%}
        case when typed.{{ field }}_number between 1 and 5 then typed.{{ field }}_number end as {{ field }},
        {% endfor -%}
        case when typed.sold_by_number in (1, 3, 6, 12) then typed.sold_by_number::int end as sold_by,
        typed.tier as premium_tier,
        regexp_split_to_array(
            nullif(btrim(lower({{ normalize_label('typed.season_tags') }})), ''), '\s+'
        ) as season_tags,
        {{ parse_bool('typed.is_active') }} as is_active,
        {{ parse_bool('typed.is_archived') }} as is_archived,

        case
            when typed.problems <> '{}' then typed.problems
            when
                typed.normalized_label = ''
                or {{ is_invalid_code('typed.product_key') }}
                or {{ is_invalid_code('upper(typed.label)') }}
                or (typed.tier is null and typed.premium_tier is not null)
                {% for field in numbers -%}
                or (typed.{{ field }}_number is null and typed.{{ field }} is not null)
                {% endfor -%}
                then array_remove(array[
                    case
                        when typed.normalized_label = '' or {{ is_invalid_code('upper(typed.label)') }}
                            then 'MISSING_PRODUCT'
                    end,
                    case
                        when
                            (typed.tier is null and typed.premium_tier is not null)
                            {% for field in numbers -%}
                            or (typed.{{ field }}_number is null and typed.{{ field }} is not null)
                            {% endfor -%}
                            then 'INVALID_NUMBER'
                    end,
                    case when {{ is_invalid_code('typed.product_key') }} then 'INVALID_KEY' end
                ], null)
        end as codes
    from typed

)

select * from renamed
