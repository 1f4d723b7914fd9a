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
-- line shows: besides the money, lines are counted and their line numbers added up. Fenced with `limit all` so that
-- PostgreSQL parses each distinct text once and not wherever a number is named.
with treatments as (

    select {{ normalize_label('key') }} as document_type, value as treatment
    from jsonb_each_text({{ rule_json('documents.types') }})
    limit all

),

unused as (

    select (files.file_rank << 32) + refused.source_line as place
    from {{ ref('quarantined_rows') }} as refused
    inner join {{ ref('stg_files') }} as files on refused.file_id = files.file_id
    union all
    select (files.file_rank << 32) + lines.source_line as place
    from {{ ref('sales_line_versions') }} as versions
    inner join {{ ref('stg_sales_lines') }} as lines on versions.row_id = lines.row_id
    inner join {{ ref('stg_files') }} as files on lines.file_id = files.file_id
    where not versions.is_current

),

placed as (

    -- An accepted amount has a digit; whatever has none is blank.
    select
        raw_lines.file_id,
        raw_lines.source_line,
        (files.file_rank << 32) + raw_lines.source_line as place,
        raw_lines.document_type,
        raw_lines.amount_ht,
        case when raw_lines.amount_ht ~ '[0-9]' then null else coalesce(raw_lines.amount_ttc, '') end as amount_ttc,
        raw_lines.quantity,
        raw_lines.unit_price_ht
    from {{ source('raw', 'sales_lines') }} as raw_lines
    inner join {{ ref('stg_files') }} as files on raw_lines.file_id = files.file_id
    limit all

),

texts as (

    select
        placed.file_id,
        placed.document_type,
        placed.amount_ht,
        placed.amount_ttc,
        case when placed.amount_ttc !~ '[0-9]' then placed.quantity || '|' || placed.unit_price_ht end as priced,
        count(*) as n_lines,
        sum(placed.source_line)::bigint as line_numbers
    from placed
    left join unused on placed.place = unused.place
    where unused.place is null
    group by 1, 2, 3, 4, 5
    limit all

),

types as (

    select raw_types.raw_type, {{ normalize_label('raw_types.raw_type') }} as document_type
    from (select distinct document_type as raw_type from texts where document_type is not null) as raw_types
    limit all

),

cleaned as (

    select
        texts.file_id,
        texts.document_type,
        texts.n_lines,
        texts.line_numbers,
        files.decimal_separator,
        {{ number_text('texts.amount_ht') }} as amount_ht,
        {{ number_text('texts.amount_ttc') }} as amount_ttc,
        {{ number_text("split_part(texts.priced, '|', 1)") }} as quantity,
        {{ number_text("split_part(texts.priced, '|', 2)") }} as unit_price_ht
    from texts
    inner join {{ ref('stg_files') }} as files on texts.file_id = files.file_id
    limit all

),

amounts as (

    select
        cleaned.file_id,
        cleaned.n_lines,
        cleaned.line_numbers,
        coalesce(treatments.treatment, 'unmapped') = 'credit' as is_credit,
        {{ parse_number('cleaned.amount_ht', 'cleaned.decimal_separator') }} as amount_ht,
        {{ parse_number('cleaned.amount_ttc', 'cleaned.decimal_separator') }} as amount_ttc,
        {{ parse_number('cleaned.quantity', 'cleaned.decimal_separator') }} as quantity,
        {{ parse_number('cleaned.unit_price_ht', 'cleaned.decimal_separator') }} as unit_price_ht
    from cleaned
    left join types on cleaned.document_type = types.raw_type
    left join treatments on coalesce(types.document_type, '') = treatments.document_type
    limit all

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
