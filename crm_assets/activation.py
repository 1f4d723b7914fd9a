"""Planning a campaign against a tenant's database: reads, one plain function, one transaction.

Shared by the Dagster asset and by `crm plan`; runs without Dagster. Every refusal is a
`RefusalError` with a code and a sentence. What is planned is decided in `logic/activation.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pandas as pd
import psycopg

from crm_assets import feedback, gating, tables
from crm_assets.campaigns import Campaign, CampaignFiles
from crm_assets.logic import activation, gate, message_checks, messages, pushed, review
from crm_assets.logic.activation import EMAIL, FIRST_STEP, PHONE, RESTORED, Gate, RefusalError
from crm_assets.resources.warehouse import Warehouse, copy_frame
from crm_assets.rules import BusinessRules
from crm_assets.run_context import GATE_IN_FORCE, TenantRun
from crm_assets.tenants import Tenant

if TYPE_CHECKING:
    from crm_assets.resources.brevo import Brevo

_GATE = "select run_id, as_of, status, reasons from gate.decisions" + GATE_IN_FORCE
_STEP = "campaign = %s and occurrence = %s and step = %s"
# Feeds of activation.pulls that tell of messages sent from Brevo's own screens.
_FOREIGN_CONTACTS = ("campaigns", "events")
# Orders of whoever has an address now, and of whom its message was for.
_ORDERS_OF_ADDRESSES = """
select lower(trim(facts.email)) as address, orders.order_date
from curated.fct_orders as orders
inner join audit.customer_facts as facts using (customer_id)
where orders.is_qualifying and orders.order_date >= %s and facts.email is not null
union all
select messages.address, orders.order_date
from (select address, customer_id from activation.messages where {step}) as messages
inner join curated.fct_orders as orders using (customer_id)
where orders.is_qualifying and orders.order_date >= %s
"""
_CHANNEL_COLUMNS = ["customer_id", "status", "phone", "phone_opt_out", "post_opt_out", "address", "postal_code", "city"]


@dataclass(frozen=True)
class PlanSummary:
    """What `crm plan` says. `is_new` is false when this step had been planned before, or was only counted: nothing was
    changed.

    `audience` = messages planned and held out. `addressed`, `eligible`, `left_out`, `arms` and `calls` (about how many
    to Brevo) are known while it is planned or counted, not afterwards.
    """

    campaign: str
    occurrence: str
    step: int
    run_id: str
    plan_hash: str
    audience: int
    planned: int
    holdout: int
    batches: int
    as_of: date
    expires_on: date
    is_new: bool
    addressed: int | None = None
    eligible: int | None = None
    calls: int | None = None
    arms: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    refused_products: dict[str, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentences(self) -> list[str]:
        """What people are told, without a name: the plan or the count, who is left out and why, what to mind."""
        state = "counted, nothing written" if self.addressed is not None else "had been planned"
        state = "planned" if self.is_new else state
        step = f" step {self.step}" if self.step > FIRST_STEP else ""
        calls = f" (about {self.calls} calls to Brevo)" if self.calls else ""
        arms = "".join(f", {count} in arm {name}" for name, count in self.arms.items())
        plan_hash = f", plan hash {self.plan_hash}" if self.is_new or self.addressed is None else ""
        told = []
        if self.addressed is not None:
            told.append(f"{self.addressed} addressed, {self.eligible} of them may be written to")
        told += [f"left out, {reason} {count}" for reason, count in self.left_out.items()]
        told += [f"product {key} not shown, it lacks {', '.join(each)}" for key, each in self.refused_products.items()]
        told += [f"mind: {warning}" for warning in self.warnings]
        return [
            f"{self.campaign} {self.occurrence}{step}: {state}, {self.planned} messages in {self.batches} batches"
            f"{calls}{arms}, {self.holdout} held out{plan_hash}",
            *(f"{self.campaign}: {line}" for line in told),
        ]


def gate_in_force(warehouse: Warehouse) -> Gate | None:
    """The newest decision of a run of the present."""
    found = warehouse.rows(_GATE)
    if not found:
        return None
    run_id, as_of, status, reasons = found[0]
    return Gate(run_id, as_of, status, tuple(reasons))


def require_running(connection: psycopg.Connection, campaign: str) -> None:
    """RefusalError when this campaign, or all of them, are paused."""
    paused = connection.execute(
        "select campaign, reason from activation.pauses where resumed_at is null and campaign in ('*', %s)"
        " order by paused_at limit 1",
        [campaign],
    ).fetchone()
    if paused:
        what = "all campaigns are" if paused[0] == "*" else f"campaign {campaign} is"
        raise RefusalError("PAUSED", f"{what} paused: {paused[1]}")


def _people(
    warehouse: Warehouse, tenant: Tenant, gate_row: Gate, campaign: Campaign, rules: BusinessRules, as_of: date
) -> pd.DataFrame:
    """One row per customer of the run, with what an audience may ask for (see `logic.activation.Known`)."""
    run = [gate_row.run_id]
    columns = ["customer_id", "permitted", "permission_reason", "scenario", "eligible", "reason"]
    actions = warehouse.read("gate", "next_actions", columns, "run_id = %s", run)
    found = warehouse.read("audit", "findings", ["customer_id", "rule_no", "rule_code", "severity"], "run_id = %s", run)
    facts = warehouse.read("audit", "customer_facts", ["customer_id", "email", "type", "postal_code", "country"])
    segments = warehouse.read("rfm", "customer_rfm", ["customer_id", "segment"])
    clusters = warehouse.read("customers", "clusters", ["customer_id", "cluster_id", "cluster_name"])
    said = activation.verdicts(campaign, actions, found, rules)
    if campaign.kind == "reco" and campaign.channel != EMAIL:
        held = _held_by_review(warehouse, tenant, gate_row, actions.loc[said["eligible"], "customer_id"], rules)
        said = activation.verdicts(campaign, actions, found, rules, held)
    people = actions[["customer_id", "scenario"]].assign(**said)
    for more in (facts.rename(columns={"email": "address"}), segments, clusters):
        people = people.merge(more, on="customer_id", how="left", validate="one_to_one")
    people["holdout_key"] = people["address"].astype("str").str.strip().str.lower()
    people = _heard_since(warehouse, campaign, people)
    if campaign.channel != EMAIL:
        people = _on_channel(warehouse, campaign, people, rules, as_of)
    # An address may have been erased since the run was made.
    people = _bar(people, people["address"].isna(), "NO_ADDRESS")
    if campaign.is_profiled:
        objected = warehouse.read("curated", "dim_customers", ["customer_id"], "profiling_objected")["customer_id"]
        people = _bar(people, people["customer_id"].isin(objected), "PROFILING_OBJECTED")
    return people


def _heard_since(warehouse: Warehouse, campaign: Campaign, people: pd.DataFrame) -> pd.DataFrame:
    """`people`, less whom Brevo's news of since the run bar: a list of calls is never checked again before it is used.

    By telephone and post a bounce says nothing, a refusal does (rules 4 and 5).
    """
    asked = people.loc[people["eligible"] & people["address"].notna(), "holdout_key"]
    with warehouse.transaction() as connection:
        barred = feedback.barred(connection, asked.tolist())
    code = people["holdout_key"].map(barred).astype("object")
    holds = code.notna() if campaign.channel == EMAIL else code == "OPT_OUT"
    return _bar(people, holds, code)


def _bar(people: pd.DataFrame, is_barred: pd.Series, code: str | pd.Series) -> pd.DataFrame:
    """`people`, of whom those barred are not eligible: for the reason they had, else for that code."""
    reason = people["reason"].where(~(is_barred & people["eligible"]), code)
    return people.assign(eligible=people["eligible"] & ~is_barred, reason=reason)


def _held_by_review(
    warehouse: Warehouse, tenant: Tenant, gate_row: Gate, customers: pd.Series, rules: BusinessRules
) -> dict[str, str]:
    """What review says of customers whom the gate never asked it about: by telephone and post, those without e-mail."""
    run = [gate_row.run_id]
    proposed = pd.DataFrame(columns=review.ITEM_KEY)
    if tenant.review != "auto":
        proposed = warehouse.read("recommendations", "items", review.ITEM_KEY, "run_id = %s", run)
    decided = [*review.ITEM_KEY, "decision"]
    held = gate.review_verdicts(
        customers,
        proposed,
        warehouse.read("review", "applied_decisions", decided, "run_id = %s", run),
        warehouse.read("review", "samples", ["customer_id"], "run_id = %s", run)["customer_id"],
        tenant.review,
        rules,
    )
    return {str(customer): str(code) for customer, code in held.items()}


def cards_of_channel(warehouse: Warehouse, campaign: Campaign) -> pd.DataFrame:
    """Every customer with the telephone number or the postal address as address, null where it is not known whole."""
    cards = warehouse.read("curated", "dim_customers", _CHANNEL_COLUMNS)
    street = cards["address"] + ", " + cards["postal_code"] + ", " + cards["city"]  # null where a part is unknown
    cards["address"] = cards["phone"] if campaign.channel == PHONE else street
    return cards.drop(columns=["phone", "postal_code", "city"])


def _on_channel(
    warehouse: Warehouse, campaign: Campaign, people: pd.DataFrame, rules: BusinessRules, as_of: date
) -> pd.DataFrame:
    """`people` with the telephone number or the postal address as address, and who may not be reached that way."""
    cards = cards_of_channel(warehouse, campaign)
    people = people.drop(columns="address").merge(cards, on="customer_id", how="left", validate="one_to_one")
    people["holdout_key"] = people["holdout_key"].where(people["holdout_key"].notna(), people["address"])
    barred = activation.barred_from_channel(campaign, people)
    people = _bar(people, barred.notna(), barred)
    # Rules 6 and 7 look at the e-mail address: contacts of people who have none are counted here.
    since = as_of - timedelta(days=rules.audit.fatigue_days)
    contacts = warehouse.read(
        "curated", "contact_events", ["customer_id", "contact_date"],
        "is_contact and address is null and customer_id is not null and contact_date > %s", [since],
    )  # fmt: skip
    told = contacts.groupby("customer_id")["contact_date"].agg(["max", "size"])
    recent = pd.Timestamp(as_of) - people["customer_id"].map(told["max"]) < pd.Timedelta(days=rules.audit.silence_days)
    people = _bar(people, recent, "SILENCE_WINDOW")
    tired = people["customer_id"].map(told["size"]).fillna(0) >= rules.audit.fatigue_contacts
    return _bar(people, tired, "MARKETING_FATIGUE")


def stored_plan(
    warehouse: Warehouse, campaign: str, occurrence: str | None, step: int | None = None
) -> dict[str, Any] | None:
    """The stored plan of an occurrence (None: the campaign's latest) and step (None: its latest), with its counts."""
    found = warehouse.query(
        "select c.*, (select count(*) from activation.batches b where b.campaign = c.campaign"
        " and b.occurrence = c.occurrence and b.step = c.step) as batches from activation.campaigns c"
        " where c.campaign = %s and c.occurrence = coalesce(%s, c.occurrence) and c.step = coalesce(%s, c.step)"
        ' order by c.planned_at desc, c.occurrence collate "C" desc, c.step desc limit 1',
        [campaign, occurrence, step],
    )
    return {str(name): value for name, value in found.to_dict("records")[0].items()} if len(found) else None


def fetched_of(stored: dict[str, Any]) -> dict[int, str]:
    """The templates kept at Brevo that a stored plan was made with: id -> hash of the content that was checked."""
    return {int(template): str(content) for template, content in (stored.get("fetched_templates") or {}).items()}


def plan_is_unchanged(
    tenant: Tenant, campaign: Campaign, stored: dict[str, Any], planned: pd.DataFrame | Iterable[pd.DataFrame]
) -> bool:
    """Whether the step's messages, its campaign's file, templates, wording, sender and estate are what was planned.

    `stored`: of `stored_plan`. `planned`: every message of that step, whatever became of it, or some at a time in
    order of message_id.
    """
    again = activation.plan_hash(tenant, campaign, stored["occurrence"], stored["run_id"], planned, fetched_of(stored))
    return again == stored["plan_hash"]


def _summary(stored: dict[str, Any]) -> PlanSummary:
    return PlanSummary(
        campaign=stored["campaign"],
        occurrence=stored["occurrence"],
        step=int(stored["step"]),
        run_id=stored["run_id"],
        plan_hash=stored["plan_hash"],
        audience=int(stored["audience"]),
        planned=int(stored["audience"]) - int(stored["holdout"]),
        holdout=int(stored["holdout"]),
        batches=int(stored["batches"]),
        as_of=stored["as_of"].date(),
        expires_on=stored["expires_on"].date(),
        is_new=False,
    )


def history_warnings(warehouse: Warehouse, tenant: Tenant) -> list[str]:
    """Why contacts made from Brevo's own screens may be missing here; while they are, silence may be broken."""
    known = {
        feed: (read_until, problem)
        for feed, read_until, problem in warehouse.rows("select feed, read_until, problem from activation.pulls")
    }
    said = []
    for feed in _FOREIGN_CONTACTS:
        read_until, problem = known.get(feed, (None, None))
        if not problem and (read_until or not tenant.brevo.live):
            continue
        why = f"the last try failed ({problem})" if problem else "they have never been read"
        until = f"; what is here ends at {read_until:%Y-%m-%d %H:%M} UTC" if read_until else ""
        said.append(
            f"{feed} of Brevo cannot be read: {why}{until}. What was sent from Brevo's own screens and has not been"
            " read does not count as a contact here: somebody may be written to within the days of silence"
        )
    return said


def _step_to_plan(
    warehouse: Warehouse, tenant: Tenant, campaign: Campaign, occurrence: str, as_of: date
) -> tuple[int, dict[str, Any] | None, str]:
    """The step that comes next; else the last one planned, as it is stored, and why the next one has to wait."""
    stored = stored_plan(warehouse, campaign.name, occurrence)
    if stored is None:
        return FIRST_STEP, None, ""
    last = int(stored["step"])
    if stored["status"] == "abandoned" and last < campaign.n_steps:
        return last, stored, f"there is no step {last + 1}: step {last} was abandoned"
    if stored["status"] == "abandoned":
        again = "a copy of its file under another name is" if occurrence == "once" else "its next occurrence is"
        return last, stored, f"{occurrence} was abandoned and is not planned again; {again}"
    if last >= campaign.n_steps:
        return last, stored, ""
    open_messages, newest = warehouse.rows(
        "select count(*) filter (where status in ('planned', 'sending', 'unknown')), max(sent_at) filter"
        f" (where status = 'sent') from activation.messages where {_STEP}",
        [campaign.name, occurrence, last],
    )[0]
    has_ended = stored["status"] in ("done", "abandoned") or as_of > stored["expires_on"].date()
    if open_messages and not has_ended:
        return (
            last,
            stored,
            f"step {last + 1} waits until step {last} has been sent ({open_messages} messages have not)",
        )
    if newest is None:
        return last, stored, f"there is no step {last + 1}: nothing of step {last} was sent"
    due = newest.astimezone(tenant.zone).date() + timedelta(days=campaign.gap_days(last + 1))
    if as_of < due:
        return last, stored, f"step {last + 1} is due on {due}"
    return last + 1, None, ""


def _followers(
    warehouse: Warehouse, tenant: Tenant, campaign: Campaign, occurrence: str, step: int
) -> pd.DataFrame | None:
    """What became of the step before (see `logic.activation.followers`); None for the first step."""
    if step == FIRST_STEP:
        return None
    columns = ["address", "status", "sent_at", "planned_at"]
    key = [campaign.name, occurrence, step - 1]
    previous = warehouse.read("activation", "messages", columns, _STEP, key)
    since = pd.to_datetime(previous["planned_at"], utc=True).min().date()
    orders = warehouse.query(_ORDERS_OF_ADDRESSES.format(step=_STEP), [since, *key, since])
    events = warehouse.read(
        "outcomes", "events", ["address", "event", "occurred_at", "is_machine"], "occurred_at >= %s", [since]
    )
    return activation.followers(previous, orders, events, campaign, tenant.zone)


def _known(
    warehouse: Warehouse,
    tenant: Tenant,
    campaign: Campaign,
    gate_row: Gate,
    rules: BusinessRules,
    as_of: date,
    step: int,
    fetched: dict[int, str],
) -> activation.Known:
    """Everything that planning a step looks at."""
    occurrence = campaign.occurrence_on(as_of)
    asks_for_purchases = campaign.audience.bought or campaign.audience.not_bought
    purchases = ["customer_id", "wine_id", "sale_date"]
    key = [campaign.name, occurrence, step]
    written = warehouse.read("activation", "messages", [*activation.HASHED, "status", "planned_at"], _STEP, key)
    numbers = warehouse.rows(f"select coalesce(max(batch_no), 0) from activation.batches where {_STEP}", key)[0]
    people = _people(warehouse, tenant, gate_row, campaign, rules, as_of)
    return activation.Known(
        people=people,
        items=_items(warehouse, tenant, campaign, gate_row, people, rules, as_of),
        products=warehouse.read("curated", "dim_products", [*messages.PRODUCT_COLUMNS, "family"]),
        purchases=warehouse.read("rfm", "purchases", purchases) if asks_for_purchases else None,
        followers=_followers(warehouse, tenant, campaign, occurrence, step),
        written=written if len(written) else None,
        n_batches=max(int(numbers[0]), written["batch_id"].nunique()),
        fetched=fetched,
    )


def _items(
    warehouse: Warehouse,
    tenant: Tenant,
    campaign: Campaign,
    gate_row: Gate,
    people: pd.DataFrame,
    rules: BusinessRules,
    as_of: date,
) -> pd.DataFrame:
    """The run's list as it stands (messages.ITEM_COLUMNS, scenario), with the wines that the campaign puts first."""
    if not campaign.wines.push:
        return gating.listed_items(warehouse, gate_row.run_id, [*messages.ITEM_COLUMNS, "scenario"])
    facts, _, customer_wines, sent_wines = gating.audit_frames(warehouse)
    rejected = warehouse.read("review", "decisions", ["customer_id", "wine_id", "decided_at"], "decision = 'reject'")
    local = pd.to_datetime(rejected["decided_at"], utc=True).dt.tz_convert(tenant.zone).dt.tz_localize(None)
    given = pushed.Facts(
        facts=facts,
        products=warehouse.read("curated", "dim_products"),
        customer_wines=customer_wines,
        sent_wines=sent_wines,
        rejections=rejected.assign(rejected_date=local.dt.normalize()),
        allocations=gating.allocations(warehouse, tenant),
        may_insert=tenant.review != "required",
        addressed=people.loc[
            people["eligible"] & activation.in_audience(people, campaign, tenant.country), "customer_id"
        ],
    )
    items = gating.listed_items(warehouse, gate_row.run_id, pushed.ITEM_COLUMNS)
    return pushed.pushed_items(campaign.wines.push, items, given, tenant, rules, as_of)


def plan_campaign(
    warehouse: Warehouse,
    tenant: Tenant,
    campaign: Campaign,
    rules: BusinessRules,
    as_of: date,
    now: datetime,
    *,
    client: Brevo | None = None,
    count_only: bool = False,
) -> PlanSummary:
    """Plan the step of `campaign` that comes next in the occurrence of `as_of`, once: a second call returns what was
    planned.

    Nothing is sent. `client` reads the templates that a campaign has at Brevo. `count_only`: nothing is written either;
    what would refuse the plan only for now is a warning. RefusalError: NO_DECISION, GATE_CLOSED, HISTORICAL,
    STALE_GATE, PAUSED, NOT_ACTIVE, NOT_DUE, LAST_ORDER_PAST, EMPTY_AUDIENCE, GATE_CHANGED, ALREADY_PLANNED,
    TEMPLATE_UNREADABLE, TEMPLATE_UNFIT, PARAMS_TOO_LARGE.
    """
    occurrence = campaign.occurrence_on(as_of)
    warnings = history_warnings(warehouse, tenant)
    step, stored, wait = _step_to_plan(warehouse, tenant, campaign, occurrence, as_of)
    if stored is not None:
        return PlanSummary(**{**asdict(_summary(stored)), "warnings": [*warnings, *filter(None, [wait])]})
    _require_newest_week(warehouse, campaign, occurrence)
    key = (campaign.name, occurrence, step)
    held = _read_back(warehouse, key)
    is_past = step == FIRST_STEP and campaign.send_on is not None and campaign.send_on < as_of
    if len(held) and is_past and not count_only:
        return _done_before(warehouse, tenant, campaign, key, held, now, warnings)
    for refusal in [*_not_now(campaign, rules, as_of, step), *_unfit(campaign, tenant, rules)]:
        if not count_only:
            raise refusal
        warnings.append(str(refusal))
    despite = activation.closures_that_do_not_count(campaign)
    gate_row = activation.require_open(gate_in_force(warehouse), as_of, rules, despite=despite)
    fetched = _fetched(warehouse, tenant, campaign, client, now, count_only=count_only)
    known = _known(warehouse, tenant, campaign, gate_row, rules, as_of, step, fetched)
    if campaign.kind == "reco" or campaign.audience.bought or campaign.audience.not_bought:
        warnings += [
            f"{name}: the catalogue has none" for name in activation.names_of_nothing(campaign, known.products)
        ]
    try:
        plan = activation.plan(tenant, campaign, gate_row, known, rules, as_of, step)
    except RefusalError as refusal:
        if refusal.code != activation.EMPTY_AUDIENCE or held.empty:
            raise
        if count_only:
            raise RefusalError(activation.EMPTY_AUDIENCE, _forgotten(step, held)) from None
        return _done_before(warehouse, tenant, campaign, key, held, now, warnings)
    is_new = not count_only and _store(warehouse, campaign, plan, gate_row, as_of, now, fetched)
    if is_new or count_only:
        return PlanSummary(
            campaign=plan.campaign,
            occurrence=plan.occurrence,
            step=step,
            run_id=plan.run_id,
            plan_hash=plan.plan_hash,
            audience=len(plan.messages),
            planned=plan.n_planned,
            holdout=plan.n_holdout,
            batches=len(plan.batches),
            as_of=as_of,
            expires_on=plan.expires_on,
            is_new=is_new,
            addressed=plan.addressed,
            eligible=plan.eligible,
            calls=plan.calls,
            arms=plan.arms,
            left_out=plan.left_out,
            refused_products=plan.refused_products,
            warnings=warnings,
        )
    stored = stored_plan(warehouse, plan.campaign, plan.occurrence, step)
    assert stored is not None
    return PlanSummary(**{**asdict(_summary(stored)), "warnings": warnings})


def _done_before(
    warehouse: Warehouse,
    tenant: Tenant,
    campaign: Campaign,
    key: tuple[str, str, int],
    held: pd.DataFrame,
    now: datetime,
    warnings: list[str],
) -> PlanSummary:
    """What is said of a step that a restore has forgotten and that nobody is left of: kept as done, nothing planned."""
    _keep_as_done(warehouse, tenant, campaign, key, held, now)
    stored = stored_plan(warehouse, *key)
    assert stored is not None
    return PlanSummary(**{**asdict(_summary(stored)), "warnings": [*warnings, _forgotten(key[2], held)]})


def _forgotten(step: int, held: pd.DataFrame) -> str:
    return (
        f"step {step} was sent before the database was restored: Brevo's log names {len(held)} messages of it, and"
        " nobody else is left to write to; planning keeps it as done"
    )


def _read_back(warehouse: Warehouse, key: tuple[str, str, int]) -> pd.DataFrame:
    """What a restore has read back from Brevo's log of a step without a plan; nothing where some of it may leave."""
    columns = [*activation.HASHED, "status", "planned_at", "sent_at"]
    held = warehouse.read("activation", "messages", columns, f"{_STEP} and run_id = %s", [*key, RESTORED])
    others = warehouse.rows(
        f"select count(*) from activation.messages where {_STEP} and status in ('planned', 'sending', 'unknown')", key
    )
    return held if others == [(0,)] else held.iloc[:0]


def _keep_as_done(
    warehouse: Warehouse,
    tenant: Tenant,
    campaign: Campaign,
    key: tuple[str, str, int],
    held: pd.DataFrame,
    now: datetime,
) -> None:
    """Write the row that a restore has lost of a step that was sent: it is done, and the next one can be planned."""
    occurrence, rules = key[1], tenant.business_rules
    fetched = dict.fromkeys(activation.brevo_template_ids(tenant, campaign), "")
    began = pd.to_datetime(held["sent_at"], utc=True).min()
    day = began.tz_convert(tenant.zone).date()
    row = {
        **dict(zip(("campaign", "occurrence", "step"), key, strict=True)),
        "run_id": RESTORED,
        "plan_hash": activation.plan_hash(tenant, campaign, occurrence, RESTORED, held, fetched),
        "audience": len(held),
        "holdout": 0,
        "as_of": day,
        "planned_at": now,
        "expires_on": day,
        "kind": campaign.kind,
        "channel": campaign.channel,
        "template_hash": messages.template_hash_of(campaign, tenant, rules, fetched),
        "status": "done",
        "began_at": began.to_pydatetime(),
        "ended_at": now,
        "wait_reason": RESTORED.upper(),
    }
    names, marks = ", ".join(row), ", ".join(f"%({name})s" for name in row)
    with warehouse.transaction() as connection:
        connection.execute(
            f"insert into activation.campaigns ({names}) values ({marks})"
            " on conflict (campaign, occurrence, step) do nothing".encode(),
            row,
        )


def _require_newest_week(warehouse: Warehouse, campaign: Campaign, occurrence: str) -> None:
    """RefusalError when a later week of a weekly campaign has been planned: it replaced this one."""
    if campaign.occurrence != "weekly":
        return
    (newest,) = warehouse.rows(
        "select max(occurrence collate \"C\") from activation.campaigns where campaign = %s and occurrence ~ '^[0-9]'",
        [campaign.name],
    )[0]
    if newest is not None and newest > occurrence:
        raise RefusalError(
            "HISTORICAL", f"{campaign.name} {newest} has been planned: {occurrence} is past and is not planned any more"
        )


def _not_now(campaign: Campaign, rules: BusinessRules, as_of: date, step: int) -> list[RefusalError]:
    """What keeps a campaign from being planned on that day, by its own file."""
    refusals = []
    if not campaign.active:
        refusals.append(RefusalError("NOT_ACTIVE", f"the file of campaign {campaign.name} says active: false"))
    if step == FIRST_STEP and not campaign.is_due(as_of, rules):
        day = f"campaign {campaign.name} leaves on {campaign.send_on}; today is {as_of}"
        past = ": that day is past, it is not planned any more" if campaign.send_on and campaign.send_on < as_of else ""
        refusals.append(RefusalError("NOT_DUE", day + past))
    return refusals


def _unfit(campaign: Campaign, tenant: Tenant, rules: BusinessRules) -> list[RefusalError]:
    """What keeps a campaign from being planned by what its messages would say."""
    try:
        message_checks.require_fit(campaign, tenant, rules)
    except RefusalError as refusal:
        return [refusal]
    return []


def _fetched(
    warehouse: Warehouse, tenant: Tenant, campaign: Campaign, client: Brevo | None, now: datetime, *, count_only: bool
) -> dict[int, str]:
    """id -> hash of the content of each template that the campaign has at Brevo, read, checked and stored now.

    For a count none of them is read, and the hashes are empty: a count has no plan hash.
    """
    from crm_assets import brevo_templates  # Brevo's client and its checks: most campaigns need neither

    wanted = activation.brevo_template_ids(tenant, campaign)
    if not wanted or count_only:
        return dict.fromkeys(wanted, "")
    if client is None:
        raise RefusalError(
            brevo_templates.TEMPLATE_UNREADABLE,
            f"campaign {campaign.name} uses templates kept at Brevo, and there is no key to read them with: set the"
            f" variable {tenant.brevo.api_key_variable}",
        )
    found = [
        brevo_templates.fetch_checked(
            warehouse, client, tenant, template, tenant.business_rules, now, needs_items=campaign.kind == "reco"
        )
        for template in wanted
    ]
    for template in found:
        brevo_templates.require_fit(template)
    return {template.template_id: template.content_hash for template in found}


def _store(
    warehouse: Warehouse,
    campaign: Campaign,
    plan: activation.Plan,
    gate_row: Gate,
    as_of: date,
    now: datetime,
    fetched: dict[int, str],
) -> bool:
    """Write a plan in one transaction; False when somebody else had planned this step meanwhile."""
    row = {
        "campaign": plan.campaign,
        "occurrence": plan.occurrence,
        "step": plan.step,
        "run_id": plan.run_id,
        "plan_hash": plan.plan_hash,
        "audience": len(plan.messages) + plan.n_written,
        "holdout": plan.n_holdout + plan.n_written_holdout,
        "as_of": as_of,
        "planned_at": now,
        "expires_on": plan.expires_on,
        "kind": campaign.kind,
        "channel": campaign.channel,
        "template_hash": plan.template_hash,
        "fetched_templates": orjson.dumps({str(k): v for k, v in fetched.items()}).decode() if fetched else None,
    }
    names, marks = ", ".join(row), ", ".join(f"%({name})s" for name in row)
    with warehouse.transaction() as connection:
        require_running(connection, plan.campaign)
        # The campaign's row is the lock: a second planner waits here for the first to commit, then finds
        # it taken.
        taken = connection.execute(
            f"insert into activation.campaigns ({names}) values ({marks})"
            " on conflict (campaign, occurrence, step) do nothing".encode(),
            row,
        ).rowcount
        if not taken:
            return False
        current = connection.execute(_GATE.encode()).fetchone()
        if (
            current is None
            or current[0] != plan.run_id
            or (current[2], tuple(current[3]))
            != (
                gate_row.status,
                gate_row.reasons,
            )
        ):
            raise RefusalError("GATE_CHANGED", "a newer decision of the gate came in while planning; plan again")
        copy_frame(connection, tables.batches, plan.batches)
        try:
            copy_frame(connection, tables.messages, plan.messages.assign(planned_at=now))
        except psycopg.errors.UniqueViolation:
            # PostgreSQL's own text quotes the address: it must not reach a log.
            raise RefusalError(
                "ALREADY_PLANNED",
                f"an address has a message of {plan.campaign} {plan.occurrence} already; nothing was planned",
            ) from None
        if campaign.occurrence == "weekly":
            _supersede_older(connection, plan, now)
    return True


def _supersede_older(connection: psycopg.Connection, plan: activation.Plan, now: datetime) -> None:
    """What older occurrences of a weekly campaign still hold unsent is dropped: nobody gets last week's too."""
    key = {
        "campaign": plan.campaign,
        "occurrence": plan.occurrence,
        "reason": activation.NEWER_OCCURRENCE,
        "now": now,
    }
    older = "campaign = %(campaign)s and (occurrence collate \"C\" < %(occurrence)s or occurrence = 'once')"
    connection.execute(
        f"update activation.messages set status = 'superseded', reason = %(reason)s"
        f" where {older} and status = 'planned'".encode(),
        key,
    )
    connection.execute(
        f"update activation.batches as batches set status = 'superseded' where {older} and status = 'planned'"
        " and not exists (select 1 from activation.messages as messages where messages.batch_id = batches.batch_id"
        " and messages.status <> 'superseded')".encode(),
        key,
    )
    connection.execute(
        "update activation.campaigns as campaigns set ended_at = %(now)s, wait_until = null, wait_reason = %(reason)s,"
        " status = case when began_at is null then 'abandoned' else 'done' end"
        f" where {older} and status in ('planned', 'waiting') and not exists ("
        "select 1 from activation.messages as messages"
        " where (messages.campaign, messages.occurrence, messages.step)"
        " = (campaigns.campaign, campaigns.occurrence, campaigns.step)"
        " and messages.status in ('planned', 'sending', 'unknown'))".encode(),
        key,
    )


def settle_reviews(run: TenantRun) -> None:
    """What a crash left between decisions and gate must not be planned or sent past."""
    from crm_assets import reviews  # it decides with the help of this module

    reviews.settle(run)


@contextmanager
def template_reader(run: TenantRun, campaign: Campaign) -> Iterator[Brevo | None]:
    """A client that reads the campaign's templates at Brevo; None where it has none there, or there is no key."""
    from crm_assets.clock import SystemClock
    from crm_assets.resources import brevo

    if not activation.brevo_template_ids(run.tenant, campaign):
        yield None
        return
    try:
        client = brevo.client(run.tenant, run.config, SystemClock(), mode="read")
    except brevo.LiveRefusedError:
        yield None  # planning says so, with what to do
        return
    with client:
        yield client


def plan(run: TenantRun, name: str, *, count_only: bool = False) -> dict[str, Any]:
    """Plan the campaign `name` of the run's tenant, as of the run's day, or only count whom it would reach."""
    from crm_assets import call_lists  # it writes with the help of this module

    settle_reviews(run)
    files = CampaignFiles(run.config.tenants, run.tenant)
    made = plan_run(run, files.get(name), count_only=count_only)
    if files.get(name).channel != EMAIL and not count_only:
        call_lists.write(run, files.campaigns)
    return {**made.as_dict(), "said": made.sentences()}


def plan_run(run: TenantRun, campaign: Campaign, *, count_only: bool = False) -> PlanSummary:
    """`plan_campaign` for a tenant's run."""
    with template_reader(run, campaign) as client:
        return plan_campaign(
            run.warehouse, run.tenant, campaign, run.rules, run.as_of, run.now, client=client, count_only=count_only
        )
