with documents as (

    select
        order_id,
        min(customer_id) as customer_id,
        min(client_code) as client_code,
        min(document_type) as document_type,
        min(document_no) as document_no,
        min(treatment) as treatment,
        min(sale_date) as order_date,
        max(delivery_date) as delivery_date,
        count(*) as lines,
        sum(bottles) as bottles,
        sum(amount_ht) as amount_ht,
        sum(amount_ttc) as amount_ttc,
        sum(margin) as margin,
        bool_or(is_document_inferred) as is_document_inferred,
        min(file_id) <> max(file_id) as is_split
    from {{ ref('fct_sales_lines') }}
    group by order_id

),

reused as (

    select document_type, document_no
    from documents
    group by document_type, document_no
    having count(*) > 1

),

ranked as (

    -- A credit note takes back the newest earlier document of the same customer, amount and bottles, one for one.
    select
        order_id,
        customer_id,
        abs(amount_ht) as amount,
        abs(bottles) as bottles,
        order_date,
        amount_ht < 0 as is_credit,
        row_number() over (
            partition by customer_id, abs(amount_ht), abs(bottles), amount_ht < 0
            order by order_date desc, order_id collate "C" desc
        ) as position
    from documents
    where
        treatment in ('count', 'credit')
        and amount_ht <> 0
        and customer_id in (
            select credits.customer_id from documents as credits
            where credits.amount_ht < 0 and credits.treatment in ('count', 'credit')
        )

),

reversed as (

    select min(order_id) filter (where not is_credit) as order_id
    from ranked
    group by customer_id, amount, bottles, position
    having
        count(*) = 2
        and min(order_date) filter (where not is_credit) <= min(order_date) filter (where is_credit)
        and min(order_date) filter (where is_credit) <= {{ as_of() }}

)

select
    documents.order_id,
    documents.customer_id,
    documents.client_code,
    documents.document_type,
    documents.document_no,
    documents.treatment,
    documents.order_date,
    documents.delivery_date,
    documents.lines,
    documents.bottles,
    documents.amount_ht,
    documents.amount_ttc,
    documents.margin,
    documents.treatment in ('count', 'credit') as is_counted,
    documents.treatment = 'credit' or documents.amount_ht < 0 as is_credit_note,
    reversed.order_id is not null as is_reversed,
    documents.treatment = 'count'
    and documents.amount_ht > 0
    and reversed.order_id is null
    and documents.order_date <= {{ as_of() }} as is_qualifying,
    documents.is_document_inferred,
    documents.is_split,
    reused.document_no is not null as is_number_reused
from documents
left join reused on documents.document_type = reused.document_type and documents.document_no = reused.document_no
left join reversed on documents.order_id = reversed.order_id
