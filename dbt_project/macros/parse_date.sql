{#- A calendar day as people write it (spec.md §2.2): ISO, YYYY/MM/DD, YYYY.MM.DD, DD/MM/YYYY, DD-MM-YYYY, DD.MM.YYYY,
    two-digit years, optional time, and Excel serials where the file is a spreadsheet. Null when it is none: no value
    raises an error, 30 February is refused. `date_order` is the file's, 'dmy' or 'mdy'. The first two branches are the
    common cases, days that every month has. -#}
{% macro parse_date(text, date_order, is_spreadsheet='false') -%}
    {%- set time = '(?:[T ]+[0-9]{1,2}[:hH.][0-9]{2}(?:[:.][0-9]{2}(?:[.,][0-9]+)?)?(?: ?[AaPp][Mm])?(?: ?Z| ?[+-][0-9]{2}:?[0-9]{2})?)?' -%}
    case
        when {{ text }} is null then null
        when {{ text }} ~ '^(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])$'
            then make_date(substr({{ text }}, 1, 4)::int, substr({{ text }}, 6, 2)::int, substr({{ text }}, 9, 2)::int)
        when {{ text }} ~ '^(0[1-9]|1[0-9]|2[0-8])/(0[1-9]|1[0-2])/(19|20)[0-9]{2}$' and {{ date_order }} <> 'mdy'
            then make_date(substr({{ text }}, 7, 4)::int, substr({{ text }}, 4, 2)::int, substr({{ text }}, 1, 2)::int)
        else (
        select
            case
                when part.day between 1 and case
                    when part.month in (4, 6, 9, 11) then 30
                    when part.month <> 2 then 31
                    when part.year % 4 = 0 and (part.year % 100 <> 0 or part.year % 400 = 0) then 29
                    else 28
                end and part.month between 1 and 12 and part.year between 1900 and 2199
                    then make_date(part.year, part.month, part.day)
                when part.serial between 1 and 109573 then date '1899-12-30' + part.serial
            end
        from (
            select
                coalesce(
                    found.ymd[1]::int,
                    case
                        when length(found.dmy[3]) = 4 then found.dmy[3]::int
                        when found.dmy[3]::int <= {{ rule_number('values.two_digit_year_pivot') }} then 2000 + found.dmy[3]::int
                        else 1900 + found.dmy[3]::int
                    end
                ) as year,
                coalesce(found.ymd[2], found.dmy[case when {{ date_order }} = 'mdy' then 1 else 2 end])::int as month,
                coalesce(found.ymd[3], found.dmy[case when {{ date_order }} = 'mdy' then 2 else 1 end])::int as day,
                found.serial
            from (
                select
                    coalesce(
                        regexp_match({{ text }}, '^([0-9]{4})[-/.]([0-9]{1,2})[-/.]([0-9]{1,2}){{ time }}$'),
                        regexp_match({{ text }}, '^((?:19|20)[0-9]{2})([0-9]{2})([0-9]{2})$')
                    ) as ymd,
                    regexp_match({{ text }}, '^([0-9]{1,2})[-/.]([0-9]{1,2})[-/.]([0-9]{4}|[0-9]{2}){{ time }}$') as dmy,
                    case when {{ is_spreadsheet }} then substring({{ text }} from '^([0-9]{1,6})(?:[.,][0-9]+)?$')::int end as serial
                offset 0
            ) as found
            offset 0
        ) as part
        )
    end
{%- endmacro %}
