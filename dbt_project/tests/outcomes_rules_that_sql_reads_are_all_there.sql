{{ config(
    tags=['outcomes'],
    meta={
        'dagster': {'ref': {'name': 'sendings'}},
        'description':
            "What the outcomes ask of the rules and of the estate's file is in landing.parameters. It is missing after " ~
            "an update of the program: a refresh writes it."
    },
) }}

-- depends_on: {{ ref('sendings') }}
select needed.name
from (values ('activation.conversion_days'), ('tenant.timezone')) as needed (name)
left join {{ source('landing', 'parameters') }} as parameters on needed.name = parameters.name
where parameters.name is null
