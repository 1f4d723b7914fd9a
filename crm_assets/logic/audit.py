"""The audit: may we write to this person, and is what we would write right? (spec.md §6)

Three plain computations over frames: permission (is there a right to write, not scored), the fifteen audit
rules (`RULES`, in the order of the spec, each one small function), and the circuit breaker's scores of the
tenant's data. The audit trusts nobody: it takes any recommendation list and must find what is wrong in it. No
SQL, no clock, no writing here; whether anything is sent is decided by `logic/gate.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

ERROR, WARN = "ERROR", "WARN"

# fmt: off
FACT_COLUMNS = [
    "customer_id", "client_code", "population", "type", "status", "is_collective", "opt_in", "opt_in_date",
    "opt_in_source", "n_qualifying_orders", "email", "email_status", "is_email_contact", "is_refused",
    "is_bounced", "last_contact_date", "contacts_90d", "last_order_date", "last_engagement_date",
    "birth_date", "country", "price_75cl_ttc", "dominant_sweetness",
]
ITEM_COLUMNS = ["customer_id", "wine_id", "product_key", "scenario", "rank", "confidence"]
PRODUCT_COLUMNS = [
    "product_key", "wine_id", "kind", "family", "sweetness", "price_75cl_ttc", "stock_status", "is_active",
    "is_archived", "is_inferred",
]
# fmt: on
FINDING_COLUMNS = ["customer_id", "rule_code", "product_key", "rule_no", "severity", "details"]

# Permission reasons in the order in which they are given (spec.md §6): the first that holds is the reason.
PERMISSION_REASONS = (
    "NO_LEGAL_BASIS",
    "OBJECTED",
    "DO_NOT_CONTACT",
    "MINOR",
    "COUNTRY_NOT_ALLOWED",
    "INACTIVE_3Y",
    "RECENT_ORDER",
    "COLLECTIVE",
)
# Statuses that bar every channel; `moved` bars post only.
BARRING_STATUSES = ("deceased", "do_not_contact", "dispute")


@dataclass(frozen=True)
class AuditInput:
    """What a rule may look at.

    `facts`: one row per customer, with `days_since_contact` and `has_items` beside the columns of
    audit.customer_facts. `items`: one row per recommended item, ordered by customer and rank, with the
    product's `family`, `sweetness`, `price_75cl_ttc` …, `wine` (the product's own wine_id where the catalogue
    knows it), `bought_days` and `sent_days` (days since that wine was last bought or sent, NaN when never)
    and `copies` (rows of the same wine in the customer's list).
    """

    facts: pd.DataFrame
    items: pd.DataFrame
    rules: BusinessRules


@dataclass(frozen=True)
class AuditResult:
    """`findings` (FINDING_COLUMNS), `scores` (one row per customer), `permissions` (one row per customer)."""

    findings: pd.DataFrame
    scores: pd.DataFrame
    permissions: pd.DataFrame


@dataclass(frozen=True)
class Rule:
    """One audit rule. `find` returns customer_id, details, and product_key where it is about an item."""

    number: int
    code: str
    severity: str
    find: Callable[[AuditInput], pd.DataFrame]


RULES: list[Rule] = []
# Errors at the address or the person: what matters whatever the message is about (spec.md §7: 8 to 15 are
# reco only).
LAST_RULE_OF_ANY_MESSAGE = 7
# What a send checks again on current data (spec.md §6).
LAST_RULE_RECHECKED_AT_SEND = 9


def _rule(number: int, code: str, severity: str) -> Callable[[Callable[[AuditInput], pd.DataFrame]], Rule]:
    def register(find: Callable[[AuditInput], pd.DataFrame]) -> Rule:
        rule = Rule(number, code, severity, find)
        RULES.append(rule)
        return rule

    return register


def _flag(values: pd.Series) -> pd.Series:
    """A boolean column without nulls: unknown is false."""
    return values.astype("boolean").fillna(False).astype(bool)


def _days_since(values: pd.Series, as_of: date) -> pd.Series:
    """Days from each date to `as_of`, NaN where there is none."""
    return (pd.Timestamp(as_of) - pd.to_datetime(values)).dt.days.astype("float64")


def _whole(values: pd.Series) -> pd.Series:
    return values.astype("int64").astype(str)


def _decimal(values: pd.Series, places: int) -> pd.Series:
    return values.map(f"{{:.{places}f}}".format).astype("str")


def _found(rows: pd.DataFrame, details: pd.Series | str) -> pd.DataFrame:
    columns = [name for name in ("customer_id", "product_key") if name in rows.columns]
    return rows[columns].assign(details=details)


@_rule(1, "MISSING_EMAIL", ERROR)
def missing_email(given: AuditInput) -> pd.DataFrame:
    """No e-mail address."""
    facts = given.facts
    rows = facts.loc[facts["email_status"] == "missing", ["customer_id"]]
    return _found(rows, "no e-mail address")


@_rule(2, "INVALID_EMAIL", ERROR)
def invalid_email(given: AuditInput) -> pd.DataFrame:
    """An address is given and is none."""
    facts = given.facts
    rows = facts.loc[facts["email_status"] == "invalid", ["customer_id"]]
    return _found(rows, "the e-mail address given is not valid")


@_rule(3, "DUPLICATE_EMAIL", ERROR)
def duplicate_email(given: AuditInput) -> pd.DataFrame:
    """The address has another contact: one person is written to per address."""
    facts = given.facts
    rows = facts.loc[(facts["email_status"] == "valid") & ~_flag(facts["is_email_contact"]), ["customer_id"]]
    return _found(rows, "another customer is the contact of this address")


@_rule(4, "OPT_OUT", ERROR)
def opt_out(given: AuditInput) -> pd.DataFrame:
    """The address refused, in any source, or is unsubscribed or blocklisted at Brevo."""
    facts = given.facts
    return _found(facts.loc[_flag(facts["is_refused"]), ["customer_id"]], "the address refused messages")


@_rule(5, "BOUNCED", ERROR)
def bounced(given: AuditInput) -> pd.DataFrame:
    """Hard bounce, blocked, invalid or spam complaint, of any age."""
    facts = given.facts
    return _found(facts.loc[_flag(facts["is_bounced"]), ["customer_id"]], "the address bounced or complained")


@_rule(6, "SILENCE_WINDOW", ERROR)
def silence_window(given: AuditInput) -> pd.DataFrame:
    """The address was contacted less than `silence_days` ago."""
    limit = given.rules.audit.silence_days
    rows = given.facts.loc[given.facts["days_since_contact"] < limit, ["customer_id", "days_since_contact"]]
    days = _whole(rows["days_since_contact"])
    return _found(rows, "last contact " + days + f" days ago; silence lasts {limit} days")


@_rule(7, "MARKETING_FATIGUE", ERROR)
def marketing_fatigue(given: AuditInput) -> pd.DataFrame:
    """The address had `fatigue_contacts` contacts or more in `fatigue_days`."""
    audit = given.rules.audit
    contacts = given.facts["contacts_90d"].fillna(0)
    rows = given.facts.loc[contacts >= audit.fatigue_contacts, ["customer_id", "contacts_90d"]]
    limit = f" contacts in {audit.fatigue_days} days; {audit.fatigue_contacts} are too many"
    return _found(rows, _whole(rows["contacts_90d"]) + limit)


@_rule(8, "RECENT_DUPLICATE", ERROR)
def recent_duplicate(given: AuditInput) -> pd.DataFrame:
    """The item's wine was bought, or was in a really sent message, less than `duplicate_days` ago, or is
    listed twice.
    """
    items, limit = given.items, given.rules.audit.duplicate_days
    recently_bought, recently_sent = items["bought_days"] < limit, items["sent_days"] < limit
    twice = items["copies"] > 1
    rows = items[recently_bought | recently_sent | twice]
    window = f" days ago; the window is {limit} days"
    details = "the same wine stands " + _whole(rows["copies"]) + " times in the list"
    details = details.mask(recently_sent[rows.index], "sent " + _whole(rows["sent_days"].fillna(0)) + window)
    details = details.mask(recently_bought[rows.index], "bought " + _whole(rows["bought_days"].fillna(0)) + window)
    return _found(rows, details)


@_rule(9, "UNAVAILABLE_PRODUCT", ERROR)
def unavailable_product(given: AuditInput) -> pd.DataFrame:
    """The product cannot be sold: unknown, another wine than announced, inactive, archived, out of stock, not
    a wine.
    """
    items = given.items
    kinds = given.rules.products.recommendable_kinds
    causes = {
        "not in the catalogue": ~items["is_known"],
        "the product is another wine than the item says": items["is_known"] & (items["wine_id"] != items["wine"]),
        "not in the catalogue: only seen in sales": items["is_inferred"],
        "archived": items["is_archived"],
        "inactive": ~items["is_active"],
        "out of stock": items["stock_status"] == "out",
        "not a kind that is recommended": ~items["kind"].isin(kinds),
        "without a price": items["price_75cl_ttc"].isna(),
    }
    conditions = [np.asarray(condition, dtype=bool) for condition in causes.values()]
    cause = pd.Series(np.select(conditions, list(causes), default=""), index=items.index, dtype="str")
    return _found(items[cause != ""], cause[cause != ""])


@_rule(10, "UPSELL_NOT_HIGHER", ERROR)
def upsell_not_higher(given: AuditInput) -> pd.DataFrame:
    """An upsell whose TTC price per 75 cl is not above the customer's."""
    items = given.items
    rows = items[(items["scenario"] == "upsell") & (items["price_75cl_ttc"] <= items["customer_price"])]
    prices = (
        _decimal(rows["price_75cl_ttc"], 2) + " EUR per 75 cl; the customer pays " + _decimal(rows["customer_price"], 2)
    )
    return _found(rows, prices)


@_rule(11, "NO_RECOMMENDATION", ERROR)
def no_recommendation(given: AuditInput) -> pd.DataFrame:
    """Nothing to send."""
    return _found(given.facts.loc[~given.facts["has_items"], ["customer_id"]], "nothing to send")


@_rule(12, "CROSS_SELL_NOT_NEW", WARN)
def cross_sell_not_new(given: AuditInput) -> pd.DataFrame:
    """A cross-sell of a wine bought before."""
    items = given.items
    rows = items[(items["scenario"] == "cross_sell") & items["bought_days"].notna()]
    return _found(rows, "bought before, " + _whole(rows["bought_days"]) + " days ago")


@_rule(13, "LOW_DIVERSITY", WARN)
def low_diversity(given: AuditInput) -> pd.DataFrame:
    """A list of `diversity_min_items` or more, of which one family is more than `diversity_max_share`."""
    items, audit = given.items, given.rules.audit
    sizes = items.groupby("customer_id", sort=False).size()
    largest = (
        items.groupby(["customer_id", "family"], sort=False, observed=True)
        .size()
        .groupby(level="customer_id", sort=False)
        .max()
        .reindex(sizes.index)
        .fillna(0)
    )
    low = (sizes >= audit.diversity_min_items) & (largest / sizes > audit.diversity_max_share)
    rows = pd.DataFrame(
        {"customer_id": sizes.index[low], "largest": largest[low].to_numpy(), "n": sizes[low].to_numpy()}
    )
    details = _whole(rows["largest"]) + " of " + _whole(rows["n"]) + " items are of one family"
    return _found(rows, details)


@_rule(14, "SUGAR_MISMATCH", WARN)
def sugar_mismatch(given: AuditInput) -> pd.DataFrame:
    """An item of another sweetness than most of what the customer buys; only the first such item counts."""
    items = given.items
    known = items["sweetness"].notna() & items["dominant_sweetness"].notna()
    differs = known & (items["sweetness"].astype("str") != items["dominant_sweetness"].astype("str"))
    rows = items[differs].drop_duplicates("customer_id")
    return _found(rows, rows["sweetness"].astype("str") + "; mostly buys " + rows["dominant_sweetness"].astype("str"))


@_rule(15, "LOW_CONFIDENCE", WARN)
def low_confidence(given: AuditInput) -> pd.DataFrame:
    """The first item's confidence is below `low_confidence`."""
    limit = given.rules.audit.low_confidence
    first = given.items.drop_duplicates("customer_id")
    rows = first[~(first["confidence"] >= limit)]
    return _found(rows, "confidence " + _decimal(rows["confidence"].fillna(0), 3) + f", below {limit:.2f}")


SEVERITIES = {rule.code: rule.severity for rule in RULES}
NUMBERS = {rule.code: rule.number for rule in RULES}


def _pair_days(items: pd.DataFrame, history: pd.DataFrame, day_column: str, as_of: date) -> np.ndarray:
    """For each item, days from the last `day_column` of its (customer_id, wine) in `history` to `as_of`, NaN
    if never.

    Works on integer codes: joining two million text pairs costs seconds, joining their codes a fraction.
    """
    customers = pd.Index(items["customer_id"].unique())
    wines = pd.Index(items["wine"].dropna().unique())
    customer_code = customers.get_indexer(pd.Index(history["customer_id"]))
    known = customer_code >= 0
    history, customer_code = history[known], customer_code[known]
    wine_code = wines.get_indexer(pd.Index(history["wine_id"]))
    known = wine_code >= 0
    days = _days_since(history.loc[known, day_column], as_of).clip(lower=0)
    last = days.groupby(customer_code[known].astype("int64") * len(wines) + wine_code[known]).min()
    item_wine = wines.get_indexer(pd.Index(items["wine"]))
    item_code = customers.get_indexer(pd.Index(items["customer_id"])).astype("int64") * len(wines) + item_wine
    return np.where(item_wine >= 0, last.reindex(item_code).to_numpy(), np.nan)


def _audit_input(
    items: pd.DataFrame,
    facts: pd.DataFrame,
    products: pd.DataFrame,
    customer_wines: pd.DataFrame,
    sent_wines: pd.DataFrame,
    rules: BusinessRules,
    as_of: date,
) -> AuditInput:
    facts = facts.assign(
        days_since_contact=_days_since(facts["last_contact_date"], as_of).clip(lower=0),  # after the as-of: age 0
        has_items=pd.Index(items["customer_id"].unique()).get_indexer(pd.Index(facts["customer_id"])) >= 0,
        email_status=facts["email_status"].where(facts["email_status"].notna(), "missing"),
    )
    catalogue = products[PRODUCT_COLUMNS].drop_duplicates("product_key").rename(columns={"wine_id": "wine"})
    catalogue["is_known"] = True
    items = (
        items[ITEM_COLUMNS]
        .sort_values(["customer_id", "rank", "product_key"], kind="stable")
        .merge(catalogue, on="product_key", how="left", validate="many_to_one")
        .merge(
            facts[["customer_id", "price_75cl_ttc", "dominant_sweetness"]].rename(
                columns={"price_75cl_ttc": "customer_price"}
            ),
            on="customer_id",
            how="left",
            validate="many_to_one",
        )
    )
    # Where the catalogue knows the product, its own wine decides what was bought before: the list may lie.
    items["wine"] = items["wine"].where(items["wine"].notna(), items["wine_id"])
    items["product_key"] = items["product_key"].where(items["product_key"].notna(), "")
    for name in ("is_known", "is_active", "is_archived", "is_inferred"):
        items[name] = _flag(items[name])
    items["bought_days"] = _pair_days(items, customer_wines, "last_date", as_of)
    items["sent_days"] = _pair_days(items, sent_wines, "sent_date", as_of)
    items["copies"] = items.groupby(["customer_id", "wine"], sort=False, dropna=False)["rank"].transform("size")
    return AuditInput(facts, items, rules)


def everyone(customer_facts: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """The customers to audit: those of customer_facts, and any other the list writes to, of whom nothing is
    known.
    """
    facts = customer_facts[FACT_COLUMNS]
    listed = pd.Index(items["customer_id"].unique())
    strangers = listed[pd.Index(facts["customer_id"]).get_indexer(listed) < 0]
    if strangers.empty:
        return facts.reset_index(drop=True)
    ids = facts["customer_id"].tolist() + strangers.tolist()
    people = facts.set_index("customer_id").reindex(ids).reset_index()
    return people.assign(client_code=people["client_code"].fillna(people["customer_id"]))


def findings(
    items: pd.DataFrame,
    customer_facts: pd.DataFrame,
    products: pd.DataFrame,
    customer_wines: pd.DataFrame,
    sent_wines: pd.DataFrame,
    rules: BusinessRules,
    as_of: date,
) -> pd.DataFrame:
    """Every rule that is broken: FINDING_COLUMNS, product_key '' where the rule is about the customer.

    `items` rows of recommendations.items; `customer_facts` of audit.customer_facts; `products` of
    curated.dim_products; `customer_wines` of rfm.customer_wines (customer_id, wine_id, last_date);
    `sent_wines` customer_id, wine_id, sent_date of really sent messages.
    """
    given = _audit_input(items, everyone(customer_facts, items), products, customer_wines, sent_wines, rules, as_of)
    parts = []
    for rule in RULES:
        part = rule.find(given)
        if "product_key" not in part:
            part = part.assign(product_key="")
        parts.append(part.assign(rule_code=rule.code, rule_no=rule.number, severity=rule.severity)[FINDING_COLUMNS])
    found = pd.concat(parts, ignore_index=True)
    found = found.drop_duplicates(["customer_id", "rule_code", "product_key"])
    return found.sort_values(["customer_id", "rule_no", "product_key"], kind="stable").reset_index(drop=True)


def scores(found: pd.DataFrame, customer_ids: pd.Series, rules: BusinessRules) -> pd.DataFrame:
    """One row per customer: n_errors, n_warnings, audit_score, first_rule (spec.md §6), rules_version.

    audit_score = max(0, 100 - error_points x errors - warning_points x warnings); every finding counts.
    """
    ids = pd.Index(pd.unique(customer_ids), name="customer_id")

    def count(severity: str) -> pd.Series:
        return (
            found.loc[found["severity"] == severity, "customer_id"]
            .value_counts()
            .reindex(ids)
            .fillna(0)
            .astype("int64")
        )

    n_errors, n_warnings = count(ERROR), count(WARN)
    # Rules are numbered errors first, so the lowest number is the first error, else the first warning.
    first = (
        found.sort_values("rule_no", kind="stable").drop_duplicates("customer_id").set_index("customer_id")["rule_code"]
    )
    lost = rules.audit.error_points * n_errors + rules.audit.warning_points * n_warnings
    return pd.DataFrame(
        {
            "customer_id": ids,
            "n_errors": n_errors.to_numpy(),
            "n_warnings": n_warnings.to_numpy(),
            "audit_score": (100 - lost).clip(lower=0).to_numpy(),
            "first_rule": first.reindex(ids).to_numpy(),
            "rules_version": rules.version,
        }
    )


def permissions(customer_facts: pd.DataFrame, tenant: Tenant, rules: BusinessRules, as_of: date) -> pd.DataFrame:
    """One row per customer: customer_id, permitted, permission_reason (null when permitted; spec.md §6).

    A customer without a country is taken to live in the tenant's. A prospect without any order or engagement
    is inactive when the opt-in itself is older than `inactive_days`.
    """
    facts, limits = customer_facts, rules.permission
    opted_in = (
        _flag(facts["opt_in"])
        & facts["opt_in_source"].notna()
        & (_days_since(facts["opt_in_date"], as_of) >= 0)  # not known before its day; false without a date
    )
    is_customer = (facts["n_qualifying_orders"].fillna(0) > 0) & tenant.existing_customer_basis
    is_trade = facts["type"].isin(limits.wine_trade_types) & limits.professional_basis
    last_order = _days_since(facts["last_order_date"], as_of)
    last_sign = pd.concat([last_order, _days_since(facts["last_engagement_date"], as_of)], axis=1).min(axis=1)
    last_sign = last_sign.fillna(_days_since(facts["opt_in_date"], as_of))
    country = facts["country"].where(facts["country"].notna(), tenant.country)
    born = pd.to_datetime(facts["birth_date"])
    birthday_to_come = (born.dt.month * 100 + born.dt.day) > as_of.month * 100 + as_of.day
    age = as_of.year - born.dt.year - birthday_to_come
    holds = {
        "NO_LEGAL_BASIS": ~(opted_in | is_customer | is_trade),
        "OBJECTED": _flag(facts["is_refused"]),
        "DO_NOT_CONTACT": facts["status"].isin(BARRING_STATUSES),
        "MINOR": age < limits.adult_age,
        "COUNTRY_NOT_ALLOWED": ~country.isin(tenant.send_countries),
        "INACTIVE_3Y": last_sign > limits.inactive_days,
        "RECENT_ORDER": last_order < limits.recent_order_days,
        "COLLECTIVE": _flag(facts["is_collective"]),
    }
    conditions = [np.asarray(holds[reason], dtype=bool) for reason in PERMISSION_REASONS]
    reason = np.select(conditions, list(PERMISSION_REASONS), default="")
    permitted = reason == ""
    return pd.DataFrame(
        {
            "customer_id": facts["customer_id"].to_numpy(),
            "permitted": permitted,
            "permission_reason": pd.Series(reason, dtype="str").where(~permitted),
        }
    )


def audit(
    items: pd.DataFrame,
    customer_facts: pd.DataFrame,
    products: pd.DataFrame,
    customer_wines: pd.DataFrame,
    sent_wines: pd.DataFrame,
    tenant: Tenant,
    rules: BusinessRules,
    as_of: date,
) -> AuditResult:
    """The whole audit of a list: findings, a score and a permission per customer."""
    found = findings(items, customer_facts, products, customer_wines, sent_wines, rules, as_of)
    people = everyone(customer_facts, items)
    return AuditResult(found, scores(found, people["customer_id"], rules), permissions(people, tenant, rules, as_of))


@dataclass(frozen=True)
class Breaker:
    """The state of the tenant's data: `score` 0..100, whether it trips, and the ERROR checks at 0."""

    score: float
    tripped: bool
    failed_checks: tuple[str, ...]


def data_quality(measures: pd.DataFrame, rules: BusinessRules) -> pd.DataFrame:
    """One row per circuit-breaker check: check_code, severity, weight, bad, total, tolerance, score (spec.md
    §6).

    `measures`: check_code, bad, total of audit.quality_measures. score = 100 x (1 - min(1, (bad / total) /
    tolerance)). Nothing to measure (0 of 0) is no fault; something bad of nothing, or a null, scores 0.
    """
    settings = rules.circuit_breaker
    measured = measures.drop_duplicates("check_code").set_index("check_code")
    absent = sorted(set(settings.tolerances) - set(measured.index))
    if absent:
        raise ValueError(f"audit.quality_measures has no row for: {', '.join(absent)}")
    quality = pd.DataFrame(
        [
            {
                "check_code": code,
                "severity": t.severity,
                "weight": settings.weights[t.severity],
                "tolerance": t.tolerance,
            }
            for code, t in settings.tolerances.items()
        ]
    )
    quality["bad"] = measured["bad"].reindex(quality["check_code"]).to_numpy(dtype="float64")
    quality["total"] = measured["total"].reindex(quality["check_code"]).to_numpy(dtype="float64")
    bad, total = quality["bad"], quality["total"]
    ratio = pd.Series(np.where(total > 0, bad / total.where(total > 0, 1), np.where(bad == 0, 0.0, 1.0)))
    used = (ratio / quality["tolerance"]).round(9)  # 0.3 / 0.3 must be 1 however the division went
    quality["score"] = (100 * (1 - used.clip(lower=0, upper=1))).fillna(0.0)
    quality[["bad", "total"]] = quality[["bad", "total"]].fillna(0.0)
    return quality[["check_code", "severity", "weight", "bad", "total", "tolerance", "score"]]


def breaker(quality: pd.DataFrame, rules: BusinessRules) -> Breaker:
    """Trips when the weighted score is below `min_score`, or any ERROR check is 0."""
    score = round(float(np.average(quality["score"], weights=quality["weight"])), 6)
    failed = tuple(quality.loc[(quality["severity"] == ERROR) & (quality["score"] <= 0), "check_code"])
    return Breaker(score, score < rules.circuit_breaker.min_score or bool(failed), failed)
