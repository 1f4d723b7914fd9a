with catalogue as (

    select distinct on (product_key collate "C") *
    from {{ ref('stg_products') }}
    where codes is null
    order by product_key collate "C", position desc, file_rank desc

),

inferred as (

    select
        matches.product_key,
        coalesce(
            min({{ clean_text('matches.raw_product_label') }} collate "C"), matches.product_key
        ) as label,
        min(matches.raw_vintage collate "C") as raw_vintage
    from {{ source('curated', 'product_matches') }} as matches
    left join catalogue on matches.product_key = catalogue.product_key
    where catalogue.product_key is null
    group by matches.product_key

),

members as (

    select
        coalesce(catalogue.product_key, inferred.product_key) as product_key,
        coalesce(catalogue.label, inferred.label) as label,
        coalesce(catalogue.normalized_label, {{ normalize_label('inferred.label') }}) as normalized_label,
        coalesce(catalogue.vintage, substring(inferred.raw_vintage from '(?:19|20)[0-9]{2}')::int) as vintage,
        {% for field in ['article', 'family', 'sub_family', 'macro_category', 'colour', 'kind', 'grape', 'sweetness',
                         'price_ttc', 'cost', 'margin', 'price_band', 'premium_tier', 'aroma_fruit', 'aroma_floral',
                         'aroma_spice', 'aroma_mineral', 'aroma_acidity', 'aroma_body', 'aroma_tannin', 'season_tags',
                         'allocation', 'sold_by', 'url', 'image_url', 'description', 'awards'] -%}
        catalogue.{{ field }},
        {% endfor -%}
        inferred.product_key is null and coalesce(catalogue.is_active, true) as is_active,
        coalesce(catalogue.is_archived, false) as is_archived,
        inferred.product_key is not null as is_inferred
    from catalogue
    full outer join inferred on catalogue.product_key = inferred.product_key

),

read as (

    select
        members.*,
        coalesce(
            members.vintage,
            case
                when
                    substring(members.normalized_label from '.*\m((?:19|20)[0-9]{2})\M')::int
                    between 1950 and extract(year from {{ as_of() }}) + 1
                    then substring(members.normalized_label from '.*\m((?:19|20)[0-9]{2})\M')::int
            end
        ) as vintage_year,
        coalesce({{ bottle_coefficient('members.article') }}, {{ bottle_coefficient('members.label') }}) as coefficient,
        coalesce({{ centilitres('members.article') }}, {{ centilitres('members.label') }}) as centilitres,
        {{ normalize_label('members.kind') }} as kind_label
    from members
    limit all

),

classified as (

    select
        read.*,
        coalesce(
            case
                when lower(replace(read.kind_label, ' ', '_')) in (
                    'wine', 'gift_box', 'other_drink', 'tasting', 'glassware', 'shipping', 'deposit', 'discount',
                    'voucher', 'sample'
                ) then lower(replace(read.kind_label, ' ', '_'))
                when read.kind_label ~ '^VINS?\M' then 'wine'
                when read.kind_label <> '' then {{ first_pattern('read.kind_label', 'products.kinds', 'kind') }}
            end,
            {{ first_pattern('read.normalized_label', 'products.kinds', 'kind') }},
            'wine'
        ) as product_kind,
        -- The wine: its label without its own vintage (CUVEE 1900 of 2020 keeps its name) and formats.
        btrim(regexp_replace(
            regexp_replace(
                regexp_replace(
                    read.normalized_label,
                    '\m' || coalesce(read.vintage_year::text, '(?!)') || '\M', ' ', 'g'
                ),
                '\m(?:(?:37 5|1 50?|0 75|0 50?|0 375|[0-9]+) ?(?:CL|ML|L|LITRES?)'
                || '|(?:CAISSE|CARTON)S?(?: BOIS)?(?: DE)?(?: ?[0-9]+)?'
                || '|MAGNUMS?|JEROBOAMS?|DEMI(?! SEC\M)(?: BOUTEILLES?)?|BOUTEILLES?|BTLE?S?|BIB|MILLESIME)\M',
                ' ', 'g'
            ),
            ' +', ' ', 'g'
        )) as wine_label
    from read
    limit all

)

select
    product_key,
    lower(replace(coalesce(nullif(wine_label, ''), product_key), ' ', '-')) as wine_id,
    product_kind as kind,
    label,
    vintage_year as vintage,
    case
        when product_kind in ('wine', 'gift_box', 'other_drink', 'sample')
            then round(coalesce(coefficient * 75, centilitres, 75), 2)
    end as format_cl,
    coalesce(coefficient, 1) as bottle_coefficient,
    product_kind in ('wine', 'gift_box', 'other_drink', 'sample') as is_drink,
    family,
    sub_family,
    macro_category,
    colour,
    grape,
    sweetness,
    price_ttc,
    cost,
    margin,
    price_band,
    coalesce(premium_tier, 0) as premium_tier,
    aroma_fruit,
    aroma_floral,
    aroma_spice,
    aroma_mineral,
    aroma_acidity,
    aroma_body,
    aroma_tannin,
    season_tags,
    allocation,
    sold_by,
    url,
    image_url,
    description,
    awards,
    is_active,
    is_archived,
    is_inferred
from classified
