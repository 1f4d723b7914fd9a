{{ config(pre_hook="{{ draw_build_number() }}", post_hook="{{ note_what_it_was_built_with() }}") }}
with members as (

    select
        codes.client_code,
        codes.customer_id,
        profiles.name_words,
        profiles.postal_code,
        profiles.country,
        profiles.is_inferred
    from {{ source('curated', 'customer_xref') }} as codes
    inner join {{ ref('customer_profiles') }} as profiles on codes.customer_id = profiles.customer_id

),

hashed as (

    -- Changes with anything that a sales line takes from here.
    select
        members.*,
        hash_record_extended(members, 0) as client_version
    from members

)

{{ rows_with_build_of_change('hashed', ['client_code'], 'client_version') }}
