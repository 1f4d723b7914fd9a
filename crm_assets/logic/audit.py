"""The audit: may we write to this person, and is what we would write right? (spec.md §6)

Three plain computations over frames: permission (is there a right to write, not scored; `REASONS`), the fifteen audit
rules (`RULES`), and the circuit breaker's scores of the tenant's data. Each reason and each rule is one function that
says of all it looks at, at once, whether it holds, what it measured and what that was compared with. The audit trusts
nobody: it takes any recommendation list and must find what is wrong in it. No SQL, no clock, no writing here, no
sentences either (`logic/findings_wording.py` has them); whether anything is sent is decided by `logic/gate.py`.

What is measured is written as text: a number (days, contacts, items, a share 0..1, EUR per 75 cl, a confidence 0..1) in
plain decimal notation, or a word where the fact is none, or `word:number`. The words:

* of an address: missing, invalid, valid; contact, other_contact; refused, not_refused; bounced, not_bounced
* of what happened: never; bought, sent (`bought:12`: days ago), listed_twice (`listed_twice:2`: rows of the list)
* of a product: available, unknown_product, another_wine, only_in_sales, archived, inactive, out_of_stock,
  wrong_kind (`wrong_kind:shipping`), no_price; of sweetness the catalogue's own words
* of a basis: opt_in, customer, wine_trade, opt_in_not_yet, opt_in_without_date, opt_in_without_source, none
* of a person: person, collective; status, country and type as in audit.customer_facts
* of any: unknown (the fact is missing), not_applicable (there was nothing that the rule is about)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import numpy as np
import pandas as pd

from crm_assets.logic.findings_wording import findings_said
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

Flags = np.ndarray[Any, np.dtype[np.bool_]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

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
FINDING_COLUMNS = [
    "customer_id", "rule_code", "product_key", "rule_no", "severity", "details", "measured", "threshold",
]
EXPLAIN_COLUMNS = [
    "customer_id", "kind", "number", "code", "severity", "holds", "measured", "threshold", "product_key",
]
# fmt: on
NOT_APPLICABLE, UNKNOWN, NEVER = "not_applicable", "unknown", "never"

# Statuses that bar every channel; `moved` bars post only.
BARRING_STATUSES = ("deceased", "do_not_contact", "dispute")


@dataclass(frozen=True)
class Written:
    """Values that are words, numbers or both: names[word] (-1: no word), `:`, number (NaN: no number)."""

    word: Ints
    names: Sequence[str]
    number: Floats | None = None


Value = Written | Floats | float | str | None


@dataclass(frozen=True)
class Look:
    """What a rule saw, one element per customer or item.

    holds: whether it is broken, or the reason holds. measured, threshold: the value and what it was compared with, or
    one for all; NaN and None are no value. rows: positions of what the rule looks at, where that is not everything: the
    other elements mean nothing.
    """

    holds: Flags
    measured: Value
    threshold: Value = None
    rows: Ints | None = None


@dataclass(frozen=True)
class AuditInput:
    """What a rule may look at; strings only where a rule needs them, everything else by position.

    facts: one row per customer, columns of audit.customer_facts, by customer_id. customer, product, wine: of each item,
    the position of its customer in facts, of its product in products (-1: not in the catalogue) and a code of its wine,
    the catalogue's where that knows the product (-1: none). said_wine: the code of the wine that the item names itself
    (-1: none). Items go by customer, rank, product_key. products: the catalogue with an empty last row, which is what
    position -1 finds. scenario, confidence: of each item; None: the list gives no confidence. bought_days, sent_days:
    since that wine was last bought by or sent to that customer, never below 0 (what comes after the as-of day has age
    0), NaN when never. copies: rows of the same wine in the customer's list.
    """

    facts: pd.DataFrame
    products: pd.DataFrame
    customer: Ints
    product: Ints
    wine: Ints
    said_wine: Ints
    scenario: pd.Series
    confidence: Floats | None
    bought_days: Floats
    sent_days: Floats
    copies: Ints
    rules: BusinessRules
    as_of: date

    def first_items(self, items: Ints | None = None) -> Ints:
        """Positions of the first item, or the first of some, of each customer that has one."""
        among = np.arange(len(self.customer)) if items is None else items
        customer = self.customer[among]
        return among[np.concatenate([[True], customer[1:] != customer[:-1]])] if len(among) else among


@dataclass(frozen=True)
class PermissionInput:
    """What a permission reason may look at. facts: rows of audit.customer_facts."""

    facts: pd.DataFrame
    tenant: Tenant
    rules: BusinessRules
    as_of: date

    def days_since(self, column: str) -> Floats:
        return _days_since(self.facts[column], self.as_of)


@dataclass(frozen=True)
class AuditResult:
    """`findings` (FINDING_COLUMNS), `scores` (one row per customer), `permissions` (one row per customer)."""

    findings: pd.DataFrame
    scores: pd.DataFrame
    permissions: pd.DataFrame


@dataclass(frozen=True)
class Rule:
    """One audit rule. `about`: whether its rows are customers or items."""

    number: int
    code: str
    severity: str
    about: Literal["customer", "item"]
    look: Callable[[AuditInput], Look]


@dataclass(frozen=True)
class Reason:
    """One reason that there is no permission to write."""

    number: int
    code: str
    look: Callable[[PermissionInput], Look]


RULES: list[Rule] = []
# In the order in which they are given (spec.md §6): the first that holds is the reason.
REASONS: list[Reason] = []
# Errors at the address or the person: what matters whatever the message is about (spec.md §7: 8 to 15 are
# reco only).
LAST_RULE_OF_ANY_MESSAGE = 7
# What a send checks again on current data (spec.md §6).
LAST_RULE_RECHECKED_AT_SEND = 9


def _rule(
    number: int, code: str, severity: str, about: Literal["customer", "item"]
) -> Callable[[Callable[[AuditInput], Look]], Rule]:
    def register(look: Callable[[AuditInput], Look]) -> Rule:
        rule = Rule(number, code, severity, about, look)
        RULES.append(rule)
        return rule

    return register


def _reason(number: int, code: str) -> Callable[[Callable[[PermissionInput], Look]], Reason]:
    def register(look: Callable[[PermissionInput], Look]) -> Reason:
        reason = Reason(number, code, look)
        REASONS.append(reason)
        return reason

    return register


# --- values


def _flag(values: pd.Series) -> Flags:
    """A boolean column without nulls: unknown is false."""
    return values.astype("boolean").fillna(False).to_numpy(dtype=bool)


def _days_since(values: pd.Series, as_of: date) -> Floats:
    """Days from each date to `as_of`, NaN where there is none."""
    days = (pd.Timestamp(as_of) - pd.to_datetime(values)).dt.days
    return np.asarray(days, dtype="float64")


def _number(values: Floats, missing: str) -> Written:
    """Numbers, and a word where there is none."""
    return Written(np.where(np.isnan(values), 0, -1), (missing,), values)


def _either(flags: Flags, yes: str, no: str) -> Written:
    return Written(flags.astype("int64"), (no, yes))


def _words(values: pd.Series) -> Written:
    """Texts as they are; `unknown` where there is none."""
    word, names = pd.factorize(values)
    return Written(np.where(word < 0, len(names), word), (*map(str, names), UNKNOWN))


def _first_that_holds(causes: dict[str, Flags], otherwise: str, number: Floats | None = None) -> Written:
    """The name of the first cause that holds."""
    word = np.select(list(causes.values()), list(range(len(causes))), default=len(causes))
    return Written(word, (*causes, otherwise), number)


def plainly(number: float) -> str:
    """A number in plain decimal notation, of at most six decimals."""
    return f"{number:.6f}".rstrip("0").rstrip(".")


def _texts(value: Value, rows: Ints) -> np.ndarray[Any, np.dtype[np.object_]]:
    """A value at some rows as text, None where it is none."""
    if isinstance(value, np.ndarray):
        value = Written(np.full(len(value), -1), (), value)
    if not isinstance(value, Written):
        text = value if value is None or isinstance(value, str) else plainly(value)
        return np.full(len(rows), text, dtype=object)
    word = value.word[rows]
    number = np.full(len(rows), np.nan) if value.number is None else value.number[rows]
    # Each different value is written once.
    figure, figures = pd.factorize(number)
    width = len(figures) + 1
    place, pairs = pd.factorize((word + 1) * width + figure + 1)
    written = np.empty(len(pairs), dtype=object)
    for at, pair in enumerate(pairs.tolist()):
        name, known = divmod(pair, width)
        parts = [value.names[name - 1]] if name else []
        parts += [plainly(figures[known - 1])] if known else []
        written[at] = ":".join(parts) or None
    return written[place]


# --- the rules


@_rule(1, "MISSING_EMAIL", ERROR, "customer")
def missing_email(given: AuditInput) -> Look:
    """No e-mail address."""
    status = given.facts["email_status"]
    return Look((status == "missing").to_numpy(dtype=bool), _words(status))


@_rule(2, "INVALID_EMAIL", ERROR, "customer")
def invalid_email(given: AuditInput) -> Look:
    """An address is given and is none."""
    status = given.facts["email_status"]
    return Look(~status.isin(["missing", "valid"]).to_numpy(dtype=bool), _words(status))


@_rule(3, "DUPLICATE_EMAIL", ERROR, "customer")
def duplicate_email(given: AuditInput) -> Look:
    """The address has another contact: one person is written to per address."""
    is_other = ~_flag(given.facts["is_email_contact"])
    has_address = given.facts["email_status"] == "valid"
    return Look(is_other, _either(is_other, "other_contact", "contact"), rows=np.flatnonzero(has_address))


@_rule(4, "OPT_OUT", ERROR, "customer")
def opt_out(given: AuditInput) -> Look:
    """The address refused, in any source, or is unsubscribed or blocklisted at Brevo."""
    refused = _flag(given.facts["is_refused"])
    return Look(refused, _either(refused, "refused", "not_refused"))


@_rule(5, "BOUNCED", ERROR, "customer")
def bounced(given: AuditInput) -> Look:
    """Hard bounce, blocked, invalid or spam complaint, of any age."""
    has_bounced = _flag(given.facts["is_bounced"])
    return Look(has_bounced, _either(has_bounced, "bounced", "not_bounced"))


@_rule(6, "SILENCE_WINDOW", ERROR, "customer")
def silence_window(given: AuditInput) -> Look:
    """The address was contacted less than `silence_days` ago; a contact after the as-of day has age 0."""
    limit = given.rules.audit.silence_days
    days = _days_since(given.facts["last_contact_date"], given.as_of).clip(min=0)
    return Look(days < limit, _number(days, NEVER), limit)


@_rule(7, "MARKETING_FATIGUE", ERROR, "customer")
def marketing_fatigue(given: AuditInput) -> Look:
    """The address had `fatigue_contacts` contacts or more in `fatigue_days`."""
    limit = given.rules.audit.fatigue_contacts
    contacts = given.facts["contacts_90d"].fillna(0).to_numpy(dtype="float64")
    return Look(contacts >= limit, contacts, limit)


@_rule(8, "RECENT_DUPLICATE", ERROR, "item")
def recent_duplicate(given: AuditInput) -> Look:
    """The item's wine was bought, or was in a really sent message, less than `duplicate_days` ago, or is listed twice.

    The same window for everybody: the shorter one of professionals (spec.md §5) is the engine's.
    """
    limit = given.rules.audit.duplicate_days
    bought, sent = given.bought_days, given.sent_days
    causes = {
        "bought": bought < limit,
        "sent": sent < limit,
        "listed_twice": given.copies > 1,
    }
    holds = np.logical_or.reduce(list(causes.values()))
    # Where nothing is wrong, the later of the two is what was looked at.
    causes |= {"bought ": ~np.isnan(bought) & ~(sent < bought), "sent ": ~np.isnan(sent)}
    word = np.select(list(causes.values()), list(range(5)), default=5)
    number = np.choose(word, [bought, sent, given.copies, bought, sent, np.nan])
    measured = Written(word, (*(name.strip() for name in causes), NEVER), number)
    return Look(holds, measured, np.where(word == 2, 1.0, limit))


@_rule(9, "UNAVAILABLE_PRODUCT", ERROR, "item")
def unavailable_product(given: AuditInput) -> Look:
    """The product cannot be sold: unknown, another wine than announced, inactive, archived, out of stock, not a wine,
    without a price.
    """
    products, product = given.products, given.product
    kinds = given.rules.products.recommendable_kinds
    of_products = {
        "only_in_sales": _flag(products["is_inferred"]),
        "archived": _flag(products["is_archived"]),
        "inactive": ~_flag(products["is_active"]),
        "out_of_stock": (products["stock_status"] == "out").to_numpy(dtype=bool),
        "wrong_kind": ~products["kind"].isin(kinds).to_numpy(dtype=bool),
        "no_price": products["price_75cl_ttc"].isna().to_numpy(dtype=bool),
    }
    causes = {
        "unknown_product": product < 0,
        "another_wine": (product >= 0) & (given.said_wine >= 0) & (given.said_wine != given.wine),
        **{name: is_so[product] for name, is_so in of_products.items()},
    }
    cause = _first_that_holds(causes, "available")
    # The kind is told with its cause: a word for each kind that there is.
    kind = _words(products["kind"])
    is_wrong = cause.word == list(causes).index("wrong_kind")
    names = (*cause.names, *(f"wrong_kind:{name}" for name in kind.names))
    word = np.where(is_wrong, len(cause.names) + kind.word[product], cause.word)
    return Look(cause.word < len(causes), Written(word, names))


@_rule(10, "UPSELL_NOT_HIGHER", ERROR, "item")
def upsell_not_higher(given: AuditInput) -> Look:
    """An upsell whose TTC price per 75 cl is not above the customer's."""
    price = given.products["price_75cl_ttc"].to_numpy(dtype="float64")[given.product]
    pays = given.facts["price_75cl_ttc"].to_numpy(dtype="float64")[given.customer]
    is_compared = (given.scenario == "upsell").to_numpy(dtype=bool) & ~np.isnan(price) & ~np.isnan(pays)
    return Look(price <= pays, price, pays, np.flatnonzero(is_compared))


@_rule(11, "NO_RECOMMENDATION", ERROR, "customer")
def no_recommendation(given: AuditInput) -> Look:
    """Nothing to send."""
    n_items = np.bincount(given.customer, minlength=len(given.facts)).astype("float64")
    return Look(n_items < 1, n_items, 1)


@_rule(12, "CROSS_SELL_NOT_NEW", WARN, "item")
def cross_sell_not_new(given: AuditInput) -> Look:
    """A cross-sell of a wine bought before, however long ago."""
    days = given.bought_days
    was_bought = ~np.isnan(days)
    rows = np.flatnonzero(given.scenario == "cross_sell")
    return Look(was_bought, Written(np.where(was_bought, 0, 1), ("bought", NEVER), days), rows=rows)


@_rule(13, "LOW_DIVERSITY", WARN, "customer")
def low_diversity(given: AuditInput) -> Look:
    """A list of `diversity_min_items` or more, of which one family is more than `diversity_max_share`.

    Products without a family are of none.
    """
    audit, n_customers = given.rules.audit, len(given.facts)
    n_items = np.bincount(given.customer, minlength=n_customers)
    family, families = pd.factorize(given.products["family"])
    of_item = family[given.product]
    in_family = of_item >= 0
    pairs, counts = np.unique(
        given.customer[in_family] * len(families) + of_item[in_family],
        return_counts=True,
    )
    largest = np.zeros(n_customers, dtype="int64")
    np.maximum.at(largest, pairs // max(len(families), 1), counts)
    share = largest / np.maximum(n_items, 1)
    return Look(
        share > audit.diversity_max_share,
        share,
        audit.diversity_max_share,
        np.flatnonzero(n_items >= audit.diversity_min_items),
    )


@_rule(14, "SUGAR_MISMATCH", WARN, "item")
def sugar_mismatch(given: AuditInput) -> Look:
    """An item of another sweetness than most of what the customer buys; only the first such item counts."""
    n_products = len(given.products)
    both = pd.concat([given.products["sweetness"], given.facts["dominant_sweetness"]], ignore_index=True)
    word, names = pd.factorize(both.astype("str").where(both.notna()))
    item, customer = word[:n_products][given.product], word[n_products:][given.customer]
    differs = np.flatnonzero((item >= 0) & (customer >= 0) & (item != customer))
    is_first = np.zeros(len(item), dtype=bool)
    is_first[given.first_items(differs)] = True
    rows = np.flatnonzero((item >= 0) & (customer >= 0))
    return Look(is_first, Written(item, tuple(names)), Written(customer, tuple(names)), rows)


@_rule(15, "LOW_CONFIDENCE", WARN, "item")
def low_confidence(given: AuditInput) -> Look:
    """The first item's confidence is below `low_confidence`, or missing; not judged where the list gives none."""
    limit = given.rules.audit.low_confidence
    if given.confidence is None:
        return Look(np.zeros(len(given.customer), dtype=bool), None, limit, np.empty(0, dtype="int64"))
    return Look(~(given.confidence >= limit), _number(given.confidence, UNKNOWN), limit, given.first_items())


SEVERITIES = {rule.code: rule.severity for rule in RULES}
NUMBERS = {rule.code: rule.number for rule in RULES}


# --- permission


@_reason(1, "NO_LEGAL_BASIS")
def no_legal_basis(given: PermissionInput) -> Look:
    """Neither a dated, sourced opt-in that has been given by then, nor an order where the estate has declared that
    basis, nor a wine trade that has not objected.
    """
    facts, limits = given.facts, given.rules.permission
    opted_in = _flag(facts["opt_in"])
    since_opt_in = given.days_since("opt_in_date")
    has_source = facts["opt_in_source"].notna().to_numpy(dtype=bool)
    has_ordered = facts["n_qualifying_orders"].fillna(0).to_numpy(dtype="float64") > 0
    is_trade = facts["type"].isin(limits.wine_trade_types).to_numpy(dtype=bool)
    bases = {
        "opt_in": opted_in & has_source & (since_opt_in >= 0),
        "customer": has_ordered & given.tenant.existing_customer_basis,
        "wine_trade": is_trade & ~_flag(facts["is_refused"]) & limits.professional_basis,
    }
    lacking = {
        "opt_in_not_yet": opted_in & (since_opt_in < 0),
        "opt_in_without_date": opted_in & np.isnan(since_opt_in),
        "opt_in_without_source": opted_in & ~has_source,
    }
    return Look(~np.logical_or.reduce(list(bases.values())), _first_that_holds({**bases, **lacking}, "none"))


@_reason(2, "OBJECTED")
def objected(given: PermissionInput) -> Look:
    """The person, or whoever has the address, refused messages."""
    refused = _flag(given.facts["is_refused"])
    return Look(refused, _either(refused, "refused", "not_refused"))


@_reason(3, "DO_NOT_CONTACT")
def do_not_contact(given: PermissionInput) -> Look:
    """Deceased, in dispute, or not to be contacted."""
    status = given.facts["status"]
    return Look(status.isin(BARRING_STATUSES).to_numpy(dtype=bool), _words(status))


@_reason(4, "MINOR")
def minor(given: PermissionInput) -> Look:
    """Known to be younger than `adult_age`."""
    limit, as_of = given.rules.permission.adult_age, given.as_of
    born = pd.to_datetime(given.facts["birth_date"])
    birthday_to_come = (born.dt.month * 100 + born.dt.day) > as_of.month * 100 + as_of.day
    age = np.asarray(as_of.year - born.dt.year - birthday_to_come, dtype="float64")
    return Look(age < limit, _number(age, UNKNOWN), limit)


@_reason(5, "COUNTRY_NOT_ALLOWED")
def country_not_allowed(given: PermissionInput) -> Look:
    """A country that the estate does not write to; whoever has none is taken to live in the tenant's."""
    allowed = given.tenant.send_countries
    country = given.facts["country"].where(given.facts["country"].notna(), given.tenant.country)
    return Look(~country.isin(allowed).to_numpy(dtype=bool), _words(country), ", ".join(sorted(allowed)))


@_reason(6, "INACTIVE_3Y")
def inactive(given: PermissionInput) -> Look:
    """The last order, click or reply is more than `inactive_days` ago; an opening is none.

    A prospect without any is inactive when the opt-in itself is that old.
    """
    limit = given.rules.permission.inactive_days
    days = np.fmin(given.days_since("last_order_date"), given.days_since("last_engagement_date"))
    days = np.where(np.isnan(days), given.days_since("opt_in_date"), days)
    return Look(days > limit, _number(days, NEVER), limit)


@_reason(7, "RECENT_ORDER")
def recent_order(given: PermissionInput) -> Look:
    """Ordered less than `recent_order_days` ago."""
    limit = given.rules.permission.recent_order_days
    days = given.days_since("last_order_date")
    return Look(days < limit, _number(days, NEVER), limit)


@_reason(8, "COLLECTIVE")
def collective(given: PermissionInput) -> Look:
    """A till account, not a person."""
    is_collective = _flag(given.facts["is_collective"])
    return Look(is_collective, _either(is_collective, "collective", "person"))


PERMISSION_REASONS = tuple(reason.code for reason in REASONS)


# --- from frames to verdicts


def _pair_days(
    customer: Ints,
    wine: Ints,
    customers: pd.Index,
    wines: pd.Index,
    history: pd.DataFrame,
    day_column: str,
    as_of: date,
) -> Floats:
    """For each item, days from the last `day_column` of its (customer, wine) in `history` to `as_of`, NaN if never.

    `customer` and `wine`: positions in `customers` and `wines`. Works on integer codes: joining two million text pairs
    costs seconds, joining their codes a fraction.
    """
    of_customer = customers.get_indexer(pd.Index(history["customer_id"]))
    of_wine = wines.get_indexer(pd.Index(history["wine_id"]))
    days = _days_since(history[day_column], as_of).clip(min=0)
    known = (of_customer >= 0) & (of_wine >= 0) & ~np.isnan(days)
    pair, days = of_customer[known].astype("int64") * len(wines) + of_wine[known], days[known]
    # By pair, then the fewest days first: what is found first is the last time.
    order = np.lexsort((days, pair))
    pair, days = pair[order], days[order]
    wanted = np.where(wine >= 0, customer * len(wines) + wine, -1)
    at = np.searchsorted(pair, wanted)
    is_there = at < len(pair)
    is_there[is_there] = pair[at[is_there]] == wanted[is_there]
    found = np.full(len(wanted), np.nan)
    found[is_there] = days[at[is_there]]
    return found


def _audit_input(
    items: pd.DataFrame,
    people: pd.DataFrame,
    products: pd.DataFrame,
    customer_wines: pd.DataFrame,
    sent_wines: pd.DataFrame,
    rules: BusinessRules,
    as_of: date,
) -> tuple[AuditInput, pd.Series]:
    """What the rules look at, and the product_key of each item ('' where it has none).

    `people`: as `everyone` makes them, so that each item has its customer.
    """
    facts = people.sort_values("customer_id", kind="stable", ignore_index=True)
    facts["email_status"] = facts["email_status"].astype("str").where(facts["email_status"].notna(), "missing")
    catalogue = products[PRODUCT_COLUMNS].drop_duplicates("product_key", ignore_index=True)
    customers, wines = pd.Index(facts["customer_id"]), catalogue["wine_id"]
    by_key = items["product_key"].astype("str").where(items["product_key"].notna(), "")
    key, keys = pd.factorize(by_key, sort=True)
    customer = customers.get_indexer(pd.Index(items["customer_id"])).astype("int64")
    order = np.lexsort((key, items["rank"].to_numpy(), customer))
    items, customer, key = items.iloc[order].reset_index(drop=True), customer[order], key[order]
    product = pd.Index(catalogue["product_key"]).get_indexer(pd.Index(keys))[key]
    # A code per wine, whether the catalogue has it or a list says so.
    coded, names = pd.factorize(pd.concat([wines, items["wine_id"]], ignore_index=True).astype("object"))
    said_wine = coded[len(catalogue) :]
    own_wine = np.append(coded[: len(catalogue)], -1)[product]
    # Where the catalogue knows the product, its own wine decides what was bought before: the list may lie.
    wine = np.where(own_wine >= 0, own_wine, said_wine)
    all_wines = pd.Index(names)
    pairs = np.where(wine >= 0, customer * (len(names) + 1) + wine, -1 - np.arange(len(wine)))
    _, which, copies = np.unique(pairs, return_inverse=True, return_counts=True)
    given = AuditInput(
        facts=facts,
        products=catalogue.reindex(range(len(catalogue) + 1)),
        customer=customer,
        product=product,
        wine=wine,
        said_wine=said_wine,
        scenario=items["scenario"],
        confidence=items["confidence"].to_numpy(dtype="float64") if "confidence" in items else None,
        bought_days=_pair_days(customer, wine, customers, all_wines, customer_wines, "last_date", as_of),
        sent_days=_pair_days(customer, wine, customers, all_wines, sent_wines, "sent_date", as_of),
        copies=copies[which],
        rules=rules,
        as_of=as_of,
    )
    return given, pd.Series(np.asarray(keys, dtype=object)[key], dtype="str")


def everyone(customer_facts: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """The customers that an audit of `items` is about: those of `customer_facts`, and any that only the list
    has.

    A customer whom nobody knows has no facts: the audit finds no right to write to them.
    """
    facts = customer_facts[FACT_COLUMNS]
    listed = pd.Index(items["customer_id"].unique())
    strangers = listed[pd.Index(facts["customer_id"]).get_indexer(listed) < 0]
    if strangers.empty:
        return facts.reset_index(drop=True)
    ids = facts["customer_id"].tolist() + strangers.tolist()
    people = facts.set_index("customer_id").reindex(ids).reset_index()
    return people.assign(client_code=people["client_code"].fillna(people["customer_id"]))


def _as_texts(found: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Columns that were put together from Python's texts, in the type that the warehouse reads texts with."""
    return found.assign(**{name: found[name].astype("str").where(found[name].notna()) for name in names})


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

    `items` rows of recommendations.items: ITEM_COLUMNS, a null wine_id is the catalogue's, and without the column
    confidence rule 15 is not judged; `customer_facts` of audit.customer_facts; `products` of curated.dim_products;
    `customer_wines` of rfm.customer_wines (customer_id, wine_id, last_date); `sent_wines` customer_id, wine_id,
    sent_date of really sent messages.
    """
    people = everyone(customer_facts, items)
    given, product_keys = _audit_input(items, people, products, customer_wines, sent_wines, rules, as_of)
    parts = []
    for rule in RULES:
        look = rule.look(given)
        rows = np.flatnonzero(look.holds) if look.rows is None else look.rows[look.holds[look.rows]]
        of_item = rule.about == "item"
        parts.append(
            pd.DataFrame(
                {
                    "customer": given.customer[rows] if of_item else rows,
                    "product_key": product_keys.iloc[rows].to_numpy() if of_item else "",
                    "rule_code": rule.code,
                    "rule_no": rule.number,
                    "severity": rule.severity,
                    "measured": _texts(look.measured, rows),
                    "threshold": _texts(look.threshold, rows),
                }
            )
        )
    found = pd.concat(parts, ignore_index=True).sort_values(
        ["customer", "rule_no", "product_key"], kind="stable", ignore_index=True
    )
    found = found.drop_duplicates(["customer", "rule_no", "product_key"], ignore_index=True)
    found["customer_id"] = given.facts["customer_id"].take(found["customer"].to_numpy()).array
    found = _as_texts(found, ["rule_code", "product_key", "severity", "measured", "threshold"])
    found["details"] = findings_said(found, "en")
    return found[FINDING_COLUMNS]


def explain(
    items: pd.DataFrame,
    customer_facts: pd.DataFrame,
    products: pd.DataFrame,
    customer_wines: pd.DataFrame,
    sent_wines: pd.DataFrame,
    tenant: Tenant,
    rules: BusinessRules,
    as_of: date,
) -> pd.DataFrame:
    """Every permission reason and every rule with what it saw, whether it holds or not: EXPLAIN_COLUMNS.

    For one customer, or a few: frames as `audit` takes them, cut to them. One row per reason (kind `permission`,
    severity null) and one per rule (kind `rule`), or per item that the rule looks at, product_key '' where it is about
    the customer. A rule that found nothing to look at has one row too, measured `not_applicable`. Rows go by customer,
    kind (permission first), number, and item in the order of the list.
    """
    people = everyone(customer_facts, items)
    given, product_keys = _audit_input(items, people, products, customer_wines, sent_wines, rules, as_of)
    permission = PermissionInput(given.facts, tenant, rules, as_of)
    all_customers = np.arange(len(given.facts))
    parts = []

    def add(each: Reason | Rule, look: Look, rows: Ints, of_item: bool) -> None:
        customer = given.customer[rows] if of_item else rows
        without = np.setdiff1d(all_customers, customer)
        parts.append(
            pd.DataFrame(
                {
                    "customer": np.concatenate([customer, without]),
                    "kind": "rule" if isinstance(each, Rule) else "permission",
                    "number": each.number,
                    "code": each.code,
                    "severity": each.severity if isinstance(each, Rule) else None,
                    "holds": np.concatenate([look.holds[rows], np.zeros(len(without), dtype=bool)]),
                    "measured": [*_texts(look.measured, rows), *[NOT_APPLICABLE] * len(without)],
                    "threshold": [*_texts(look.threshold, rows), *[None] * len(without)],
                    "product_key": [*(product_keys.iloc[rows] if of_item else [""] * len(rows)), *[""] * len(without)],
                }
            )
        )

    for reason in REASONS:
        add(reason, reason.look(permission), all_customers, of_item=False)
    for rule in RULES:
        look, of_item = rule.look(given), rule.about == "item"
        everything = np.arange(len(given.customer)) if of_item else all_customers
        add(rule, look, everything if look.rows is None else look.rows, of_item)
    found = pd.concat(parts, ignore_index=True).sort_values(["customer", "kind", "number"], kind="stable")
    found["customer_id"] = given.facts["customer_id"].take(found["customer"].to_numpy()).array
    texts = ["kind", "code", "severity", "measured", "threshold", "product_key"]
    return _as_texts(found[EXPLAIN_COLUMNS].reset_index(drop=True), texts)


def scores(found: pd.DataFrame, customer_ids: pd.Series, rules: BusinessRules) -> pd.DataFrame:
    """One row per customer: n_errors, n_warnings, audit_score, first_rule (spec.md §6), rules_version.

    audit_score = max(0, 100 - error_points x errors - warning_points x warnings); every finding counts.
    """
    ids = pd.Index(pd.unique(customer_ids), name="customer_id")
    customer = ids.get_indexer(pd.Index(found["customer_id"]))
    found, customer = found[customer >= 0], customer[customer >= 0]

    def count(severity: str) -> Ints:
        return np.bincount(customer[(found["severity"] == severity).to_numpy(dtype=bool)], minlength=len(ids))

    n_errors, n_warnings = count(ERROR), count(WARN)
    # Rules are numbered errors first, so the lowest number is the first error, else the first warning.
    order = np.lexsort((found["rule_no"].to_numpy(), customer))
    has_any, at = np.unique(customer[order], return_index=True)
    first = pd.Series(None, index=range(len(ids)), dtype="str")
    first.iloc[has_any] = found["rule_code"].iloc[order[at]].to_numpy()
    lost = rules.audit.error_points * n_errors + rules.audit.warning_points * n_warnings
    return pd.DataFrame(
        {
            "customer_id": ids,
            "n_errors": n_errors,
            "n_warnings": n_warnings,
            "audit_score": (100 - lost).clip(min=0),
            "first_rule": first.to_numpy(),
            "rules_version": rules.version,
        }
    )


def permissions(customer_facts: pd.DataFrame, tenant: Tenant, rules: BusinessRules, as_of: date) -> pd.DataFrame:
    """One row per customer: customer_id, permitted, permission_reason (null when permitted; spec.md §6)."""
    given = PermissionInput(customer_facts.reset_index(drop=True), tenant, rules, as_of)
    holds = [reason.look(given).holds for reason in REASONS]
    reason = np.select(holds, list(PERMISSION_REASONS), default="")
    permitted = reason == ""
    return pd.DataFrame(
        {
            "customer_id": customer_facts["customer_id"].to_numpy(),
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


def ratios(bad: pd.Series, total: pd.Series) -> pd.Series:
    """bad / total. Nothing to measure (0 of 0) is 0, something bad of nothing 1 (spec.md §6, circuit breaker)."""
    some = total > 0
    return pd.Series(np.where(some, bad / total.where(some, 1), np.where(bad == 0, 0.0, 1.0)), index=bad.index)


def data_quality(measures: pd.DataFrame, rules: BusinessRules) -> pd.DataFrame:
    """One row per circuit-breaker check: check_code, severity, weight, bad, total, tolerance, score (spec.md
    §6).

    `measures`: check_code, bad, total of audit.quality_measures. score = 100 x (1 - min(1, ratio / tolerance)), the
    ratio as `ratios` has it; a null scores 0.
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
    used = ratios(quality["bad"], quality["total"]) / quality["tolerance"]
    used = used.round(9)  # 0.3 / 0.3 must be 1 however the division went
    quality["score"] = (100 * (1 - used.clip(lower=0, upper=1))).fillna(0.0)
    quality[["bad", "total"]] = quality[["bad", "total"]].fillna(0.0)
    return quality[["check_code", "severity", "weight", "bad", "total", "tolerance", "score"]]


def breaker(quality: pd.DataFrame, rules: BusinessRules) -> Breaker:
    """Trips when the weighted score is below `min_score`, or any ERROR check is 0."""
    score = round(float(np.average(quality["score"], weights=quality["weight"])), 6)
    failed = tuple(quality.loc[(quality["severity"] == ERROR) & (quality["score"] <= 0), "check_code"])
    return Breaker(score, score < rules.circuit_breaker.min_score or bool(failed), failed)
