{{ config(meta={'dagster': {'ref': {'name': 'customer_facts'}}}) }}

-- An address known under two rows would show a customer twice; a lost one would escape the audit.
select
    facts.n_facts,
    customers.n_customers
from (select count(*) as n_facts from {{ ref('customer_facts') }}) as facts
cross join (select count(*) as n_customers from {{ ref('dim_customers') }}) as customers
where facts.n_facts <> customers.n_customers
