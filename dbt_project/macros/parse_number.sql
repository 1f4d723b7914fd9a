{#- A number as people write it, as numeric, exactly (spec.md §2.2): 1 234,56 · 1.234,56 · 1,234.56 · 12,50 € ·
    1'234.50 · -3 · (3). Null when it is none: the caller refuses the row. `decimal_separator` is what the file's own
    values prove (',' '.' or null): only then is a lone separator before exactly three digits a thousands separator.
    The first two branches are the common cases and cost one regular expression each. -#}
{% macro parse_number(text, decimal_separator) -%}
    case
        when {{ text }} is null then null
        when {{ text }} ~ '^-?[0-9]{1,30}$' then {{ text }}::numeric
        when {{ text }} ~ '^-?[0-9]{1,30}[.,]([0-9]{1,2}|[0-9]{4,30})$' then replace({{ text }}, ',', '.')::numeric
        when {{ text }} !~ '[0-9]' or length({{ text }}) > 60 then null
        else (
            select
                case when signed.is_negative then -1 else 1 end
                * case
                    when signed.digits ~ '^[0-9]+$' then signed.digits
                    -- 1 234 567,8: spaces or apostrophes group, so whatever follows is the decimal separator
                    when signed.digits ~ '^[0-9]{1,3}([ ''][0-9]{3})+([.,][0-9]+)?$'
                        then replace(translate(signed.digits, ' ''', ''), ',', '.')
                    when signed.digits ~ '^[0-9]{1,3}(\.[0-9]{3})+,[0-9]+$'
                        then replace(replace(signed.digits, '.', ''), ',', '.')
                    when signed.digits ~ '^[0-9]{1,3}(,[0-9]{3})+\.[0-9]+$' then replace(signed.digits, ',', '')
                    when signed.digits ~ '^[0-9]{1,3}((\.[0-9]{3}){2,}|(,[0-9]{3}){2,})$'
                        then translate(signed.digits, '.,', '')
                    when
                        signed.digits ~ '^[1-9][0-9]{0,2}[.,][0-9]{3}$'
                        and substring(signed.digits from '[.,]') <> {{ decimal_separator }}
                        then translate(signed.digits, '.,', '')
                    when signed.digits ~ '^[0-9]*[.,][0-9]+$' then replace(signed.digits, ',', '.')
                end::numeric
            from (
                select
                    stripped.text ~ '^[-(]' as is_negative,
                    case
                        when stripped.text ~ '^\(.*\)$' then btrim(substr(stripped.text, 2, length(stripped.text) - 2))
                        when stripped.text ~ '^[-+][^-+()]*$' then btrim(substr(stripped.text, 2))
                        when stripped.text !~ '[-+()]' then stripped.text
                    end as digits
                from (
                    select btrim(regexp_replace(
                        translate({{ text }}, U&'\00a0\2007\2009\202f\2019\2212', '    ''-'), '€|\mEUR\M', '', 'gi'
                    )) as text
                    offset 0
                ) as stripped
                offset 0
            ) as signed
        )
    end
{%- endmacro %}
