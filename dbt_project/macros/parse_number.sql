{#- Numbers as people write them, as numeric, exactly (spec.md §2.2): 1 234,56 · 1.234,56 · 1,234.56 · 12,50 € ·
    1'234.50 · -3 · (3). In two steps, so that a model computes the first once and names it, and without a subquery,
    which PostgreSQL would not run in parallel. Refused rather than guessed: -, 3-, 12€50, 1E3, 20 %, $3. -#}

{#- Step one: the text with its sign in front and neither currency nor outer spaces; null when blank. The first three
    branches are the common cases. -#}
{% macro number_text(text) -%}
    {%- set currency = '(?:€|EUR(?:OS?)?)' -%}
    case
        when {{ text }} ~ '^-?[0-9]+([.,][0-9]+)?$' then {{ text }}
        when {{ text }} ~ '^-?[0-9]{1,3}([ \u00a0\u202f][0-9]{3})+([.,][0-9]+)?$'
            then translate({{ text }}, U&'\00a0\202f', '  ')
        when {{ text }} ~ '^-?[0-9][0-9 .,\u00a0\u202f]*€$' then btrim(translate({{ text }}, U&'\00a0\202f€', '  '))
        else nullif(regexp_replace(
            regexp_replace(
                regexp_replace(
                    regexp_replace(
                        btrim(
                            translate({{ text }}, U&'\00a0\2007\2009\202f\2019\2212{{ invisible() }}', '    ''-'),
                            E' \t\r\n'
                        ),
                        '([0-9.,)])\s*{{ currency }}\s*(\)?)$', '\1\2', 'i'
                    ),
                    '^([-+(]?)\s*(?:{{ currency }}\s*)?(?=[-(0-9.,])', '\1', 'i'
                ),
                '^\((.*?)\s*\)$', '-\1'
            ),
            '^\+(?=[0-9.,])', ''
        ), '')
    end
{%- endmacro %}

{#- Step two: the number, null when it is none: the caller refuses the row. `decimal_separator` is what the file's own
    values prove (',' '.' or null): only then is a lone separator before exactly three digits one of thousands. -#}
{% macro parse_number(number_text, decimal_separator) -%}
    case
        when {{ number_text }} is null or length({{ number_text }}) > 60 then null
        when {{ number_text }} ~ '^-?[0-9]+([.,][0-9][0-9]?)?$' then replace({{ number_text }}, ',', '.')::numeric
        -- 1 234 567,8: spaces or apostrophes group, so whatever follows is the decimal separator
        when {{ number_text }} ~ '^-?[0-9]{1,3}( +[0-9]{3}|''[0-9]{3})+([.,][0-9]+)?$'
            then replace(translate({{ number_text }}, ' ''', ''), ',', '.')::numeric
        when {{ number_text }} ~ '^-?[0-9]{1,3}(\.[0-9]{3})+,[0-9]+$'
            then replace(replace({{ number_text }}, '.', ''), ',', '.')::numeric
        when {{ number_text }} ~ '^-?[0-9]{1,3}(,[0-9]{3})+\.[0-9]+$' then replace({{ number_text }}, ',', '')::numeric
        when {{ number_text }} ~ '^-?[0-9]{1,3}((\.[0-9]{3}){2,}|(,[0-9]{3}){2,})$'
            then translate({{ number_text }}, '.,', '')::numeric
        when
            {{ number_text }} ~ '^-?[1-9][0-9]{0,2}[.,][0-9]{3}$'
            and substring({{ number_text }} from '[.,]') <> {{ decimal_separator }}
            then translate({{ number_text }}, '.,', '')::numeric
        when {{ number_text }} ~ '^-?[0-9]*[.,][0-9]+$' then replace({{ number_text }}, ',', '.')::numeric
    end
{%- endmacro %}
