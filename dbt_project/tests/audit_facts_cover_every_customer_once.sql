{{ config(
    meta={
        'dagster': {'ref': {'name': 'customer_facts'}},
        'description':
            "The facts that the audit looks at have each customer exactly once: a second row would judge a person " ~
            "twice, a missing one would let a person escape every rule."
    },
) }}

select
    facts.n_facts,
    customers.n_customers
from (select count(*) as n_facts from {{ ref('customer_facts') }}) as facts
cross join (select count(*) as n_customers from {{ ref('dim_customers') }}) as customers
where facts.n_facts <> customers.n_customers
