{#- Text of the files as SQL values (spec.md §2.2). Expressions only, no functions to install: every macro renders one
    expression over its argument. Those that name the argument often are meant for distinct values, not for whole
    tables: a staging model parses each distinct text once and joins it back. -#}

{#- NBSP, NNBSP and their kin are spaces; trimmed, runs of spaces collapsed, blank is null. The regular expression
    decides first, because nearly every value is clean already. -#}
{% macro clean_text(text) -%}
    case
        when {{ text }} ~ '^\s|\s$|\s\s|[\t\r\n\u00a0\u2007\u2009\u202f\u200b\ufeff]'
            then nullif(btrim(regexp_replace(
                translate({{ text }}, U&'\00a0\2007\2009\202f\200b\feff', '      '), '\s+', ' ', 'g'
            )), '')
        else nullif({{ text }}, '')
    end
{%- endmacro %}

{#- A client or product code: NBSP and NNBSP are spaces, trimmed, upper; inner characters are kept: C-001 and C001 are
    two codes. The same as logic/curated.py normalize_code, whose codes it meets. -#}
{% macro client_code(text) -%}
    nullif(upper(case
        when {{ text }} ~ '^\s|\s$|[\u00a0\u202f]'
            then regexp_replace(translate({{ text }}, U&'\00a0\202f', '  '), '^\s+|\s+$', '', 'g')
        else {{ text }}
    end), '')
{%- endmacro %}

{#- Whether a code can be no key: it has neither letter nor digit, or is what Excel writes for an error. -#}
{% macro is_invalid_code(code) -%}
    (
        {{ code }} !~ '[[:alnum:]]'
        or {{ code }} ~ '^#(N/A|NV|REF!|BEZUG!|VALUE!|VALEUR!|WERT!|NAME\?|NOM\?|DIV/0!|NULL!|NUL!|NUM!|NOMBRE!|ZAHL!|SPILL!|CALC!)$'
    )
{%- endmacro %}

{#- Ligatures expanded, accents stripped; everything else as it was. -#}
{% macro strip_accents(text) -%}
    regexp_replace(
        normalize(
            replace(replace(replace(replace(replace({{ text }}, 'œ', 'oe'), 'Œ', 'OE'), 'æ', 'ae'), 'Æ', 'AE'), 'ß', 'ss'),
            NFKD
        ),
        '[\u0300-\u036f]', '', 'g'
    )
{%- endmacro %}

{#- Crémant d’Alsace Extra-Brut -> CREMANT D ALSACE EXTRA BRUT; '' when nothing is left, null for null. -#}
{% macro normalize_label(text) -%}
    btrim(regexp_replace(upper({{ strip_accents(text) }}), '[^A-Z0-9]+', ' ', 'g'))
{%- endmacro %}

{#- oui, non, 1, 0, vrai, ja … -> boolean; null when blank or neither. -#}
{% macro parse_bool(text) -%}
    case lower(btrim({{ text }}))
        {% for word in ['1', '1.0', '1,0', 'o', 'oui', 'y', 'yes', 't', 'true', 'v', 'vrai', 'x', 'j', 'ja', 'ok'] -%}
        when '{{ word }}' then true
        {% endfor -%}
        {% for word in ['0', '0.0', '0,0', 'n', 'non', 'no', 'f', 'false', 'faux', 'nein', '-'] -%}
        when '{{ word }}' then false
        {% endfor -%}
    end
{%- endmacro %}

{#- What the first pattern of a rule list that fits says: rules = [{pattern, <result>}, …]; null when none fits.
    For distinct values. -#}
{% macro first_pattern(text, rules, result) -%}
    (
        select rule.value ->> '{{ result }}'
        from jsonb_array_elements({{ rule_json(rules) }}) with ordinality as rule (value, position)
        where {{ text }} ~ (rule.value ->> 'pattern')
        order by rule.position
        limit 1
    )
{%- endmacro %}

{#- 75 cl bottles of one sales unit, from an article or a label; null when the text names no format (one bottle then).
    `caisse|carton (de) N` comes before the rules, which know CAISSE alone as twelve. For distinct values. -#}
{% macro bottle_coefficient(text) -%}
    coalesce(
        substring(upper({{ strip_accents(text) }}) from '(?:CAISSE|CARTON)S?(?: BOIS)?(?: DE)?[ -]?([0-9]{1,2})(?![0-9]| ?(?:CL|ML|L)\M)')::numeric,
        {{ first_pattern('upper(' ~ strip_accents(text) ~ ')', 'values.bottle_coefficients', 'coefficient') }}::numeric
    )
{%- endmacro %}
