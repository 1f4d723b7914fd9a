with documents as (

    select * from {{ ref('order_totals') }}

),

reused as (

    select document_type, document_no
    from documents
    group by document_type, document_no
    having count(*) > 1

),

steps as (

    -- Documents that may be an invoice and the credit note that takes it back: one customer, amount and volume.
    select
        order_id,
        order_date,
        amount_ht < 0 as is_credit,
        customer_id || '|' || abs(amount_ht) || '|' || abs(bottles) as sameness
    from documents
    where
        treatment in ('count', 'credit')
        and amount_ht <> 0
        and order_date <= {{ as_of() }}
        and customer_id in (
            select credits.customer_id
            from documents as credits
            where credits.amount_ht < 0 and credits.treatment in ('count', 'credit')
        )

),

balanced as (

    select
        order_id,
        order_date,
        is_credit,
        sameness,
        sum(case when is_credit then -1 else 1 end) over (
            partition by sameness order by order_date, is_credit, order_id collate "C"
        ) as balance
    from steps

),

nested as (

    -- Like brackets: a credit note closes the newest open invoice before it, and one that closes none counts for none.
    select
        order_id,
        order_date,
        is_credit,
        sameness,
        balance
        - least(0, min(balance) over (partition by sameness order by order_date, is_credit, order_id collate "C"))
        + case when is_credit then 1 else 0 end as depth
    from balanced

),

reversed as (

    select closing.order_id
    from (
        select
            order_id,
            is_credit,
            lead(is_credit) over (
                partition by sameness, depth order by order_date, is_credit, order_id collate "C"
            ) as is_closed
        from nested
    ) as closing
    where not closing.is_credit and closing.is_closed

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
