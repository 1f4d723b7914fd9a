"""Every table that Python writes, as SQLAlchemy Core metadata: columns, types, keys and grain.

One home for the shape of a table: DDL (`crm tenant add`), COPY column lists, the column schema shown in
Dagster and the dbt sources' columns are all read from here. A table's `comment` says what one row is.
Tables that dbt builds are described in `dbt_project/models` and must not be repeated here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = sa.MetaData()
control = sa.MetaData()

Text, BigInt, Int, Bool, Date = sa.Text, sa.BigInteger, sa.Integer, sa.Boolean, sa.Date
Stamp = sa.DateTime(timezone=True)
Money = sa.Numeric()
Float = sa.Double


def _columns(names: str, kind: type[sa.types.TypeEngine] = Text) -> list[sa.Column]:
    return [sa.Column(name, kind) for name in names.split()]


def _table(
    name: str, comment: str, columns: Sequence[sa.schema.SchemaItem], *, owner: sa.MetaData = metadata
) -> sa.Table:
    schema, table = name.split(".")
    return sa.Table(table, owner, *columns, schema=schema, comment=comment)


# --- landing -------------------------------------------------------------------------------------------------

landing_files = _table(
    "landing.files",
    "One row per file present in the drop folder at the last look.",
    [
        sa.Column("path", Text, primary_key=True),  # relative to the tenant's raw folder, POSIX separators
        sa.Column("sha256", Text, nullable=False),  # '' while the file is still growing
        sa.Column("size_bytes", BigInt, nullable=False),
        sa.Column("modified_at", Stamp, nullable=False),
        sa.Column("dataset", Text),
        sa.Column("signature", Text),  # while it stays the content is the same; null: look again
    ],
)

landing_parameters = _table(
    "landing.parameters",
    "One row per business rule in force for the refresh, with the as-of date beside them (name `as_of`).",
    [sa.Column("name", Text, primary_key=True), sa.Column("value", JSONB, nullable=False)],
)

# --- raw -----------------------------------------------------------------------------------------------------

raw_files = _table(
    "raw.files",
    "One row per file content ever seen under a path: its status, why, how it was read and what it holds.",
    [
        sa.Column("path", Text, primary_key=True),
        sa.Column("sha256", Text, primary_key=True),  # '' while the file is still growing
        sa.Column("file_id", Text, nullable=False),  # first 16 hex of sha256: the same content is the same file
        sa.Column("file_no", BigInt, sa.Identity(), nullable=False),  # short, for keys inside one database; no order
        sa.Column("dataset", Text),
        sa.Column("status", Text, nullable=False),  # waiting loaded review duplicate unrecognised unreadable refused
        sa.Column("reason", Text),
        sa.Column("size_bytes", BigInt, nullable=False),
        sa.Column("modified_at", Stamp, nullable=False),
        sa.Column("order_key", Text),  # sortable with COLLATE "C": the file order of spec §2
        sa.Column("file_date", Date),
        sa.Column("format", Text),  # csv xlsx xls
        sa.Column("encoding", Text),
        sa.Column("delimiter", Text),
        sa.Column("decimal_separator", Text),  # ',' or '.' where the file's values prove it, else null
        sa.Column("date_order", Text),  # dmy or mdy
        sa.Column("row_count", BigInt),  # data records in the file
        sa.Column("first_date", Date),  # sales: span of sale dates, decides what a newer export replaces
        sa.Column("last_date", Date),
        sa.Column("mapping", JSONB),  # header -> field
        sa.Column("unmapped_headers", ARRAY(Text)),
        sa.Column("missing_fields", ARRAY(Text)),
        sa.Column("mapping_quality", Int),
        sa.Column("mapping_version", Text),  # of the dataset's description, `.`, of what applied to this file
        sa.Column("anomalies", JSONB),  # severity -> count
        sa.Column("anomaly_examples", JSONB),  # a few of each: line, field, severity, problem; no values
        sa.Column("first_seen_at", Stamp, nullable=False),
        sa.Column("loaded_at", Stamp),
        sa.Column("deleted_at", Stamp),  # gone from the folder; its rows stay
    ],
)

file_reports = _table(
    "raw.file_reports",
    "One row per content that was read: what `crm mapping preview` shows of it, with its examples unmasked.",
    [
        sa.Column("file_id", Text, primary_key=True),
        sa.Column("report", JSONB, nullable=False),
    ],
)

RAW_FIELDS = {
    "sales_lines": "client_code document_no document_type line_no product_key product_label article vintage "
    "order_date delivery_date quantity unit_price_ht amount_ht amount_ttc margin email postal_code city country "
    "delivery_name delivery_postal_code delivery_country",
    "customers": "client_code last_name first_name full_name email phone mobile address postal_code city country "
    "type status email_opt_in opt_in_date opt_in_source email_opt_out phone_opt_out post_opt_out "
    "profiling_opt_out birth_date language",
    "products": "product_key label article vintage family sub_family macro_category colour kind grape sweetness "
    "price_ttc cost margin price_band premium_tier aroma_fruit aroma_floral aroma_spice aroma_mineral aroma_acidity "
    "aroma_body aroma_tannin season_tags is_active is_archived allocation sold_by url image_url description awards",
    "stock": "product_key warehouse quantity reserved as_of",
    "contacts": "client_code email contact_date channel status campaign_id",
    "aliases": "label product_key",
}

_RAW_COMMENTS = {
    "sales_lines": "One row per line of a sales export, every mapped field as the text it was.",
    "customers": "One row per line of a customer export, every mapped field as the text it was.",
    "products": "One row per line of a product export, every mapped field as the text it was.",
    "stock": "One row per line of a stock export, every mapped field as the text it was.",
    "contacts": "One row per line of a contact history export, every mapped field as the text it was.",
    "aliases": "One row per line of an alias file: a label and the product it means.",
}

RAW_TABLES = {
    name: _table(
        f"raw.{name}",
        _RAW_COMMENTS[name],
        [
            sa.Column("file_id", Text, nullable=False),
            sa.Column("source_line", BigInt, nullable=False),  # physical line where the record starts; sheets: row
            sa.Column("row_no", BigInt, nullable=False),  # ordinal of the record in the file, from 1
            *_columns(fields),
            sa.Column("extra", JSONB),  # values of unmapped columns; of a ragged row, the whole row as a list
            sa.Column("problems", ARRAY(Text)),  # what only landing can see: RAGGED_ROW
            sa.Column("mends", Text),  # `<file_id>:<source_line>` of the refused row that this one stands for
            # (file_id, source_line) is unique: a content is loaded once, in one transaction, and its lines are
            # numbered through. A B-tree to say so would cost a third of a landing; a file's rows lie together,
            # so that the bounds of each stretch of pages lead to them.
            sa.Index(
                f"{name}_place",
                "file_id",
                "source_line",
                postgresql_using="brin",
                postgresql_with={"pages_per_range": 32},
            ),
        ],
    )
    for name, fields in RAW_FIELDS.items()
}

# Folder name or keyword (spec §2) -> raw table.
DATASET_TABLES = {
    "ventes_lignes": "sales_lines",
    "clients": "customers",
    "produits": "products",
    "stock": "stock",
    "contacts": "contacts",
    "alias": "aliases",
}

# --- staging and curated: what needs a library that SQL has not -----------------------------------------------

emails = _table(
    "staging.emails",
    "One row per e-mail text ever met: its normalised address, or why it is none. Known texts are not validated again.",
    [
        sa.Column("raw_email", Text, primary_key=True),
        sa.Column("email", Text),  # null when invalid
        sa.Column("reason", Text),
    ],
)

phones = _table(
    "staging.phones",
    "One row per (phone text, country) ever met: its E.164 number, null when it is none.",
    [
        sa.Column("raw_phone", Text, primary_key=True),
        sa.Column("country", Text, primary_key=True),  # ISO 3166 alpha-2, the region it was read in
        sa.Column("phone", Text),
    ],
)

client_texts = _table(
    "staging.client_texts",
    "One row per distinct client, e-mail and countries in a sales file, with the first line that has them.",
    [
        sa.Column("file_no", BigInt, nullable=False, index=True),
        *_columns("client_code email country delivery_country"),
        sa.Column("source_line", BigInt, nullable=False),
    ],
)

product_texts_met = _table(
    "staging.product_texts_met",
    "One row per distinct way in which a sales file names a product: its four texts, empty when null.",
    [
        sa.Column("file_no", BigInt, nullable=False, index=True),
        *_columns("product_key product_label vintage article"),
    ],
)

customer_xref = _table(
    "curated.customer_xref",
    "One row per client code ever seen: the golden customer it belongs to.",
    [
        sa.Column("client_code", Text, primary_key=True),
        sa.Column("customer_id", Text, nullable=False),
        sa.Column("matched_by", Text, nullable=False),  # code email phone
    ],
)

product_matches = _table(
    "curated.product_matches",
    "One row per (product key, label) pair of the sales: the product it was resolved to, and how.",
    [
        sa.Column("raw_product_key", Text, primary_key=True),  # as in raw.sales_lines, '' when null
        sa.Column("raw_product_label", Text, primary_key=True),  # as in raw.sales_lines, '' when null
        sa.Column("raw_vintage", Text, primary_key=True),  # as in raw.sales_lines, '' when null
        sa.Column("sale_year", Int, primary_key=True),  # 0 unless the newest vintage not after it had to be chosen
        sa.Column("product_key", Text, nullable=False),
        sa.Column("matched_by", Text, nullable=False),  # key alias label fuzzy inferred
        sa.Column("score", Float),
        sa.Column("suggestion", Text),  # best catalogue key for the unmatched report, 80..95
        sa.Column("vintage_ambiguous", Bool, nullable=False),  # the vintage was chosen by the year of the sale
    ],
)

# --- customers -----------------------------------------------------------------------------------------------

AROMAS = "aroma_fruit aroma_floral aroma_spice aroma_mineral aroma_acidity aroma_body aroma_tannin"

taste_profiles = _table(
    "customers.taste_profiles",
    "One row per customer: aroma profile on seven axes 0..1, shrunk to the estate's mean, with its confidence.",
    [
        sa.Column("customer_id", Text, primary_key=True),
        *_columns(AROMAS, Float),
        sa.Column("confidence", Float, nullable=False),
        sa.Column("confidence_level", Text, nullable=False),  # Low Medium High
    ],
)

clusters = _table(
    "customers.clusters",
    "One row per customer with a qualifying order: the behavioural cluster it belongs to, within its population.",
    [
        sa.Column("customer_id", Text, primary_key=True),
        sa.Column("population", Text, nullable=False),  # private professional
        sa.Column("cluster_id", Text, nullable=False),
        sa.Column("cluster_name", Text, nullable=False),
    ],
)

cluster_history = _table(
    "customers.cluster_history",
    "One row per customer and as-of day of a refresh: the cluster the customer was in. The last weeks only.",
    [
        sa.Column("as_of", Date, primary_key=True),
        sa.Column("customer_id", Text, primary_key=True),
        sa.Column("population", Text, nullable=False),
        sa.Column("cluster_id", Text, nullable=False),
        sa.Column("cluster_name", Text, nullable=False),
    ],
)

cluster_profiles = _table(
    "customers.cluster_profiles",
    "One row per cluster: size, medians in natural units, and the centroid that keeps its id stable next run.",
    [
        sa.Column("cluster_id", Text, primary_key=True),
        sa.Column("population", Text, nullable=False),
        sa.Column("cluster_name", Text, nullable=False),
        sa.Column("size", BigInt, nullable=False),
        sa.Column("share", Float, nullable=False),
        *_columns("recency_days frequency monetary average_order_value mean_interval_days diversity", Float),
        sa.Column("centroid", ARRAY(Float), nullable=False),
        sa.Column("silhouette", Float),
        sa.Column("stability", Float),
        sa.Column("last_number", BigInt),  # highest number a cluster of the population ever had: none is used twice
    ],
)

predictions = _table(
    "customers.predictions",
    "One row per customer: probability of an order in 90 days, expected orders and value over 365 days, churn flag.",
    [
        sa.Column("customer_id", Text, primary_key=True),
        sa.Column("probability_90d", Float, nullable=False),
        sa.Column("expected_orders_365d", Float, nullable=False),
        sa.Column("expected_value_365d", Float, nullable=False),  # EUR HT
        sa.Column("p_active", Float, nullable=False),
        sa.Column("is_churning", Bool, nullable=False),
        sa.Column("lead_score", Float, nullable=False),  # 0..100
        sa.Column("method", Text, nullable=False),
    ],
)

# --- recommendations ------------------------------------------------------------------------------------------

runs = _table(
    "recommendations.runs",
    "One row per recommendation run: what went in (versions), what came out (counts, measures), and when.",
    [
        sa.Column("run_id", Text, primary_key=True),
        sa.Column("as_of", Date, nullable=False),
        sa.Column("is_historical", Bool, nullable=False),
        sa.Column("dataset_version", Text, nullable=False),
        sa.Column("state_version", Text, nullable=False),
        sa.Column("rules_version", Text, nullable=False),
        sa.Column("config_version", Text),  # all that the estate's file says, rules included; null in older runs
        sa.Column("code_version", Text, nullable=False),
        sa.Column("engine", JSONB),  # `ranking`: engine of each list, why, its weights; measures of the calibration
        sa.Column("n_customers", BigInt),
        sa.Column("n_items", BigInt),
        sa.Column("created_at", Stamp, nullable=False),
        sa.Column("completed_at", Stamp),  # null: not complete, its rows may be replaced
    ],
)

items = _table(
    "recommendations.items",
    "One row per recommended wine of a customer in a run.",
    [
        sa.Column("run_id", Text, primary_key=True),
        sa.Column("customer_id", Text, primary_key=True),
        sa.Column("wine_id", Text, primary_key=True),
        sa.Column("product_key", Text, nullable=False),
        sa.Column("scenario", Text, nullable=False),  # rebuy cross_sell upsell winback nurture
        sa.Column("rank", Int, nullable=False),  # 1..n
        sa.Column("score", Float, nullable=False),  # 0..100, comparable in a run
        sa.Column("probability", Float, nullable=False),  # that wine in an order within 90 days
        sa.Column("confidence", Float, nullable=False),
        *_columns("collaborative content popularity rhythm margin season", Float),  # components, 0..1
        sa.Column("explain_short", Text, nullable=False),
        sa.Column("customer_sentence", Text, nullable=False),
        sa.Column("reasons", JSONB, nullable=False),
        sa.Column("rules_version", Text, nullable=False),
    ],
)

rule_sets = _table(
    "recommendations.rule_sets",
    "One row per version of the rules that a run was ever made with: all of them, as they were in force.",
    [
        sa.Column("rules_version", Text, primary_key=True),
        sa.Column("rules", JSONB, nullable=False),
        sa.Column("first_used_at", Stamp, nullable=False),
    ],
)

backtests = _table(
    "recommendations.backtests",
    "One row per part, engine and list length of a run's back-test: how well each engine foretold the next orders.",
    [
        sa.Column("run_id", Text, primary_key=True),
        sa.Column("part", Text, primary_key=True),  # a list: mixed repeat explore; or a scenario
        sa.Column("engine", Text, primary_key=True),  # popularity personal gp_topfreq ridge reranked; policy
        sa.Column("top", Int, primary_key=True),  # products looked at
        sa.Column("cut", Date, nullable=False),  # first day that was to be predicted
        sa.Column("window_days", Int, nullable=False),
        sa.Column("customers", BigInt, nullable=False),  # judged: who ordered such a product in the window
        *(sa.Column(name, Float, nullable=False) for name in ("recall", "ndcg", "hit_rate")),  # 0..1, means over them
        *_columns("recall_repeat recall_explore", Float),  # of mixed alone
        sa.Column("is_serving", Bool, nullable=False),  # the engine that the run's list was made with
        sa.Column("as_of", Date, nullable=False),
        sa.Column("rules_version", Text, nullable=False),
    ],
)

# --- audit, gate, review --------------------------------------------------------------------------------------

findings = _table(
    "audit.findings",
    "One row per audit rule that a customer's message breaks, per offending item where the rule is about an item.",
    [
        sa.Column("run_id", Text, primary_key=True),
        sa.Column("customer_id", Text, primary_key=True),
        sa.Column("rule_code", Text, primary_key=True),
        sa.Column("product_key", Text, primary_key=True),  # '' when the rule is about the customer
        sa.Column("rule_no", Int, nullable=False),
        sa.Column("severity", Text, nullable=False),  # ERROR WARN
        sa.Column("details", Text, nullable=False),  # the facts, without personal data
        sa.Column("measured", Text),  # the value that the rule looked at, a number or a code
        sa.Column("threshold", Text),  # and what it was compared with; null where there is nothing to compare
    ],
)

scores = _table(
    "audit.scores",
    "One row per customer of a run: errors, warnings and the audit score 0..100.",
    [
        sa.Column("run_id", Text, primary_key=True),
        sa.Column("customer_id", Text, primary_key=True),
        sa.Column("n_errors", Int, nullable=False),
        sa.Column("n_warnings", Int, nullable=False),
        sa.Column("audit_score", Int, nullable=False),
        sa.Column("first_rule", Text),  # first error, else first warning
        sa.Column("rules_version", Text, nullable=False),
    ],
)

data_quality = _table(
    "audit.data_quality",
    "One row per circuit-breaker check of a run: the measured ratio, its tolerance and its score 0..100.",
    [
        sa.Column("run_id", Text, primary_key=True),
        sa.Column("check_code", Text, primary_key=True),
        sa.Column("severity", Text, nullable=False),
        sa.Column("weight", Float, nullable=False),
        sa.Column("bad", Float, nullable=False),
        sa.Column("total", Float, nullable=False),
        sa.Column("tolerance", Float, nullable=False),
        sa.Column("score", Float, nullable=False),
    ],
)

decisions = _table(
    "gate.decisions",
    "One row per run: whether anything may be planned or sent from it, and why not. Activation obeys this row.",
    [
        sa.Column("run_id", Text, primary_key=True),
        sa.Column("as_of", Date, nullable=False),
        sa.Column("status", Text, nullable=False),  # open closed
        sa.Column("reasons", ARRAY(Text), nullable=False),
        sa.Column("data_quality_score", Float, nullable=False),
        sa.Column("gate_export", Bool, nullable=False),
        sa.Column("n_customers", BigInt, nullable=False),
        sa.Column("n_permitted", BigInt, nullable=False),
        sa.Column("n_eligible", BigInt, nullable=False),
        sa.Column("n_errors", BigInt, nullable=False),
        sa.Column("n_warnings", BigInt, nullable=False),
        sa.Column("mean_audit_score", Float),
        sa.Column("is_historical", Bool, nullable=False),
        sa.Column("decided_at", Stamp, nullable=False),
        sa.Column("rules_version", Text, nullable=False),
    ],
)

next_actions = _table(
    "gate.next_actions",
    "One row per customer of a run: may we write, about what, with which audit score, and if not why.",
    [
        sa.Column("run_id", Text, primary_key=True),
        sa.Column("customer_id", Text, primary_key=True),
        sa.Column("client_code", Text, nullable=False),  # the code exports show
        sa.Column("permitted", Bool, nullable=False),
        sa.Column("permission_reason", Text),
        sa.Column("scenario", Text),  # of the rank-1 item
        sa.Column("n_items", Int, nullable=False),
        sa.Column("audit_score", Int, nullable=False),
        sa.Column("eligible", Bool, nullable=False),
        sa.Column("reason", Text),  # permission reason, else first error, else first warning
        sa.Column("rules_version", Text, nullable=False),
    ],
)

review_decisions = _table(
    "review.decisions",
    "One row per decision that a person took on a recommended wine; of several on one item the newest.",
    [
        sa.Column("run_id", Text, primary_key=True),
        sa.Column("customer_id", Text, primary_key=True),
        sa.Column("wine_id", Text, primary_key=True),
        sa.Column("scenario", Text, primary_key=True),
        sa.Column("decision", Text, nullable=False),  # approve reject later
        sa.Column("rating", Int),  # 1..5
        sa.Column("comment", Text),
        sa.Column("reviewer", Text, nullable=False),
        sa.Column("decided_at", Stamp, nullable=False),
        sa.Column("origin", Text),  # row: on this very item; rest: approved with the rest of its scenario
        sa.Column("file_id", Text),  # of the workbook that said so; null: a command
    ],
)

review_samples = _table(
    "review.samples",
    "One row per customer whose items must all have been decided before a run under `review: sample` passes.",
    [
        sa.Column("run_id", Text, primary_key=True),
        sa.Column("customer_id", Text, primary_key=True),
        sa.Column("scenario", Text, nullable=False),  # of the rank-1 item: the stratum
    ],
)

review_applied = _table(
    "review.applied_decisions",
    "One row per item of a run on which a decision holds: taken on this run, or carried over from an earlier one.",
    [
        sa.Column("run_id", Text, primary_key=True),
        sa.Column("customer_id", Text, primary_key=True),
        sa.Column("wine_id", Text, primary_key=True),
        sa.Column("scenario", Text, nullable=False),
        sa.Column("decision", Text, nullable=False),  # approve reject later
        sa.Column("reviewer", Text, nullable=False),
        sa.Column("decided_at", Stamp, nullable=False),
        sa.Column("decided_run_id", Text, nullable=False),  # the run it was taken on
    ],
)

receipts = _table(
    "review.receipts",
    "One row per review workbook that came back: whose, on which run, and how much of it was taken.",
    [
        sa.Column("file_id", Text, primary_key=True),
        sa.Column("path", Text, nullable=False),  # as it was dropped first
        sa.Column("run_id", Text),  # null: it names none, or one that is not ours
        sa.Column("reviewer", Text),
        sa.Column("status", Text, nullable=False),  # read, or why the whole workbook was refused: a code
        sa.Column("modified_at", Stamp, nullable=False),
        sa.Column("read_at", Stamp, nullable=False),
        sa.Column("n_rows", BigInt, nullable=False),
        sa.Column("n_taken", BigInt, nullable=False),
        sa.Column("n_refused", BigInt, nullable=False),
        sa.Column("n_blank", BigInt, nullable=False),
        sa.Column("n_approved_rest", BigInt, nullable=False),  # items approved with the rest of their scenario
        sa.Column("unclear_rest", ARRAY(Text)),  # scenarios whose answer about the rest was neither yes nor no
        sa.Column("document", Text),  # the receipt as a file, relative to CRM_HOME
    ],
)

receipt_lines = _table(
    "review.receipt_lines",
    "One row per row of a returned workbook on which something was filled in: what was taken, or why not.",
    [
        sa.Column("file_id", Text, primary_key=True),
        sa.Column("source_line", BigInt, primary_key=True),  # row of the sheet
        sa.Column("run_id", Text),
        sa.Column("customer_id", Text),  # null where the key leads nowhere
        sa.Column("wine_id", Text),
        sa.Column("scenario", Text),
        sa.Column("decision", Text),  # as understood
        sa.Column("rating", Int),
        sa.Column("comment", Text),
        sa.Column("outcome", Text, nullable=False),  # TAKEN, or why not: logic.review.OUTCOMES
        sa.Column("before", Text),  # decision and digest of what the row went out with, as the workbook tells
        sa.Column("decided_at", Stamp),  # since when its reviewer says so
    ],
)


def _documents(name: str, comment: str, *more: sa.Column) -> sa.Table:
    return _table(
        name,
        comment,
        [
            sa.Column("run_id", Text, primary_key=True),  # whose results it shows
            sa.Column("path", Text, primary_key=True),  # relative to CRM_HOME, or absolute where the estate says
            *more,
            sa.Column("sha256", Text, nullable=False),
            sa.Column("size_bytes", BigInt, nullable=False),
            sa.Column("written_at", Stamp, nullable=False),
        ],
    )


review_workbooks = _documents(
    "review.workbooks",
    "One row per review workbook written for a run.",
    sa.Column("n_items", BigInt, nullable=False),
)

# --- activation, outcomes -------------------------------------------------------------------------------------

campaigns = _table(
    "activation.campaigns",
    "One row per occurrence of a campaign: the run it pins, the hash of its plan, and its mode.",
    [
        sa.Column("campaign", Text, primary_key=True),
        sa.Column("occurrence", Text, primary_key=True),  # once, or an ISO week
        sa.Column("step", Int, primary_key=True),
        sa.Column("run_id", Text, nullable=False),
        sa.Column("plan_hash", Text, nullable=False),
        sa.Column("audience", BigInt, nullable=False),
        sa.Column("holdout", BigInt, nullable=False),
        sa.Column("as_of", Date, nullable=False),
        sa.Column("planned_at", Stamp, nullable=False),
        sa.Column("expires_on", Date, nullable=False),
        sa.Column("kind", Text),  # reco event news
        sa.Column("channel", Text),  # email phone post
        sa.Column("template_hash", Text),  # of all templates and wordings that its messages are made with
        sa.Column("fetched_templates", JSONB),  # id of a template kept at Brevo -> content_hash, as it was checked
        sa.Column("status", Text, nullable=False, server_default="planned"),  # planned sending waiting done abandoned
        sa.Column("began_at", Stamp),  # first live call
        sa.Column("wait_until", Stamp),  # status waiting: goes on by itself from here on
        # RAMP_UP OUTSIDE_WINDOW CLOSED_DAY SETTLING THROTTLED NOT_CONNECTED; without wait_until: why a person must act
        sa.Column("wait_reason", Text),
        sa.Column("confirmed_by", Text),  # who let this exact plan go live
        sa.Column("confirmed_at", Stamp),
        sa.Column("ended_at", Stamp),
    ],
)

batches = _table(
    "activation.batches",
    "One row per batch of a planned campaign: 200 to 300 customers, the unit of planning and review.",
    [
        sa.Column("batch_id", Text, primary_key=True),
        sa.Column("campaign", Text, nullable=False),
        sa.Column("occurrence", Text, nullable=False),
        sa.Column("step", Int, nullable=False),
        sa.Column("batch_no", Int, nullable=False),
        sa.Column("run_id", Text, nullable=False),
        sa.Column("n_messages", BigInt, nullable=False),
        sa.Column("status", Text, nullable=False),  # planned superseded sent
    ],
)

messages = _table(
    "activation.messages",
    "One row per message planned for an address: the outbox. A message moves through states and is never repeated.",
    [
        sa.Column("message_id", Text, primary_key=True),
        sa.Column("campaign", Text, nullable=False),
        sa.Column("occurrence", Text, nullable=False),
        sa.Column("step", Int, nullable=False),
        sa.Column("address", Text, nullable=False),  # normalised e-mail
        sa.Column("customer_id", Text, nullable=False),
        sa.Column("run_id", Text, nullable=False),
        sa.Column("batch_id", Text),  # null for the holdout
        sa.Column("scenario", Text, nullable=False),
        sa.Column("wine_ids", ARRAY(Text), nullable=False),
        sa.Column("product_keys", ARRAY(Text), nullable=False),
        sa.Column("params", JSONB, nullable=False),
        sa.Column("status", Text, nullable=False),  # planned sending sent failed unknown superseded holdout
        sa.Column("planned_at", Stamp, nullable=False),
        sa.Column("sent_at", Stamp),  # when it left; of status sending or unknown: when it may have
        sa.Column("arm", Text),  # of an A/B test; null: none
        sa.Column("template", Text),  # kind of our own template, or brevo:<id>
        sa.Column("tag", Text),  # of the chunk that it is in; null while it has never been in one
        sa.Column("reason", Text),  # why it is superseded, failed or unknown: a code
        sa.Column("cluster_id", Text),  # of the customer when it was planned; null: in none
        sa.UniqueConstraint("campaign", "occurrence", "step", "address"),
        # What a send asks before each call, of a few hundred messages at a time.
        *(sa.Index(f"ix_messages_{name}", name) for name in ("address", "batch_id", "customer_id", "tag")),
    ],
)

chunks = _table(
    "activation.chunks",
    "One row per call of a live send, frozen with its bytes before the first try; (tag, address) is the message.",
    [
        sa.Column("tag", Text, primary_key=True),
        sa.Column("campaign", Text, nullable=False),
        sa.Column("occurrence", Text, nullable=False),
        sa.Column("step", Int, nullable=False),
        sa.Column("idempotency_key", Text, nullable=False),
        sa.Column("request_hash", Text, nullable=False),  # of the exact bytes in activation.payloads
        sa.Column("n_messages", BigInt, nullable=False),
        sa.Column("n_bytes", BigInt, nullable=False),
        sa.Column("split_from", Text),  # tag of the refused chunk whose half this is
        # sending accepted unknown rejected (dead-lettered) split released (not sent: its messages are planned again)
        sa.Column("status", Text, nullable=False),
        sa.Column("frozen_at", Stamp, nullable=False),
        sa.Column("first_tried_at", Stamp),
        sa.Column("unknown_since", Stamp),  # when its answer was lost, or found to be: every wait counts from here
        sa.Column("looks", Int, nullable=False, server_default="0"),  # at Brevo's log that found nothing of it
        sa.Column("looked_at", Stamp),
        sa.Column("settled_at", Stamp),
        sa.Column("settled_by", Text),  # answer, log, or the person who decided
    ],
)

attempts = _table(
    "activation.attempts",
    "One row per try of a call to Brevo that changes something, dry runs included: what was tried and how it ended.",
    [
        sa.Column("attempt_id", Text, primary_key=True),
        sa.Column("endpoint", Text),  # POST /smtp/email
        sa.Column("campaign", Text),  # null: no call of a campaign
        sa.Column("occurrence", Text),
        sa.Column("step", Int),
        sa.Column("tag", Text),  # one per chunk
        sa.Column("account", Text),  # where it was made: resources.brevo.Brevo.account; null: a dry run
        sa.Column("n_messages", BigInt, nullable=False),  # or rows, where it is no e-mail
        sa.Column("n_bytes", BigInt, nullable=False),
        sa.Column("request_hash", Text, nullable=False),
        sa.Column("is_dry_run", Bool, nullable=False),
        sa.Column("outcome", Text),  # accepted rejected not_sent unknown dry_run; null while under way
        sa.Column("reason", Text),  # of the outcome: resources.brevo.Reason
        sa.Column("http_status", Int),
        sa.Column("error_code", Text),  # Brevo's own
        sa.Column("answer_hash", Text),  # of the exact bytes in activation.payloads
        sa.Column("started_at", Stamp, nullable=False),
        sa.Column("ended_at", Stamp),
    ],
)

payloads = _table(
    "activation.payloads",
    "One row per exact text of a request to Brevo or of its answer; personal data, kept for `payload_days`.",
    [
        sa.Column("content_hash", Text, primary_key=True),  # SHA-256 of the bytes
        sa.Column("content", sa.LargeBinary, nullable=False),  # zlib
        sa.Column("kept_at", Stamp, nullable=False),
    ],
)

activation_contacts = _table(
    "activation.contacts",
    "One row per address known to Brevo: what it refused there, and what was last handed over of it.",
    [
        sa.Column("address", Text, primary_key=True),
        sa.Column("is_unsubscribed", Bool, nullable=False),  # emailBlacklisted: no campaigns
        sa.Column("is_blocked", Bool, nullable=False),  # in the sender's list of blocked transactional recipients
        sa.Column("blocked_reason", Text),  # code: unsubscribedViaEmail hardBounce contactFlaggedAsSpam …
        sa.Column("refused_at", Stamp),  # as Brevo dates it
        # What Brevo said last; null: never asked. The two above stay true whatever it says later (spec.md §3).
        sa.Column("is_unsubscribed_now", Bool),
        sa.Column("is_blocked_now", Bool),
        sa.Column("tracking_consent", Bool),  # opens and clicks may be followed; null: nobody knows
        sa.Column("row_hash", Text),  # of the attributes last accepted by Brevo; null: never handed over
        sa.Column("list_ids", ARRAY(BigInt)),  # our lists that it was in after the last sync
        sa.Column("updated_at", Stamp, nullable=False),
    ],
)

contact_lists = _table(
    "activation.contact_lists",
    "One row per list at Brevo that we keep: everybody handed over, those of a segment, those of a scenario.",
    [
        sa.Column("list_key", Text, primary_key=True),  # all, segment:Champions, scenario:rebuy
        sa.Column("list_id", BigInt, nullable=False),  # Brevo's
        sa.Column("name", Text, nullable=False),
        sa.Column("created_at", Stamp, nullable=False),
    ],
)

brevo_templates = _table(
    "activation.brevo_templates",
    "One row per content of a template kept at Brevo, as it was fetched and checked.",
    [
        sa.Column("template_id", BigInt, primary_key=True),
        sa.Column("content_hash", Text, primary_key=True),  # of subject and HTML
        sa.Column("name", Text, nullable=False),
        sa.Column("subject", Text, nullable=False),
        sa.Column("html", Text, nullable=False),
        sa.Column("problems", ARRAY(Text), nullable=False),  # what a message must have and this lacks
        sa.Column("fetched_at", Stamp, nullable=False),
    ],
)

test_sends = _table(
    "activation.test_sends",
    "One row per test of a campaign's templates, sent to the estate's own test addresses; accepted by a named person.",
    [
        sa.Column("test_id", Text, primary_key=True),
        sa.Column("campaign", Text, nullable=False),
        sa.Column("template_hash", Text, nullable=False),
        sa.Column("n_addresses", Int, nullable=False),
        sa.Column("outcome", Text, nullable=False),  # accepted rejected not_sent unknown
        sa.Column("sent_at", Stamp, nullable=False),
        sa.Column("accepted_by", Text),
        sa.Column("accepted_at", Stamp),
    ],
)

instances = _table(
    "activation.instances",
    "One row: the instance that may send live. CRM_HOME holds its twin; where they differ, live is disarmed.",
    [
        sa.Column("is_the_one", Bool, primary_key=True),  # true: one row at most
        sa.Column("instance_id", Text, nullable=False),
        sa.Column("mark", BigInt, nullable=False),  # grows with every live call, here before it is made
        sa.Column("armed_by", Text, nullable=False),
        sa.Column("armed_at", Stamp, nullable=False),
        sa.Column("identity", JSONB),  # machine, CRM_HOME, server and database that it was armed on, as hashes
    ],
)

armings = _table(
    "activation.armings",
    "One row per time that live sending was armed again, or asked to be: by whom, why, and what Brevo's log gave back.",
    [
        sa.Column("arming_id", Text, primary_key=True),
        sa.Column("asked_by", Text, nullable=False),
        sa.Column("asked_at", Stamp, nullable=False),
        sa.Column("cause", Text, nullable=False),  # why it was disarmed, as it was said
        sa.Column("read_from", Stamp),  # Brevo's log was read back from here on
        sa.Column("n_log", BigInt),  # messages of ours that the log names
        sa.Column("n_marked_sent", BigInt),  # of them, messages of the ledger that it did not have as sent
        sa.Column("n_added", BigInt),  # of them, messages that the ledger did not have at all
        sa.Column("armed_at", Stamp),  # null: not armed, it has to be asked for again
    ],
)

interventions = _table(
    "activation.interventions",
    "One row per decision of a person on messages of an occurrence: tried again, given up, or said to be sent or not.",
    [
        sa.Column("intervention_id", Text, primary_key=True),
        sa.Column("campaign", Text, nullable=False),
        sa.Column("occurrence", Text, nullable=False),
        sa.Column("step", Int, nullable=False),
        sa.Column("tag", Text),  # of the chunk that was decided on
        sa.Column("what", Text, nullable=False),  # retry abandon sent failed
        sa.Column("n_messages", BigInt, nullable=False),
        sa.Column("decided_by", Text, nullable=False),
        sa.Column("decided_at", Stamp, nullable=False),
    ],
)

pulls = _table(
    "activation.pulls",
    "One row per kind of news fetched from Brevo: until when it has been read, and whether the last try succeeded.",
    [
        sa.Column("feed", Text, primary_key=True),  # events blocked contacts campaigns
        sa.Column("read_until", Stamp),  # everything before is here; null: never read
        sa.Column("tried_at", Stamp, nullable=False),
        sa.Column("problem", Text),  # of the last try: why it failed, or what it could not tell; null: none
        sa.Column("n_rows", BigInt, nullable=False),
        sa.Column("n_failures", Int, nullable=False, server_default="0"),  # tries that failed since the last good one
        sa.Column("account", Text),  # at Brevo, that was read: another one's cursor says nothing
    ],
)

pauses = _table(
    "activation.pauses",
    "One row per stop of a campaign (campaign '*': all of them): who or what stopped it, and until when.",
    [
        sa.Column("pause_id", Text, primary_key=True),
        sa.Column("campaign", Text, nullable=False),
        sa.Column("reason", Text, nullable=False),
        sa.Column("paused_by", Text, nullable=False),
        sa.Column("paused_at", Stamp, nullable=False),
        sa.Column("resumed_at", Stamp),
        sa.Column("resumed_by", Text),
    ],
)

call_lists = _table(
    "activation.call_lists",
    "One row per person of a phone or postal campaign, ready to be called or written to by hand.",
    [
        sa.Column("message_id", Text, primary_key=True),  # of activation.messages
        sa.Column("campaign", Text, nullable=False),
        sa.Column("occurrence", Text, nullable=False),
        sa.Column("step", Int, nullable=False),
        sa.Column("path", Text, nullable=False),  # the workbook that it stands in, relative to CRM_HOME
        sa.Column("written_at", Stamp, nullable=False),
    ],
)

notices = _table(
    "activation.notices",
    "One row per outgoing webhook message and endpoint: what happened, and whether the endpoint has taken it.",
    [
        sa.Column("notice_id", Text, primary_key=True),
        sa.Column("event", Text, nullable=False),  # run.finished gate.closed campaign.sent customer.at_risk
        sa.Column("endpoint", Text, nullable=False),  # host of the URL: the path may be a secret
        sa.Column("endpoint_key", Text, nullable=False),  # of the whole URL: logic.notices.endpoint_key
        sa.Column("payload", JSONB, nullable=False),  # codes and counts
        sa.Column("status", Text, nullable=False),  # waiting delivered given_up refused
        sa.Column("tries", Int, nullable=False),
        sa.Column("created_at", Stamp, nullable=False),
        sa.Column("next_try_at", Stamp),
        sa.Column("last_status", Int),  # HTTP
        sa.Column("last_problem", Text),  # a code: logic.notices.PROBLEMS
        sa.Column("ended_at", Stamp),
    ],
)

events = _table(
    "outcomes.events",
    "One row per delivery event of a really sent message, duplicates collapsed.",
    [
        sa.Column("event_key", Text, primary_key=True),
        sa.Column("address", Text, nullable=False),
        sa.Column("tag", Text),
        sa.Column(
            "event", Text, nullable=False
        ),  # of logic.events: sent delivered opened clicked soft_bounce hard_bounce unsubscribed spam …
        sa.Column("occurred_at", Stamp, nullable=False),
        sa.Column("campaign", Text),
        sa.Column("channel", Text, nullable=False),
        sa.Column("occurrence", Text),  # of our tag
        sa.Column("step", Int),
        sa.Column("message_ref", Text),  # Brevo's message id
        sa.Column("link", Text),
        sa.Column("reason", Text),
        sa.Column("is_machine", Bool),  # opened by a mail proxy, not by a person
        sa.Column("origin", Text),  # poll webhook
        sa.Column("read_at", Stamp),
        *(sa.Index(f"ix_events_{name}", name) for name in ("address", "tag")),
    ],
)

received = _table(
    "outcomes.received",
    "One row per body that Brevo posted to the webhook receiver, as it came; kept for `payload_days`.",
    [
        sa.Column("content_hash", Text, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("received_at", Stamp, nullable=False),
        sa.Column("read_at", Stamp),  # its events stand in outcomes.events
        sa.Column("problem", Text),  # why it could not be read, without what it says
    ],
)

brevo_campaigns = _table(
    "outcomes.brevo_campaigns",
    "One row per campaign sent from Brevo's own screens: its contacts count as contacts too.",
    [
        sa.Column("campaign_id", BigInt, primary_key=True),
        sa.Column("name", Text, nullable=False),
        sa.Column("status", Text, nullable=False),
        sa.Column("sent_at", Stamp),
        sa.Column("n_recipients", BigInt),
        sa.Column("has_recipients", Bool, nullable=False),  # whether who got it could be read
        sa.Column("process_id", BigInt),  # Brevo's, of the export of its recipients that is under way
        sa.Column("read_at", Stamp, nullable=False),
    ],
)

exports_written = _documents("reports.exports", "One row per export file written of a run: CSV and JSON.")

weekly_reports = _documents(
    "reports.weekly_reports",
    "One row per file of a weekly report: HTML, PDF, XLSX.",
    sa.Column("week", Text, nullable=False),  # ISO week of the as-of date: 2025-W52
    sa.Column("n_at_risk", BigInt),  # customers at risk that it told of: the next one compares
)

monthly_reports = _documents(
    "reports.monthly_reports",
    "One row per file of a monthly report: HTML, PDF, XLSX.",
    sa.Column("month", Text, nullable=False),  # the month told of: 2025-12
)

mailings = _table(
    "reports.mailings",
    "One row per report, period and recipient: when it was handed to the mail server. Nobody gets one twice.",
    [
        sa.Column("kind", Text, primary_key=True),  # weekly monthly
        sa.Column("period", Text, primary_key=True),  # 2025-W52, 2025-12
        sa.Column("recipient_hash", Text, primary_key=True),  # first 16 hex of the SHA-256 of the address
        sa.Column("run_id", Text, nullable=False),
        sa.Column("sha256", Text, nullable=False),  # of the HTML
        sa.Column("status", Text, nullable=False),  # sending sent failed (tried again) unknown (a person decides)
        sa.Column("sent_at", Stamp, nullable=False),
    ],
)

# --- the control database: no personal data, one connection for all tenants ------------------------------------

file_drops = _table(
    "watch.drops",
    "One row per tenant: the drop folder's last settled state, and which state was asked for and landed.",
    [
        sa.Column("tenant", Text, primary_key=True),
        sa.Column("looked_fingerprint", Text),
        sa.Column("requested_fingerprint", Text),
        sa.Column("landed_fingerprint", Text),
        sa.Column("exports_fingerprint", Text),  # of what has landed, the review workbooks aside
        sa.Column("request_no", BigInt, nullable=False, server_default="0"),  # grows: run keys never repeat
        sa.Column("tries", Int, nullable=False, server_default="0"),
        sa.Column("requested_at", Stamp),
    ],
    owner=control,
)

alerts = _table(
    "alerts.causes",
    "One row per cause of an alert and tenant: open until the cause is gone.",
    [
        sa.Column("tenant", Text, primary_key=True),
        sa.Column("cause", Text, primary_key=True),
        sa.Column("message", Text, nullable=False),
        sa.Column("occurrences", BigInt, nullable=False),
        sa.Column("opened_at", Stamp, nullable=False),
        sa.Column("last_seen_at", Stamp, nullable=False),
        sa.Column("recovered_at", Stamp),
    ],
    owner=control,
)


buckets = _table(
    "brevo.buckets",
    "One row per Brevo account and rate-limited group of endpoints: what its headers last said, shared by all runs.",
    [
        sa.Column("account", Text, primary_key=True),  # resources.brevo.Brevo.account
        sa.Column("bucket", Text, primary_key=True),
        sa.Column("next_at", Stamp, nullable=False),  # earliest moment of the next call
        sa.Column("remaining", BigInt),  # as the last answer said
        sa.Column("resets_at", Stamp),
        sa.Column("updated_at", Stamp, nullable=False),
    ],
    owner=control,
)


def table(schema: str, name: str) -> sa.Table:
    """The tenant table `schema.name`; KeyError when Python does not own it."""
    return metadata.tables[f"{schema}.{name}"]


def json_text(value: Any) -> str:
    """A value as the text of a jsonb column, keys sorted: the same value is the same text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
