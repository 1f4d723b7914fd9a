"""Planning, the plain part: who gets which message in which batch (spec.md §7).

`plan` turns a gated run and a campaign into the messages of one step, its batches and a hash of their exact content:
same inputs, same ids. No SQL, no network, no clock; the transaction that stores a plan is in
`crm_assets/activation.py`, what a message says in `logic/messages.py`, how messages become calls in `logic/outbox.py`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import orjson
import pandas as pd

from crm_assets.campaigns import BREVO_TEMPLATE, Campaign, Purchase
from crm_assets.logic import audit, sending_calendar
from crm_assets.logic.gate import NO_ELIGIBLE_CUSTOMER
from crm_assets.logic.messages import (
    brevo_params,
    estate_of,
    message_items,
    product_pieces,
    render,
    sender_of,
    template_hash_of,
)
from crm_assets.rules import BusinessRules
from crm_assets.tenants import Tenant

PLANNED, HOLDOUT, SENT, SUPERSEDED = "planned", "holdout", "sent", "superseded"
FIRST_STEP = 1
NEWER_OCCURRENCE = "NEWER_OCCURRENCE"
EMPTY_AUDIENCE = "EMPTY_AUDIENCE"
RESTORED = "restored"  # run of a message that the ledger has from Brevo's log alone
EMAIL, PHONE, POST = "email", "phone", "post"
# Rules of the audit that look at the e-mail address: whom nobody writes an e-mail to may be called (spec.md §7).
EMAIL_ONLY_RULES = frozenset({1, 2, 3, 5})
MOVED = "moved"  # status of a customer that bars letters
_SAMPLE_RENDERED = 20  # messages rendered to estimate the calls that a plan needs


class RefusalError(Exception):
    """Nothing is planned or sent, and why: `code` for machines, the message for people."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(f"{code}: {sentence}")
        self.code = code


@dataclass(frozen=True)
class Gate:
    """The row of gate.decisions that is in force."""

    run_id: str
    as_of: date
    status: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """One step of one occurrence of a campaign, ready to be stored.

    `messages`: columns of activation.messages that a plan decides; `batches`: columns of activation.batches.
    `addressed`: customers of the audience (a later step: addresses of the step before); `eligible`: of them, those whom
    the gate lets through. `left_out`: how many of them were not planned, by reason. `refused_products`: product_key ->
    the pieces that its item lacks. `calls`: about how many calls to Brevo the messages need. `n_written`: messages that
    the outbox held already, `n_written_holdout` of them held out.
    """

    campaign: str
    occurrence: str
    step: int
    run_id: str
    plan_hash: str
    template_hash: str
    expires_on: date
    messages: pd.DataFrame
    batches: pd.DataFrame
    addressed: int
    eligible: int
    left_out: dict[str, int]
    refused_products: dict[str, list[str]]
    calls: int
    n_written: int = 0
    n_written_holdout: int = 0

    @property
    def n_planned(self) -> int:
        return int((self.messages["status"] == PLANNED).sum())

    @property
    def n_holdout(self) -> int:
        return int((self.messages["status"] == HOLDOUT).sum())

    @property
    def arms(self) -> dict[str, int]:
        """Messages of each arm of an A/B test, the holdout apart."""
        arms = self.messages.loc[self.messages["status"] == PLANNED, "arm"].dropna()
        return {str(name): int(count) for name, count in arms.value_counts().sort_index().items()}


def canonical(value: Any) -> bytes:
    """`value` as JSON that is the same bytes wherever and whenever it is written."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def short_hash(*parts: object, length: int = 32) -> str:
    """First `length` hex of the SHA-256 over the parts."""
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()[:length]


def require_open(
    gate: Gate | None, as_of: date, rules: BusinessRules, *, despite: frozenset[str] = frozenset()
) -> Gate:
    """The gate, or RefusalError: no decision, closed, of a later day, or too old to plan from.

    `despite`: reasons that do not count: closed for nothing else, it passes.
    """
    if gate is None:
        raise RefusalError("NO_DECISION", "no run has passed the gate yet; refresh the estate first")
    if gate.status != "open" and (not gate.reasons or set(gate.reasons) - despite):
        raise RefusalError("GATE_CLOSED", f"the gate of run {gate.run_id} is closed: {', '.join(gate.reasons)}")
    age = (as_of - gate.as_of).days
    if age < 0:
        raise RefusalError(
            "HISTORICAL", f"the gate in force is of {gate.as_of}, after {as_of}: the past is not planned"
        )
    if age > rules.activation.plan_expires_days:
        raise RefusalError(
            "STALE_GATE",
            f"the gate in force is of {gate.as_of}, {age} days before {as_of}"
            f" (at most {rules.activation.plan_expires_days}); refresh the estate first",
        )
    return gate


def closures_that_do_not_count(campaign: Campaign) -> frozenset[str]:
    """Reasons of a closed gate in spite of which this campaign may be planned and sent.

    That no list of wines has passed audit and review says nothing of a message about no wine.
    """
    return frozenset() if campaign.kind == "reco" else frozenset({NO_ELIGIBLE_CUSTOMER})


def require_before_last_order(campaign: Campaign, as_of: date, rules: BusinessRules) -> None:
    """RefusalError when the message would leave after the last order date of the feast it speaks of."""
    if campaign.feast is None:
        return
    leaves = max(campaign.send_on or as_of, as_of)
    last = sending_calendar.last_order_day(campaign.feast, leaves, rules.activation.calendar)
    if leaves > last:
        raise RefusalError(
            "LAST_ORDER_PAST",
            f"campaign {campaign.name} is about {campaign.feast}, and the last day for such orders was {last}",
        )


def departments(postal_code: pd.Series, country: pd.Series) -> pd.Series:
    """French department of each row, null outside France: 67, 2A, 974."""
    code = postal_code.astype("str").where(country == "FR")
    found = code.str[:2]
    found = found.mask(code.str[:2].isin(["97", "98"]), code.str[:3])
    corsica = code.str[:2] == "20"
    found = found.mask(corsica & (code.str[:3].isin(["200", "201"])), "2A")
    return found.mask(corsica & ~code.str[:3].isin(["200", "201"]), "2B")


def in_audience(people: pd.DataFrame, campaign: Campaign, home_country: str) -> pd.Series:
    """Whether each customer belongs to the campaign's audience, eligible or not.

    `people`: type, segment, cluster_id, cluster_name, scenario, postal_code, country.
    """
    audience = campaign.audience
    country = people["country"].where(people["country"].notna(), home_country)
    inside = people["type"].isin(audience.types)
    if audience.segments:
        inside &= people["segment"].isin(audience.segments)
    if audience.clusters:
        inside &= people["cluster_id"].isin(audience.clusters) | people["cluster_name"].isin(audience.clusters)
    if audience.scenarios:
        inside &= people["scenario"].isin(audience.scenarios)
    if audience.departments:
        inside &= departments(people["postal_code"], country).isin(audience.departments)
    if audience.countries:
        inside &= country.isin(audience.countries)
    return inside.astype(bool)


def purchase_filter(
    people: pd.DataFrame, wanted: Purchase, purchases: pd.DataFrame, products: pd.DataFrame, as_of: date
) -> pd.Series:
    """Whether each customer bought what `wanted` names, within its days.

    `purchases`: rows of rfm.purchases (customer_id, wine_id, sale_date). A product key stands for its wine.
    """
    age = (pd.Timestamp(as_of) - pd.to_datetime(purchases["sale_date"])).dt.days
    inside = purchases[(age >= 0) & (age <= wanted.days)]
    if wanted.wines or wanted.families:
        named = named_wines(products, [*wanted.wines, *wanted.families])
        inside = inside[inside["wine_id"].isin(named | set(wanted.wines))]
    return people["customer_id"].isin(inside["customer_id"])


def named_wines(products: pd.DataFrame, names: Sequence[str]) -> set[str]:
    """The wine_ids of the catalogue that `names` mean: wine_ids, product keys, families."""
    is_meant = products["wine_id"].isin(names) | products["product_key"].isin(names) | products["family"].isin(names)
    return set(products.loc[is_meant, "wine_id"])


def names_of_nothing(campaign: Campaign, products: pd.DataFrame) -> list[str]:
    """What a campaign's file names and the catalogue does not know: `audience.not_bought Cremant`.

    A slip of the pen there would leave nobody out.
    """
    audience = campaign.audience
    named = {
        "audience.bought": [*audience.bought.wines, *audience.bought.families] if audience.bought else [],
        "audience.not_bought": [*audience.not_bought.wines, *audience.not_bought.families]
        if audience.not_bought
        else [],
        "wines.push": campaign.wines.push,
        "wines.exclude": campaign.wines.exclude,
    }
    known = {name for column in ("wine_id", "product_key", "family") for name in products[column].dropna()}
    return [f"{key} {name}" for key, names in named.items() for name in names if name not in known]


def _first_said(causes: Sequence[tuple[pd.Series, Any]]) -> pd.Series:
    """Per row the code (or the row's own of a series of codes) of the first cause that holds, null where none does."""
    said = pd.Series(None, index=causes[0][0].index, dtype="object")
    for holds, code in reversed(causes):
        said = said.mask(holds.astype("boolean").fillna(False).astype(bool), code)
    return said


def verdicts(
    campaign: Campaign,
    actions: pd.DataFrame,
    found: pd.DataFrame,
    rules: BusinessRules,
    held: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Per row of gate.next_actions, whether the customer may get this campaign, and why not: eligible, reason.

    A recommendation by e-mail needs an eligible next action. An event or news is about no wine: rules 8 to 15 and the
    review of wines do not apply (spec.md §7), permission and the errors of rules 1 to 7 do. By telephone and post the
    rules about the e-mail address fall away; `held` is then what review says of a customer, about whom the gate may
    never have asked it. `found`: audit.findings.
    """
    is_error = found["severity"] == audit.ERROR
    permitted = actions["permitted"].astype(bool)
    if campaign.kind == "reco" and campaign.channel == EMAIL:
        eligible = actions["eligible"].astype(bool)
        said = actions["reason"] if "reason" in actions else pd.Series(None, index=actions.index, dtype="object")
        return pd.DataFrame({"eligible": eligible, "reason": said.astype("object").where(~eligible, None)})
    counts = pd.Series(True, index=found.index)
    if campaign.channel != EMAIL:
        counts &= ~found["rule_no"].isin(EMAIL_ONLY_RULES)
    if campaign.kind != "reco":
        counts &= is_error & (found["rule_no"] <= audit.LAST_RULE_OF_ANY_MESSAGE)
    counted = found[counts]
    errors = counted[is_error[counts]].sort_values("rule_no", kind="stable").drop_duplicates("customer_id")
    points = np.where(counted["severity"] == audit.ERROR, rules.audit.error_points, rules.audit.warning_points)
    lost = pd.Series(points, index=counted.index).groupby(counted["customer_id"]).sum()
    score = 100 - actions["customer_id"].map(lost).fillna(0)
    why = actions["customer_id"].map(errors.set_index("customer_id")["rule_code"] if len(errors) else {})
    review = actions["customer_id"].map(dict(held or {}))
    refused = actions["permission_reason"] if "permission_reason" in actions else pd.Series(None, index=actions.index)
    said = _first_said(
        [
            (~permitted, refused.astype("object").fillna("NOT_PERMITTED")),
            (why.notna(), why.astype("object")),
            (review.notna(), review.astype("object")),
            (score < rules.audit.min_score, "LOW_SCORE"),
        ]
    )
    return pd.DataFrame({"eligible": said.isna(), "reason": said})


def barred_from_channel(campaign: Campaign, people: pd.DataFrame) -> pd.Series:
    """Why a channel other than e-mail is closed to each customer, null where it is open.

    `people`: phone_opt_out, post_opt_out, status, address; of curated.dim_customers. Who refuses refuses for the number
    or the letter box: nobody is reached there under another customer's name.
    """
    refused = people["phone_opt_out" if campaign.channel == PHONE else "post_opt_out"]
    refused = refused.astype("boolean").fillna(False).astype(bool)
    place = people["address"].astype("str").str.strip().str.lower().where(people["address"].notna())
    opted_out = refused | place.isin(place[refused].dropna())
    has_moved = (people["status"] == MOVED) & (campaign.channel == POST)
    code = "PHONE_OPT_OUT" if campaign.channel == PHONE else "POST_OPT_OUT"
    has_none = "NO_PHONE" if campaign.channel == PHONE else "NO_POSTAL_ADDRESS"
    return _first_said([(opted_out, code), (has_moved, "MOVED"), (people["address"].isna(), has_none)])


def followers(
    previous: pd.DataFrame, orders: pd.DataFrame, events: pd.DataFrame, campaign: Campaign, zone: ZoneInfo
) -> pd.DataFrame:
    """The addresses of a step's messages and what keeps each out of the next step: address, is_held_out, reason.

    `previous`: address, status, sent_at, planned_at of the step before. `orders`: address, order_date of qualifying
    orders of whoever has the address: customers may have been merged since. `events`: address, event, occurred_at,
    is_machine of outcomes.events. reason: NOT_SENT, ORDERED, CLICKED or UNSUBSCRIBED; null: goes on. The holdout goes
    on as holdout; it is asked about orders alike, or the two could not be compared.
    """
    held = previous["status"] == HOLDOUT
    start = pd.to_datetime(previous["sent_at"].where(~held, previous["planned_at"]), utc=True)
    day = start.dt.tz_convert(zone).dt.tz_localize(None).dt.normalize()

    def newest(keys: pd.Series, times: pd.Series) -> pd.Series:
        return times.reindex(keys).set_axis(keys.index)

    ordered = pd.to_datetime(orders["order_date"]).groupby(orders["address"].str.lower()).max()
    last_order = newest(previous["address"], ordered)

    def happened(names: Iterable[str]) -> pd.Series:
        theirs = events[events["event"].isin(list(names)) & ~events["is_machine"].fillna(False).astype(bool)]
        last = pd.to_datetime(theirs["occurred_at"], utc=True).groupby(theirs["address"].str.lower()).max()
        return newest(previous["address"], last) >= start

    causes = [(~held & (previous["status"] != SENT), "NOT_SENT")]
    if "order" in campaign.stop_on:
        causes.append((last_order >= day, "ORDERED"))
    if "click" in campaign.stop_on:
        causes.append((happened(["clicked"]), "CLICKED"))
    causes.append((happened(["unsubscribed", "spam"]), "UNSUBSCRIBED"))
    reason = _first_said(causes)
    return pd.DataFrame({"address": previous["address"], "is_held_out": held, "reason": reason})


def quarter(day: date) -> str:
    """2025Q4."""
    return f"{day.year}Q{(day.month + 2) // 3}"


def is_held_out(tenant: str, day: date, addresses: Iterable[str], share: float) -> np.ndarray:
    """Whether each address belongs to the holdout of the quarter: hash(tenant, quarter, address) < share."""
    threshold = math.floor(share * 2**64)
    prefix = f"{tenant}\n{quarter(day)}\n"
    draws = [int.from_bytes(hashlib.sha256((prefix + a).encode()).digest()[:8]) for a in addresses]
    return np.array([draw < threshold for draw in draws], dtype=bool)


def arm_of(tenant: str, campaign: Campaign, occurrence: str, addresses: Iterable[str]) -> list[str | None]:
    """The arm of each address, by its share: hash(tenant, campaign, occurrence, address), the same in every step.

    Nothing of the holdout's hash is in it, so that the arms hold the same kind of people.
    """
    if not campaign.arms:
        return [None for _ in addresses]
    names = sorted(campaign.arms)
    bounds = [math.floor(bound * 2**64) for bound in np.cumsum([campaign.arms[name].share for name in names])[:-1]]
    prefix = f"arm\n{tenant}\n{campaign.name}\n{occurrence}\n"
    draws = (int.from_bytes(hashlib.sha256((prefix + a).encode()).digest()[:8]) for a in addresses)
    return [names[sum(draw >= bound for bound in bounds)] for draw in draws]


def batch_sizes(count: int, rules: BusinessRules) -> list[int]:
    """Sizes of balanced batches: as near to `batch_size` as can be, never above `batch_max`, all within one
    of each other.

    Below `batch_min` only where the count leaves no choice (one small batch, or 301 to 399 messages).
    """
    if count == 0:
        return []
    activation = rules.activation
    number = max(math.ceil(count / activation.batch_max), round(count / activation.batch_size), 1)
    while number > 1 and count / number < activation.batch_min and count / (number - 1) <= activation.batch_max:
        number -= 1
    base, more = divmod(count, number)
    return [base + 1] * more + [base] * (number - more)


# What of a message its plan's hash covers: all that decides who gets what.
HASHED = ["message_id", "batch_id", "address", "customer_id", "scenario", "arm", "template", "params"]


def plan_hash(
    tenant: Tenant,
    campaign: Campaign,
    occurrence: str,
    run_id: str,
    messages: pd.DataFrame | Iterable[pd.DataFrame],
    fetched: Mapping[int, str] | None = None,
) -> str:
    """SHA-256 over the exact content of a step's plan: campaign file, templates and wording, sender, estate, every
    message with its arm.

    `messages`: all of the step, or some at a time in order of message_id. `fetched`: id of a template kept at Brevo ->
    the hash of its content. Nothing that a send changes is in it, so it can be computed again from what is stored and
    compared.
    """
    rules = tenant.business_rules
    digest = hashlib.sha256(
        canonical(
            {
                "tenant": tenant.slug,
                "campaign": campaign.model_dump(mode="json"),
                "occurrence": occurrence,
                "run_id": run_id,
                "template": template_hash_of(campaign, tenant, rules, fetched or {}),
                "sender": sender_of(campaign, tenant),
                "estate": estate_of(campaign, tenant),
            }
        )
    )
    for some in [messages] if isinstance(messages, pd.DataFrame) else messages:
        rows = some.sort_values("message_id")
        columns = [rows[name].astype("object").where(rows[name].notna(), None).to_list() for name in HASHED]
        for row in zip(*columns, strict=True):
            digest.update(orjson.dumps(row, option=orjson.OPT_SORT_KEYS))
    return digest.hexdigest()


@dataclass(frozen=True)
class Known:
    """What planning looks at beside the campaign: rows of a tenant's tables, each read once.

    people: one row per customer of the gate's run: customer_id, address (e-mail, telephone number or postal address, by
    the channel), holdout_key (what the holdout is drawn by), type, segment, cluster_id, cluster_name, scenario,
    postal_code, country, eligible, reason (of `verdicts`). items: the run's list as it stands
    (messages.ITEM_COLUMNS, scenario). products: curated.dim_products. purchases: rfm.purchases, where the audience
    asks for them. followers: of the step before; None for the first step. written: messages of this very step that the
    outbox holds already (HASHED, status, planned_at), in n_batches batches. fetched: id of a template kept at Brevo
    -> hash of its content.
    """

    people: pd.DataFrame
    items: pd.DataFrame
    products: pd.DataFrame
    purchases: pd.DataFrame | None = None
    followers: pd.DataFrame | None = None
    written: pd.DataFrame | None = None
    n_batches: int = 0
    fetched: Mapping[int, str] = field(default_factory=dict)


def _audience(
    tenant: Tenant, campaign: Campaign, known: Known, as_of: date, left_out: dict[str, int]
) -> tuple[pd.DataFrame, int]:
    """The customers addressed, with is_held_out, and how many were; who is left out of a later step is counted."""
    people = known.people.assign(address=known.people["address"].astype("str").str.strip().str.lower())
    people["address"] = people["address"].where(known.people["address"].notna())
    if known.followers is not None:
        gone_on = known.followers[known.followers["reason"].isna()]
        left_out |= {str(code): int(n) for code, n in known.followers["reason"].dropna().value_counts().items()}
        left_out["ADDRESS_GONE"] = int((~gone_on["address"].isin(people["address"])).sum())
        chosen = people.merge(gone_on[["address", "is_held_out"]], on="address", how="inner", validate="many_to_one")
        return chosen, len(known.followers)
    inside = in_audience(people, campaign, tenant.country)
    for wanted, should in ((campaign.audience.bought, True), (campaign.audience.not_bought, False)):
        if wanted is not None:
            assert known.purchases is not None
            inside &= purchase_filter(people, wanted, known.purchases, known.products, as_of) == should
    chosen = people[inside].assign(is_held_out=False)
    return chosen, len(chosen)


def _written_texts(campaign: Campaign, once: pd.DataFrame) -> pd.DataFrame:
    """The messages of an event or news: the same for everybody, about no wine."""
    nothing: list[Callable[[], Any]] = [list, list, lambda: {"items": []}]
    made = {
        name: pd.Series([make() for _ in range(len(once))], index=once.index, dtype="object")
        for name, make in zip(("wine_ids", "product_keys", "params"), nothing, strict=True)
    }
    return once.assign(scenario=campaign.kind, **made)


def _with_items(
    tenant: Tenant,
    campaign: Campaign,
    known: Known,
    once: pd.DataFrame,
    rules: BusinessRules,
    left_out: dict[str, int],
) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The customers with the wines that their message shows, and what products lack that cannot be shown."""
    estate = estate_of(campaign, tenant)
    can_order = bool(estate["reply_to"] or estate["phone"])
    pieces, every_lack = product_pieces(known.products, can_order, tenant.locale, rules)
    offered = known.items[known.items["customer_id"].isin(once["customer_id"])]
    if campaign.wines.exclude:
        offered = offered[~offered["wine_id"].isin(named_wines(known.products, campaign.wines.exclude))]
    # Read row by row: Python's own texts are ten times as fast there as Arrow's.
    keys = ["customer_id", "wine_id", "product_key"]
    content, refused = message_items(offered.astype(dict.fromkeys(keys, "object")), pieces)
    lacking = {key: every_lack.get(key, ["catalogue"]) for key in sorted(set(offered["product_key"]) - set(pieces))}
    left_out |= {f"ITEMS_WITHOUT_{name.upper()}": count for name, count in refused.items() if count}
    with_content = once.merge(content, on="customer_id", how="inner", validate="one_to_one")
    left_out["NO_ITEM_TO_SHOW"] = len(once) - len(with_content)
    if campaign.wines.push or campaign.wines.exclude:
        # Another wine may lead the list now: its scenario is what the message is about.
        leads = pd.MultiIndex.from_arrays([with_content["customer_id"], with_content["wine_ids"].str[0]])
        scenarios = offered.drop_duplicates(["customer_id", "wine_id"]).set_index(["customer_id", "wine_id"])[
            "scenario"
        ]
        with_content = with_content.assign(scenario=scenarios.reindex(leads).to_numpy())
    return with_content, lacking


def plan(
    tenant: Tenant,
    campaign: Campaign,
    gate: Gate,
    known: Known,
    rules: BusinessRules,
    as_of: date,
    step: int = FIRST_STEP,
) -> Plan:
    """The messages of one step of one occurrence, held out or in balanced batches.

    RefusalError: EMPTY_AUDIENCE when nobody is left to write to, LAST_ORDER_PAST, PARAMS_TOO_LARGE.
    """
    require_before_last_order(campaign, as_of, rules)
    left_out: dict[str, int] = {}
    audience, addressed = _audience(tenant, campaign, known, as_of, left_out)
    is_eligible = audience["eligible"].astype(bool)
    why = audience.loc[~is_eligible, "reason"].fillna("NOT_ELIGIBLE")
    left_out |= {str(code): int(count) for code, count in sorted(why.value_counts().items())}
    chosen = audience[is_eligible].sort_values(["address", "customer_id"], kind="stable")
    once = chosen.drop_duplicates("address")
    left_out["SAME_ADDRESS"] = len(chosen) - len(once)
    if known.written is not None:
        is_written = once["address"].isin(known.written["address"])
        left_out["ALREADY_WRITTEN"] = int(is_written.sum())
        once = once[~is_written]
    eligible = len(once)

    lacking: dict[str, list[str]] = {}
    if campaign.kind == "reco":
        with_content, lacking = _with_items(tenant, campaign, known, once, rules, left_out)
    else:
        with_content = _written_texts(campaign, once)
    if with_content.empty:
        counts = ", ".join(f"{name} {count}" for name, count in left_out.items() if count) or "the audience is empty"
        raise RefusalError(EMPTY_AUDIENCE, f"nobody is left to write to in campaign {campaign.name} ({counts})")

    occurrence = campaign.occurrence_on(as_of)
    identity = (tenant.slug, campaign.name, occurrence, step)
    messages = with_content.assign(
        message_id=[short_hash(*identity, address) for address in with_content["address"]],
        campaign=campaign.name,
        occurrence=occurrence,
        step=step,
        run_id=gate.run_id,
    ).sort_values(["scenario", "message_id"], kind="stable", ignore_index=True)
    held = _held_out(tenant, campaign, known, messages, rules, as_of)
    messages["status"] = np.where(held, HOLDOUT, PLANNED)
    arms = arm_of(tenant.slug, campaign, occurrence, messages["address"])
    messages["arm"] = pd.Series(arms, dtype="object", index=messages.index).where(~held, None)
    messages["template"] = _templates(tenant, campaign, messages, step)

    first_batch = known.n_batches + 1
    sizes = batch_sizes(int((~held).sum()), rules)
    numbers = range(first_batch, first_batch + len(sizes))
    batch_ids = [short_hash(*identity, gate.run_id, number, length=16) for number in numbers]
    messages["batch_id"] = pd.Series([None] * len(messages), dtype="object")
    messages.loc[~held, "batch_id"] = np.repeat(np.array(batch_ids, dtype=object), sizes)
    batches = pd.DataFrame(
        {
            "batch_id": batch_ids,
            "campaign": campaign.name,
            "occurrence": occurrence,
            "step": step,
            "batch_no": numbers,
            "run_id": gate.run_id,
            "n_messages": sizes,
            "status": PLANNED,
        }
    )
    # fmt: off
    columns = [
        "message_id", "campaign", "occurrence", "step", "address", "customer_id", "run_id", "batch_id",
        "scenario", "wine_ids", "product_keys", "params", "status", "cluster_id", "arm", "template",
    ]
    # fmt: on
    messages = messages[columns]
    every = messages if known.written is None else pd.concat([known.written[HASHED], messages[HASHED]])
    return Plan(
        campaign=campaign.name,
        occurrence=occurrence,
        step=step,
        run_id=gate.run_id,
        plan_hash=plan_hash(tenant, campaign, occurrence, gate.run_id, every, known.fetched),
        template_hash=template_hash_of(campaign, tenant, rules, known.fetched),
        expires_on=as_of + timedelta(days=rules.activation.plan_expires_days),
        messages=messages,
        batches=batches,
        addressed=addressed,
        eligible=eligible,
        left_out={name: count for name, count in left_out.items() if count},
        refused_products=lacking,
        calls=_calls(tenant, campaign, messages[messages["status"] == PLANNED], rules, step),
        n_written=0 if known.written is None else len(known.written),
        n_written_holdout=0 if known.written is None else int((known.written["status"] == HOLDOUT).sum()),
    )


def _held_out(
    tenant: Tenant, campaign: Campaign, known: Known, messages: pd.DataFrame, rules: BusinessRules, as_of: date
) -> np.ndarray:
    """Which messages are the holdout.

    Who was held out of the step before stays so. Whom a quarter that began since holds out gets nothing of it either:
    held out once in a quarter, held out of every campaign of it. A restore loses the rows of the holdout, which Brevo
    never heard of: those whom the quarter held out in which the step began are held out again.
    """
    kept = messages["is_held_out"].to_numpy(dtype=bool)
    least = rules.activation.holdout_min_eligible
    n_written = 0 if known.written is None else len(known.written)
    if known.followers is None:
        draws = len(messages) + n_written >= least
    else:
        draws = bool(known.followers["is_held_out"].any()) or len(known.followers) >= least
    if not campaign.holdout or campaign.kind == "event" or not draws:
        return kept
    days = {as_of}
    if known.written is not None:
        days.add(pd.to_datetime(known.written["planned_at"], utc=True).min().tz_convert(tenant.zone).date())
    for day in days:
        kept = kept | is_held_out(tenant.slug, day, messages["holdout_key"], rules.activation.holdout_share)
    return kept


def _templates(tenant: Tenant, campaign: Campaign, messages: pd.DataFrame, step: int) -> pd.Series:
    """The template of each message: a kind of our own, or brevo:<id>; none by telephone or post."""
    if campaign.channel != EMAIL:
        return pd.Series(None, index=messages.index, dtype="object")
    made: dict[tuple[str, str | None], str] = {}
    pairs = list(zip(messages["scenario"], messages["arm"], strict=True))
    for scenario, arm in set(pairs):
        template = campaign.template_of(scenario, step, arm)
        if template.startswith(BREVO_TEMPLATE):
            template = f"{BREVO_TEMPLATE}{tenant.brevo.templates[template.removeprefix(BREVO_TEMPLATE)]}"
        made[scenario, arm] = template
    return pd.Series([made[pair] for pair in pairs], index=messages.index, dtype="object")


def brevo_template_ids(tenant: Tenant, campaign: Campaign, step: int | None = None) -> list[int]:
    """The templates kept at Brevo that a campaign (or one step of it) is made with."""
    said = {campaign.says(*variant).template for variant in campaign.variants if step in (None, variant[0])}
    names = {name.removeprefix(BREVO_TEMPLATE) for name in said if name and name.startswith(BREVO_TEMPLATE)}
    return sorted(tenant.brevo.templates[name] for name in names)


def _calls(tenant: Tenant, campaign: Campaign, messages: pd.DataFrame, rules: BusinessRules, step: int) -> int:
    """About how many calls the messages need, by Brevo's limits of count and bytes.

    Exact for the params of templates kept at Brevo, where RefusalError PARAMS_TOO_LARGE names a message that is more
    than Brevo takes; of our own HTML a sample is rendered.
    """
    if campaign.channel != EMAIL or messages.empty:
        return 0
    limits, calls = rules.activation, 0
    is_brevo = messages["template"].str.startswith(BREVO_TEMPLATE)
    for _, group in messages[is_brevo].groupby("template"):
        sizes = np.array([len(orjson.dumps(brevo_params(params, tenant))) for params in group["params"]])
        if (largest := int(sizes.max())) > limits.params_max_bytes.version:
            raise RefusalError(
                "PARAMS_TOO_LARGE",
                f"message {group['message_id'].iloc[int(sizes.argmax())]} has {largest} bytes of params; Brevo takes"
                f" {limits.params_max_bytes.version} a message. Show fewer wines, or shorten their sentences",
            )
        calls += _packed(len(group), float(sizes.mean()), limits.params_max_bytes.call, rules)
    own = messages[~is_brevo]
    if len(own):
        sample = own.iloc[:: max(1, len(own) // _SAMPLE_RENDERED)].head(_SAMPLE_RENDERED)
        rendered = [
            len(canonical(render(campaign, tenant, params, kind=kind, arm=arm, step=step)))
            for params, kind, arm in sample[["params", "template", "arm"]].itertuples(index=False)
        ]
        calls += _packed(len(own), float(np.mean(rendered)), limits.chunk_max_bytes, rules)
    return calls


def _packed(count: int, mean_bytes: float, room: int, rules: BusinessRules) -> int:
    """Calls that `count` messages of that size need."""
    each = min(rules.activation.chunk_max_messages, max(1, int(room // max(mean_bytes, 1.0))))
    return math.ceil(count / each)
