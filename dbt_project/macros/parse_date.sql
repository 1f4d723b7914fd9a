{#- A date's text, cleaned; null where cellar software writes an empty date as zeros. -#}
{% macro date_text(text) -%}
    nullif(nullif({{ clean_text(text) }}, '00/00/0000'), '0000-00-00')
{%- endmacro %}


{#- A calendar day as people write it (spec.md §2.2): ISO, YYYY/MM/DD, YYYY.MM.DD, DD/MM/YYYY, DD-MM-YYYY, DD.MM.YYYY,
    two-digit years, optional time, and Excel serials where the file is a spreadsheet. Null when it is none: no value
    raises an error, 30 February is refused. `date_order` is the file's, 'dmy' or 'mdy'; `pivot` the last two-digit
    year of 20xx. The second to fifth branch are the common cases. Serials have five digits, as landing has it: 1234
    or 2024 alone is no day, nor is Excel's 29 February 1900. No subquery: PostgreSQL would not run it in parallel. -#}
{% macro parse_date(text, date_order, is_spreadsheet, pivot) -%}
    {%- set month_and_day = '((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)' -%}
    {%- set plain_iso = '(19|20)[0-9][0-9]-' ~ month_and_day -%}
    {%- set plain_dmy = '((0[1-9]|1[0-9]|2[0-8])/(0[1-9]|1[0-2])|(29|30)/(0[13-9]|1[0-2])|31/(0[13578]|1[02]))'
                        ~ '/(19|20)[0-9][0-9]' -%}
    {%- set time = '[T ]+([01]?[0-9]|2[0-3])[:.hH-][0-5][0-9]([:.-][0-5][0-9]([.,-][0-9]+)?)?'
                   ~ '( ?[AaPp][Mm])?( ?Z| ?[+-][0-9]{2}:?[0-9]{2})?$' -%}
    {%- set dashed = "regexp_replace(translate(" ~ text ~ ", '/.', '--'), '" ~ time ~ "', '')" -%}
    {%- set year = "split_part(" ~ dashed ~ ", '-', 3)" -%}
    {%- set first = "lpad(split_part(" ~ dashed ~ ", '-', 1), 2, '0')" -%}
    {%- set second = "lpad(split_part(" ~ dashed ~ ", '-', 2), 2, '0')" -%}
    {%- set iso -%}
        case
            when {{ text }} ~ '^[0-9]{8}$'
                then left({{ text }}, 4) || '-' || substr({{ text }}, 5, 2) || '-' || right({{ text }}, 2)
            when {{ text }} !~ '^[0-9]{1,4}([-/.])[0-9]{1,2}\1[0-9]' then null
            when {{ dashed }} ~ '^[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}$'
                then split_part({{ dashed }}, '-', 1) || '-' || {{ second }} || '-' || lpad({{ year }}, 2, '0')
            when {{ dashed }} ~ '^[0-9]{1,2}-[0-9]{1,2}-([0-9]{4}|[0-9]{2})$'
                then case
                    when length({{ year }}) = 4 then {{ year }}
                    when {{ year }}::int <= {{ pivot }} then '20' || {{ year }}
                    else '19' || {{ year }}
                end || '-' || case
                    when {{ date_order }} = 'mdy' then {{ first }} || '-' || {{ second }}
                    else {{ second }} || '-' || {{ first }}
                end
        end
    {%- endset -%}
    case
        when {{ text }} is null then null
        when {{ text }} ~ '^{{ plain_iso }}$'
            then make_date(left({{ text }}, 4)::int, substr({{ text }}, 6, 2)::int, right({{ text }}, 2)::int)
        when {{ text }} ~ '^{{ plain_dmy }}$' and {{ date_order }} <> 'mdy'
            then make_date(right({{ text }}, 4)::int, substr({{ text }}, 4, 2)::int, left({{ text }}, 2)::int)
        when {{ text }} ~ '^{{ plain_iso }}{{ time }}'
            then make_date(left({{ text }}, 4)::int, substr({{ text }}, 6, 2)::int, substr({{ text }}, 9, 2)::int)
        when {{ text }} ~ '^{{ plain_dmy }}{{ time }}' and {{ date_order }} <> 'mdy'
            then make_date(substr({{ text }}, 7, 4)::int, substr({{ text }}, 4, 2)::int, left({{ text }}, 2)::int)
        when {{ is_spreadsheet }} and {{ text }} ~ '^[1-9][0-9]{4}([.,][0-9]+)?$'
            then date '1899-12-30' + substring({{ text }} from '^[0-9]+')::int
        when {{ iso }} ~ '^(19|2[01])[0-9][0-9]-{{ month_and_day }}$' then ({{ iso }})::date
        when
            {{ iso }} ~ '^(19|2[01])[0-9][0-9]-02-29$'
            and left({{ iso }}, 4)::int % 4 = 0
            and (left({{ iso }}, 4)::int % 100 <> 0 or left({{ iso }}, 4)::int % 400 = 0)
            then ({{ iso }})::date
    end
{%- endmacro %}
