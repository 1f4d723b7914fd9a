{{ config(
    meta={
        'dagster': {'ref': {'name': 'fct_sales_lines'}},
        'description':
            "Revenue of the facts = revenue of the accepted rows, parsed once more from the text of each file, by " ~
            "the column the money comes from (net amount, amount with VAT, quantity × price), credits negative. " ~
            "Lines and their line numbers must agree too: a lost, doubled, exchanged or wrongly signed line is a " ~
            "fault of ours."
    },
) }}

-- The other way from the files to the facts, past staging: what the accepted rows of each file say as text, by the
-- column their money comes from, must be what the facts hold of that file. A lost, doubled, exchanged or wrongly signed
-- line shows: besides the money, lines are counted and their line numbers added up.
with treatments as (

    -- Fenced: else the join would normalise the type again for every text.
    select {{ normalize_label('key') }} as document_type, value as treatment
    from jsonb_each_text({{ rule_json('documents.types') }})
    limit all

),

unused as (

    select file_id, source_line
    from {{ ref('quarantined_rows') }}
    union all
    select lines.file_id, lines.source_line
    from {{ ref('sales_line_versions') }} as versions
    inner join {{ ref('stg_sales_lines') }} as lines on versions.row_id = lines.row_id
    where not versions.is_current

),

texts as (

    -- Each distinct text is parsed once.
    select
        raw_lines.file_id,
        raw_lines.document_type,
        raw_lines.amount_ht,
        -- An accepted amount has a digit; whatever has none is blank.
        case when raw_lines.amount_ht ~ '[0-9]' then null else raw_lines.amount_ttc end as amount_ttc,
        case
            when raw_lines.amount_ht ~ '[0-9]' or raw_lines.amount_ttc ~ '[0-9]' then null
            else raw_lines.quantity
        end as quantity,
        case
            when raw_lines.amount_ht ~ '[0-9]' or raw_lines.amount_ttc ~ '[0-9]' then null
            else raw_lines.unit_price_ht
        end as unit_price_ht,
        count(*) as n_lines,
        sum(raw_lines.source_line) as line_numbers
    from {{ source('raw', 'sales_lines') }} as raw_lines
    left join unused on raw_lines.file_id = unused.file_id and raw_lines.source_line = unused.source_line
    where unused.file_id is null
    group by 1, 2, 3, 4, 5, 6

),

amounts as (

    select
        texts.file_id,
        texts.n_lines,
        texts.line_numbers,
        coalesce(treatments.treatment, 'unmapped') = 'credit' as is_credit,
        {{ parse_number(number_text('texts.amount_ht'), 'files.decimal_separator') }} as amount_ht,
        {{ parse_number(number_text('texts.amount_ttc'), 'files.decimal_separator') }} as amount_ttc,
        {{ parse_number(number_text('texts.quantity'), 'files.decimal_separator') }} as quantity,
        {{ parse_number(number_text('texts.unit_price_ht'), 'files.decimal_separator') }} as unit_price_ht
    from texts
    inner join {{ ref('stg_files') }} as files on texts.file_id = files.file_id
    left join treatments
        on coalesce({{ normalize_label('texts.document_type') }}, '') = treatments.document_type

),

expected as (

    select
        file_id,
        case
            when amount_ht is not null then 'amount_ht'
            when amount_ttc is not null then 'amount_ttc'
            else 'unit_price_ht'
        end as money_from,
        sum(n_lines) as n_lines,
        sum(line_numbers) as line_numbers,
        sum(
            n_lines * case
                when is_credit then -abs(coalesce(amount_ht, amount_ttc, quantity * unit_price_ht))
                else coalesce(amount_ht, amount_ttc, quantity * unit_price_ht)
            end
        ) as money
    from amounts
    group by 1, 2

),

found as (

    select
        file_id,
        'amount_ht' as money_from,
        count(*) as n_lines,
        sum(source_line) as line_numbers,
        sum(amount_ht) as money
    from {{ ref('fct_sales_lines') }}
    where not amount_derived
    group by 1

    union all

    select
        derived.file_id,
        case when raw_lines.amount_ttc ~ '[0-9]' then 'amount_ttc' else 'unit_price_ht' end as money_from,
        count(*) as n_lines,
        sum(derived.source_line) as line_numbers,
        sum(case when raw_lines.amount_ttc ~ '[0-9]' then derived.amount_ttc else derived.amount_ht end) as money
    from {{ ref('fct_sales_lines') }} as derived
    inner join {{ source('raw', 'sales_lines') }} as raw_lines
        on derived.file_id = raw_lines.file_id and derived.source_line = raw_lines.source_line
    where derived.amount_derived
    group by 1, 2

)

select
    file_id,
    money_from,
    expected.n_lines as expected_lines,
    found.n_lines,
    expected.money as expected_money,
    found.money
from expected
full outer join found using (file_id, money_from)
where
    expected.n_lines is distinct from found.n_lines
    or expected.line_numbers is distinct from found.line_numbers
    or expected.money is distinct from found.money
