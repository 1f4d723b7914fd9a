"""The identities of the accounting as singular tests have them: silent on an estate that is right, told of each breach.

The tables are written here by hand with the columns that the tests read; that the models keep the identities is seen
wherever dbt builds.
"""

from __future__ import annotations

import re

import pytest

from crm_assets.dbt_manifest import PROJECT
from crm_assets.logic import landing
from crm_assets.resources.warehouse import Warehouse
from crm_assets.settings import ROOT
from tests.dbt.macros import render, statement

REVENUE = "curated_accepted_revenue_reaches_the_facts"
ORDERS = "curated_order_is_the_sum_of_its_lines"
CODES = "curated_codes_and_customers_are_those_of_the_cross_reference"
CREDITS = "curated_credits_are_never_positive"
LOADED = "curated_current_rows_are_of_loaded_files"
REFUSED = "curated_refused_rows_say_why_in_known_codes"
SUPERSEDED = "curated_superseded_lines_leave_their_document_a_current_one"
ALL = [REVENUE, ORDERS, CODES, CREDITS, LOADED, REFUSED, SUPERSEDED]

# Two exports. f1: an invoice by net amount, a credit note written positive, a line by amount with VAT, one by price, a
# refused one and one that f2 says again. Numbers as the French write them, but one; f2's separator is a point.
ESTATE = """
    create schema if not exists staging; create schema if not exists curated;

    insert into landing.parameters (name, value) values
        ('documents.types', '{"FACTURE": "count", "Avoir": "credit"}'), ('tenant.exports', '"partial"');
    insert into raw.files (path, sha256, file_id, dataset, status, size_bytes, modified_at, first_seen_at)
    select id || '.csv', id, id, 'sales_lines', status, 1, now(), now()
    from (values ('f1', 'loaded'), ('f2', 'loaded'), ('f3', 'refused')) as files (id, status);
    create table staging.stg_files as
    select * from (values ('f1', 1::bigint, ','), ('f2', 2, '.')) as files (file_id, file_rank, decimal_separator);

    insert into raw.sales_lines (
        file_id, source_line, row_no, document_type, quantity, unit_price_ht, amount_ht, amount_ttc
    ) values
        ('f1', 2, 1, 'Facture', '6', '10', E'1\\u202f234,50 €', '1481,40'),
        ('f1', 3, 2, 'AVOIR', '1', null, '50,00', '60,00'),
        ('f1', 4, 3, 'facture', '2', '9', E'\\u00a0', '21,60'),
        ('f1', 5, 4, 'FACTURE', '3', '7,5', null, null),
        ('f1', 6, 5, 'FACTURE', 'x', '7,5', '99', '99'),
        ('f1', 7, 6, 'FACTURE', '1', '1.000', '1.000', null),
        ('f2', 2, 1, 'FACTURE', '1', '1.000', '1.000', null);
    create table staging.stg_sales_lines as
    select row_number() over (order by file_id, source_line) as row_id, file_id, source_line from raw.sales_lines;
    create table staging.sales_line_versions as
    select
        row_id,
        case row_id when 1 then 'o1' when 2 then 'o2' when 3 then 'o3' when 4 then 'o3' else 'o4' end as order_id,
        row_id <> 6 as is_current
    from staging.stg_sales_lines where row_id <> 5;
    create table curated.quarantined_rows as
    select 'f1' as file_id, 6::bigint as source_line, array['INVALID_NUMBER'] as codes;

    create table curated.fct_sales_lines as
    select
        'l' || n as line_id, file, line::bigint as source_line, orders as order_id, client as client_code,
        'id' || client as customer_id, treatment, quantity::numeric, quantity::numeric as bottles,
        ht::numeric as amount_ht, ttc::numeric as amount_ttc, margin::numeric, derived as amount_derived
    from (values
        (1, 'f1', 2, 'o1', 'A', 'count', 6, 1234.50, 1481.40, 3, false),
        (2, 'f1', 3, 'o2', 'A', 'credit', -1, -50.00, -60.00, null, false),
        (3, 'f1', 4, 'o3', 'B', 'count', 2, 18.00, 21.60, 4, true),
        (4, 'f1', 5, 'o3', 'B', 'count', 3, 22.5, 27, null, true),
        (5, 'f2', 2, 'o4', 'B', 'count', 1, 1.000, 1.2, null, false)
    ) as lines (n, file, line, orders, client, treatment, quantity, ht, ttc, margin, derived);
    alter table curated.fct_sales_lines rename column file to file_id;
    create table curated.fct_orders as
    select
        order_id, client_code, customer_id, count(*) as lines, sum(bottles) as bottles, sum(amount_ht) as amount_ht,
        sum(amount_ttc) as amount_ttc, sum(margin) as margin
    from curated.fct_sales_lines group by 1, 2, 3;
    create table curated.stock_levels as select 'f2' as file_id;
    create table curated.contact_events as select 'f2' as file_id;
    insert into curated.customer_xref (client_code, customer_id, matched_by) values
        ('A', 'idA', 'code'), ('B', 'idB', 'code');
"""


@pytest.fixture
def estate(tenant_warehouse: Warehouse) -> Warehouse:
    tenant_warehouse.execute(ESTATE)
    return tenant_warehouse


def red(warehouse: Warehouse) -> set[str]:
    """The tests that find something."""
    return {test for test in ALL if warehouse.rows(statement(test))}


def test_an_estate_that_is_right_is_left_in_peace(estate: Warehouse) -> None:
    assert red(estate) == set()


@pytest.mark.parametrize(
    ("breach", "expected"),
    [
        # a lost line, and one lost while another is doubled
        ("delete from curated.fct_sales_lines where line_id = 'l1'", {REVENUE, ORDERS}),
        ("delete from curated.fct_sales_lines where line_id in ('l3', 'l4')", {REVENUE, ORDERS}),
        ("insert into curated.fct_sales_lines select * from curated.fct_sales_lines where line_id = 'l5'",
         {REVENUE, ORDERS}),
        ("update curated.fct_sales_lines set source_line = 4 where line_id = 'l2'", {REVENUE}),
        # a wrong sign on a credit, with the orders made from it
        ("update curated.fct_sales_lines set amount_ht = 50 where line_id = 'l2';"
         "update curated.fct_orders set amount_ht = 50 where order_id = 'o2'", {REVENUE, CREDITS}),
        ("update curated.fct_sales_lines set bottles = 1 where line_id = 'l2';"
         "update curated.fct_orders set bottles = 1 where order_id = 'o2'", {CREDITS}),
        # a number misread: 1.000 is one euro only where the file's separator is a point
        ("update staging.stg_files set decimal_separator = ','", {REVENUE}),
        ("update curated.fct_sales_lines set amount_ttc = 21.61 where line_id = 'l3';"
         "update curated.fct_orders set amount_ttc = amount_ttc + 0.01 where order_id = 'o3'", {REVENUE}),
        ("update curated.fct_sales_lines set amount_ht = 22.4 where line_id = 'l4';"
         "update curated.fct_orders set amount_ht = amount_ht - 0.1 where order_id = 'o3'", {REVENUE}),
        # money or bottles that go from one order to another
        ("update curated.fct_orders set bottles = bottles + case order_id when 'o1' then 1 else -1 end"
         " where order_id in ('o1', 'o3')", {ORDERS}),
        ("update curated.fct_orders set amount_ht = amount_ht + case order_id when 'o1' then 1 else -1 end"
         " where order_id in ('o1', 'o3')", {ORDERS}),
        ("update curated.fct_orders set margin = 5 where order_id = 'o3'", {ORDERS}),
        ("update curated.fct_orders set margin = 1 where order_id = 'o2'", {ORDERS}),
        ("update curated.fct_orders set lines = 3 where order_id = 'o3'", {ORDERS}),
        ("insert into curated.fct_orders values ('o9', 'A', 'idA', 1, 0, 0, 0, 0)", {ORDERS}),
        # who it was
        ("delete from curated.customer_xref where client_code = 'B'", {CODES}),
        ("update curated.fct_sales_lines set customer_id = 'idB' where line_id = 'l1'", {CODES}),
        ("update curated.fct_orders set customer_id = 'idA' where order_id = 'o3'", {CODES}),
        # where it came from
        ("update curated.stock_levels set file_id = 'f3'", {LOADED}),
        ("update curated.fct_sales_lines set file_id = 'f3' where line_id = 'l5'", {LOADED, REVENUE}),
        ("insert into curated.quarantined_rows values ('f4', 2, '{INVALID_DATE}')", {LOADED}),
        # why it was refused
        ("update curated.quarantined_rows set codes = '{}'", {REFUSED}),
        ("update curated.quarantined_rows set codes = null", {REFUSED}),
        ("update curated.quarantined_rows set codes = '{INVALID_NUMBER,INVALID_MOON}'", {REFUSED}),
        # a document that vanished, and its lines with it
        ("update staging.sales_line_versions set is_current = false where order_id = 'o3';"
         "delete from curated.fct_sales_lines where order_id = 'o3';"
         "delete from curated.fct_orders where order_id = 'o3'", {SUPERSEDED}),
    ],
)  # fmt: skip
def test_each_breach_is_found(estate: Warehouse, breach: str, expected: set[str]) -> None:
    estate.execute(breach)
    assert red(estate) == expected


def test_documents_may_vanish_where_every_export_tells_all(estate: Warehouse) -> None:
    estate.execute("update staging.sales_line_versions set is_current = false where order_id = 'o3'")
    estate.execute("update landing.parameters set value = '\"full\"' where name = 'tenant.exports'")
    assert not estate.rows(statement(SUPERSEDED))


def test_the_codes_of_refused_rows_are_the_same_everywhere() -> None:
    codes = set(re.findall(r"'([A-Z_]+)'", render("quarantine_codes")))
    assert len(codes) == 10
    assert codes == {
        *landing.MISSING_CODES.values(), landing.INVALID_DATE, landing.INVALID_NUMBER, landing.INVALID_KEY,
        landing.RAGGED_ROW,
    }  # fmt: skip
    given = {
        code
        for path in (PROJECT / "models" / "staging").glob("*.sql")
        for code in re.findall(r"'((?:MISSING|INVALID|RAGGED)_[A-Z]+)'", path.read_text("utf-8"))
    }
    assert given == codes - {landing.RAGGED_ROW}, "staging gives the codes that landing cannot see"
    for path in (ROOT / "crm_assets" / "templates").glob("workbooks_*.yaml"):
        told = re.findall(r"^\s+((?:MISSING|INVALID|RAGGED)_[A-Z]+):", path.read_text("utf-8"), re.MULTILINE)
        assert codes <= set(told), f"{path.name} explains each code"
