"""Why a customer gets a message, or none: what is known of one customer of one run, as an answer and its grounds.

The first sentence answers; the sections below it lead back to files and lines, orders, scores, permission, audit,
review and campaigns. Codes, dates, counts and values only: no name, no address, no e-mail, no phone, no comment.
Nothing is decided here: the answer says what the gate and the plans have decided. No SQL, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, get_args

import pandas as pd

from crm_assets.campaigns import Audience, Campaign
from crm_assets.logic import activation, audit, gate
from crm_assets.logic.findings_wording import findings_said
from crm_assets.rules import BusinessRules, CustomerType
from crm_assets.tenants import Tenant

AUDIENCE_CRITERIA = ("types", "segments", "clusters", "scenarios", "departments", "countries")
# What an audience looks at, by the name of its criterion.
_LOOKED_AT = {
    "types": "type",
    "segments": "segment",
    "clusters": "cluster_name",
    "scenarios": "scenario",
    "departments": "postal_code",
    "countries": "country",
}
# What the state of a message means, where it is the answer; of several messages the first here is told.
_MESSAGE_STATES = {
    "sending": "Being sent in {plan}, batch {batch}",
    "sent": "Sent in {plan}, batch {batch}, on {sent}",
    "unknown": "Handed to Brevo in {plan}, batch {batch}; whether it arrived is not known yet",
    "planned": "Planned in {plan}, batch {batch}; not sent yet",
    "holdout": "Held out to measure the effect: in {plan} this address gets no message on purpose",
    "failed": "No message: Brevo refused the one of {plan}, batch {batch}",
    "superseded": "No message: the one of {plan} was replaced before it was sent",
}
_PURCHASES = {
    "bought": "bought: none of the wines asked for in those days",
    "not_bought": "not_bought: has bought one of these wines in those days",
}
_BARRED = {
    "PHONE_OPT_OUT": "calls to this number are refused",
    "POST_OPT_OUT": "letters to this address are refused",
    "MOVED": "the customer has moved",
    "NO_PHONE": "no telephone number is known",
    "NO_POSTAL_ADDRESS": "no whole postal address is known",
}
_REVIEW_REASONS = (gate.REVIEW_PENDING, gate.REVIEW_FAILED, gate.REVIEW_REJECTED)


@dataclass(frozen=True)
class CampaignState:
    """What a campaign file says, and what became of it: its newest plan and this customer's message in it.

    `plan`: the row of activation.campaigns of its newest occurrence; `message`: of activation.messages, with batch_no;
    `contact_code`: the code of another customer who has the message of the same address. `purchase_misses`: of bought
    and not_bought, what the customer does not meet. `barred`: why the customer cannot be called or written a letter.
    """

    campaign: Campaign
    plan: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    contact_code: str | None = None
    paused: str | None = None
    purchase_misses: list[str] = field(default_factory=list)
    barred: str | None = None


@dataclass(frozen=True)
class Known:
    """All that was read of one customer for one run; frames in the order in which they are shown.

    `customer`: columns of audit.customer_facts and curated.dim_customers; `action`, `decision`: rows of
    gate.next_actions and gate.decisions. `items`: what the engine proposed, `listed_rank` null where it was rejected.
    `checks`: rows of `audit.explain` on present data; empty for a run that is not in force, whose other values are
    gone. `findings`: what the audit of the run recorded.
    """

    tenant: Tenant
    rules: BusinessRules
    asked: str
    matched_by: str
    customer: dict[str, Any]
    run: dict[str, Any]
    decision: dict[str, Any]
    action: dict[str, Any] | None
    codes: pd.DataFrame
    cards: pd.DataFrame
    sales: pd.DataFrame
    refused_rows: pd.DataFrame
    orders: pd.DataFrame
    profile: dict[str, Any]
    items: pd.DataFrame
    checks: pd.DataFrame
    findings: pd.DataFrame
    is_sampled: bool
    sample_size: int
    contacts: pd.DataFrame
    events: pd.DataFrame
    contact_code: str | None
    tripped: list[str] = field(default_factory=list)  # ERROR checks of the circuit breaker with score 0
    campaigns: list[CampaignState] = field(default_factory=list)
    campaign_errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A part of the answer: one table, and what is to be known of it."""

    title: str
    columns: list[str]
    rows: list[list[Any]]
    note: str = ""


@dataclass(frozen=True)
class Answer:
    """The answer in one sentence, the code it rests on, and its grounds."""

    sentence: str
    code: str
    tenant: str
    run_id: str
    customer_id: str
    client_code: str
    sections: list[Section]

    def as_dict(self) -> dict[str, Any]:
        named: dict[str, list[dict[str, Any]]] = {}
        for section in self.sections:
            rows = [dict(zip(section.columns, row, strict=True)) for row in section.rows]
            named[section.title.lower().replace(" ", "_")] = rows
        notes = {section.title.lower().replace(" ", "_"): section.note for section in self.sections if section.note}
        return {
            "answer": self.sentence,
            "code": self.code,
            "tenant": self.tenant,
            "run_id": self.run_id,
            "customer_id": self.customer_id,
            "client_code": self.client_code,
            "sections": named,
            "notes": notes,
        }

    def as_text(self) -> str:
        """For a terminal: the sentence, then aligned tables."""
        parts = [self.sentence, ""]
        for section in self.sections:
            parts.append(section.title)
            if section.note:
                parts.append(f"  {section.note}")
            cells = [section.columns, *([_shown(value) for value in row] for row in section.rows)]
            if section.rows:
                widths = [max(len(row[column]) for row in cells) for column in range(len(section.columns))]
                parts += [
                    ("  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))).rstrip()
                    for row in cells
                ]
            parts.append("")
        return "\n".join(parts).rstrip()

    def as_markdown(self) -> str:
        """For the Dagster UI: the sentence as a heading, then tables."""
        parts = [f"## {_escaped(self.sentence)}", ""]
        for section in self.sections:
            parts += [f"### {section.title}", ""]
            if section.note:
                parts += [_escaped(section.note), ""]
            if section.rows:
                parts.append("| " + " | ".join(section.columns) + " |")
                parts.append("|" + " --- |" * len(section.columns))
                parts += ["| " + " | ".join(_escaped(_shown(value)) for value in row) + " |" for row in section.rows]
                parts.append("")
        return "\n".join(parts)


def _is_none(value: Any) -> bool:
    return value is None or (not isinstance(value, list | tuple | dict | pd.Series) and bool(pd.isna(value)))


def plain(value: Any) -> Any:
    """A value as JSON knows it: dates as ISO texts, numbers as Python's own, null for what is missing."""
    if _is_none(value):
        return None
    if isinstance(value, pd.Timestamp | datetime):
        at_midnight = (value.hour, value.minute, value.second) == (0, 0, 0)
        return value.date().isoformat() if at_midnight else value.isoformat(" ", "minutes")[:16]
    if isinstance(value, date):
        return value.isoformat()
    value = value.item() if hasattr(value, "item") else value
    return round(value, 4) if isinstance(value, float) else value


def _shown(value: Any) -> str:
    value = plain(value)
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _rows(frame: pd.DataFrame, columns: list[str]) -> list[list[Any]]:
    return [[plain(value) for value in row] for row in frame[columns].itertuples(index=False, name=None)]


# --- the answer


def _say(code: str, measured: Any, threshold: Any, details: Any = None) -> str:
    """A reason or finding in words; where its values were not kept, the words that were."""
    if _is_none(measured):
        return str(details) if not _is_none(details) else ""
    one = pd.DataFrame([{"rule_code": code, "measured": measured, "threshold": threshold}])
    return str(findings_said(one, "en").iloc[0])


def _with_reason(code: str, said: str) -> str:
    return f"{code}: {said}" if said else code


def _permission_sentence(known: Known, code: str) -> str:
    held = known.checks
    if len(held):
        held = held[(held["kind"] == "permission") & held["holds"].astype(bool)]
    first, others = held[held["code"] == code], [other for other in held["code"] if other != code]
    # What bars them besides: a till account would still be one two weeks after its last order.
    also = f"; also {', '.join(others)}" if others else ""
    if first.empty:
        return code + also
    return _with_reason(code, _say(code, first.iloc[0]["measured"], first.iloc[0]["threshold"])) + also


def _finding_sentence(known: Known, severity: str) -> str:
    found = known.findings[known.findings["severity"] == severity].sort_values(
        ["rule_no", "product_key"], kind="stable"
    )
    if found.empty:
        return ""
    first = found.iloc[0]
    text = _with_reason(
        first["rule_code"], _say(first["rule_code"], first["measured"], first["threshold"], first["details"])
    )
    others = list(dict.fromkeys(code for code in found["rule_code"] if code != first["rule_code"]))
    return text + (f"; also {', '.join(others)}" if others else "")


def _own_reason(known: Known) -> tuple[str, str] | None:
    """Why the gate does not let this customer through: code and words; None when it does."""
    action = known.action
    if action is None:
        return "NOT_IN_RUN", "the customer was not known when the run was made; refresh the estate"
    if not _is_none(action["permission_reason"]):
        return action["permission_reason"], _permission_sentence(known, action["permission_reason"])
    if bool(action["eligible"]):
        return None
    errors = _finding_sentence(known, audit.ERROR)
    if errors:
        rejected = len(known.items) > 0 and known.items["listed_rank"].isna().all()
        more = "; every item was rejected in review" if rejected else ""
        if action["reason"] == "NO_RECOMMENDATION" and plain(known.profile.get("profiling_objected")) is True:
            more = "; the person objects to profiling, and is recommended nothing"
        return action["reason"], errors + more
    if action["reason"] in _REVIEW_REASONS:
        return action["reason"], f"{action['reason']}: {_held_by_review(known, action['reason'])}"
    score, least = int(action["audit_score"]), known.rules.audit.min_score
    warnings = _finding_sentence(known, audit.WARN)
    return action["reason"], f"audit score {score}, at least {least} is needed: {warnings}"


def _held_by_review(known: Known, reason: str) -> str:
    """What review waits for, or has said."""
    if reason == gate.REVIEW_REJECTED:
        return "a reviewer rejected what it would say"
    said, items = known.items["decision"], len(known.items)
    undecided, put_off = int((~said.isin(["approve", "reject"])).sum()), int((said == "later").sum())
    if reason == gate.REVIEW_FAILED:
        return (
            "too many customers of the sample had an item rejected, so every item is to be approved:"
            f" {undecided} of {items} are not decided"
        )
    if put_off:
        return f"a reviewer put {put_off} of {items} items off"
    if known.tenant.review == "required":
        return f"every item must be approved (review: required): {undecided} of {items} are not decided"
    where = f"in it, {undecided} of {items} items undecided" if known.is_sampled else "not in it"
    return f"the sample of {known.sample_size} customers is not wholly decided; this customer is {where}"


def _plan_name(state: CampaignState) -> str:
    return f"{state.plan['campaign']} {state.plan['occurrence']}" if state.plan else state.campaign.name


def _is_current(known: Known, state: CampaignState) -> bool:
    """Whether a campaign's newest plan is of the run told of, or still to be sent on its day."""
    if state.plan is None:
        return False
    of_run = state.plan["run_id"] == known.run["run_id"]
    return of_run or (bool(known.run["is_in_force"]) and not _is_expired(known, state.plan))


def _is_expired(known: Known, plan: dict[str, Any]) -> bool:
    return pd.Timestamp(plan["expires_on"]) < pd.Timestamp(known.run["as_of"])


def _message_sentence(known: Known, state: CampaignState) -> str:
    assert state.message is not None
    assert state.plan is not None
    message, status = state.message, state.message["status"]
    text = _MESSAGE_STATES[status].format(
        plan=_plan_name(state), batch=_shown(message.get("batch_no")), sent=_shown(message.get("sent_at"))
    )
    if status != "planned":
        return text
    if _is_expired(known, state.plan):
        return f"No message: planned in {_plan_name(state)}, but the plan expired on {_shown(state.plan['expires_on'])}"
    if state.paused:
        return f"{text}: the campaign is paused"
    return text


def left_out(known: Known, state: CampaignState) -> tuple[str, str]:
    """Why a campaign has no message for this customer: code and words."""
    campaign = state.campaign
    misses = audience_misses(known, campaign) + [_PURCHASES[name] for name in state.purchase_misses]
    if misses:
        return "NOT_IN_AUDIENCE", f"not in the audience of {campaign.name} ({'; '.join(misses)})"
    if not campaign.active:
        return "NOT_ACTIVE", f"campaign {campaign.name} is switched off (active: false)"
    blocked = _blocked_for(known, campaign)
    if blocked:
        return blocked
    if state.barred:
        return state.barred, _with_reason(state.barred, _BARRED[state.barred])
    if not _is_current(known, state):
        if not campaign.is_due(pd.Timestamp(known.run["as_of"]).date(), known.rules):
            return "NOT_DUE", f"campaign {campaign.name} is for {campaign.send_on}: it is not its day"
        if state.paused:
            return "PAUSED", f"campaign {campaign.name} is paused"
        return "NOT_PLANNED", f"campaign {campaign.name} has not been planned from this run yet"
    if state.contact_code:
        return "SAME_ADDRESS", f"{_plan_name(state)} writes to {state.contact_code}, who has the same address"
    if state.plan and state.plan["run_id"] != known.run["run_id"]:
        return "OTHER_RUN", f"{_plan_name(state)} was planned from run {state.plan['run_id']}, which left them out"
    return "NO_ITEM_TO_SHOW", f"{_plan_name(state)} could show no item: a product lacks a price, vintage or format"


def audience_misses(known: Known, campaign: Campaign) -> list[str]:
    """The criteria of the campaign's audience that this customer does not meet, in words."""
    scenario = known.action["scenario"] if known.action else None
    person = {name: known.customer.get(name) for name in ("type", "postal_code", "country")}
    person |= {name: known.profile.get(name) for name in ("segment", "cluster_id", "cluster_name")}
    people = pd.DataFrame([{**person, "scenario": scenario}]).astype("object")
    misses = []
    for name in AUDIENCE_CRITERIA:
        wanted = list(getattr(campaign.audience, name))
        if not wanted:
            continue
        alone = Audience(**{"types": list(get_args(CustomerType)), name: wanted})
        if not activation.in_audience(people, campaign.model_copy(update={"audience": alone}), known.tenant.country)[0]:
            value = people[_LOOKED_AT[name]][0]
            if name == "departments":
                country = people["country"].where(people["country"].notna(), known.tenant.country)
                value = activation.departments(people["postal_code"], country)[0]
            misses.append(f"{name}: {_shown(value)}, wanted {', '.join(map(str, wanted))}")
    return misses


def _blocked_for(known: Known, campaign: Campaign) -> tuple[str, str] | None:
    """Why the gate's verdict bars this campaign; an event or news is about no wine (spec.md §7)."""
    own = _own_reason(known)
    if own is None or known.action is None:
        return own
    actions = pd.DataFrame([known.action])
    found = known.findings.assign(customer_id=known.action["customer_id"])
    held = {known.action["customer_id"]: own[0]} if own[0] in (gate.REVIEW_PENDING, gate.REVIEW_FAILED) else None
    return None if activation.verdicts(campaign, actions, found, known.rules, held)["eligible"][0] else own


def held_back_now(known: Known) -> list[str]:
    """Reasons and errors of rules 1 to 9 that hold on present data and did not when the run was made."""
    if known.checks.empty:
        return []
    holds = known.checks[known.checks["holds"].astype(bool)]
    recorded = set(known.findings["rule_code"])
    is_rechecked = (holds["kind"] == "permission") | (holds["number"] <= audit.LAST_RULE_RECHECKED_AT_SEND)
    is_new = ~holds["code"].isin(recorded)
    if known.action is not None and not _is_none(known.action["permission_reason"]):
        is_new &= holds["kind"] != "permission"
    return list(dict.fromkeys(holds.loc[is_rechecked & is_new, "code"]))


def _gate_reasons(known: Known) -> str:
    """Why the gate is closed, with the checks that trip the circuit breaker."""
    cause = ", ".join(known.tripped) or f"data quality {_shown(known.decision['data_quality_score'])}"
    reasons = known.decision["reasons"] or []
    return ", ".join(f"{reason} ({cause})" if reason == "CIRCUIT_BREAKER" else reason for reason in reasons)


def answer_sentence(known: Known) -> tuple[str, str]:
    """The answer in one sentence, and the code it rests on."""
    gate_words = f"the gate is closed: {_gate_reasons(known)}"
    is_open = known.decision["status"] == gate.OPEN
    current = [state for state in known.campaigns if state.message is not None and _is_current(known, state)]
    # What was sent says more than what may be, or may have expired; that more than what was held out or replaced.
    order = list(_MESSAGE_STATES)
    for state in sorted(current, key=lambda state: order.index(state.message["status"])):  # type: ignore[index]
        assert state.message is not None
        text, status = _message_sentence(known, state), state.message["status"]
        if status == "planned" and text.startswith("Planned"):
            if not is_open:
                return f"{text}: {gate_words}", "GATE_CLOSED"
            held = held_back_now(known)
            if held:
                return f"{text}: on present data it would be held back ({', '.join(held)})", held[0]
        return text, status.upper()
    own = _own_reason(known)
    if not is_open:
        besides = f"; besides, {own[1]}" if own else ""
        return f"No message: {gate_words}{besides}", "GATE_CLOSED"
    if own is not None:
        return f"No message: {own[1]}", own[0]
    if not known.campaigns:
        return "No message: the customer may be written to, but the estate has no campaign", "NO_CAMPAIGN"
    reasons = [left_out(known, state) for state in known.campaigns]
    inside = [reason for reason in reasons if reason[0] not in ("NOT_IN_AUDIENCE", "NOT_ACTIVE")]
    # The campaign that came nearest: one that was planned, else one that waits.
    waiting = ("NOT_PLANNED", "NOT_DUE", "PAUSED")
    for reason in sorted(inside, key=lambda reason: reason[0] in waiting):
        start = "No message yet" if reason[0] in waiting else "No message"
        return f"{start}: the customer may be written to, but {reason[1]}", reason[0]
    return f"No message: the customer may be written to, but is {'; '.join(said for _, said in reasons)}", reasons[0][0]


# --- the grounds


def _customer_section(known: Known) -> Section:
    customer, note = known.customer, ""
    if known.asked != customer["client_code"] and known.asked != customer["customer_id"]:
        how = {"email": "the same e-mail address", "phone": "the same phone number"}.get(known.matched_by, "its code")
        note = f"{known.asked} is another code of customer {customer['client_code']}, merged by {how}."
    rows = [
        ["customer_id", customer["customer_id"]],
        ["client codes", ", ".join(known.codes["client_code"])],
        ["type, status", f"{_shown(customer['type'])}, {_shown(customer['status'])}"],
        *([name, plain(value)] for name, value in known.profile.items()),
    ]
    return Section("Customer", ["what", "value"], rows, note)


def _file_sections(known: Known, shown: int) -> list[Section]:
    cards = Section(
        "Cards in client files",
        ["file", "line", "code"],
        _rows(known.cards, ["path", "source_line", "client_code"]),
        "" if len(known.cards) else "No client file has these codes: the customer is known from sales only.",
    )
    by_file = known.sales.groupby("path", sort=True)["source_line"].agg(["size", "min", "max"]).reset_index()
    files = Section("Sales lines by file", ["file", "lines", "first", "last"], _rows(by_file, list(by_file.columns)))
    # fmt: off
    columns = [
        "sale_date", "document_no", "document_type", "product_key", "quantity", "amount_ht", "is_counted", "place",
    ]
    # fmt: on
    last = known.sales.head(shown)
    last = last.assign(place=last["path"].astype("str") + ":" + last["source_line"].astype("str"))
    lines = Section(
        "Last sales lines",
        ["date", "document", "document type", "product", "quantity", "amount HT", "counts", "file:line"],
        _rows(last, columns),
        f"{len(known.sales)} lines in all; `crm mapping line FILE:LINE` shows one as it stands in its file.",
    )
    found = [cards, files, lines]
    if len(known.refused_rows):
        rows = [
            [place, ", ".join(codes), plain(resolved)]
            for place, codes, resolved in known.refused_rows[["place", "codes", "resolved_by"]].itertuples(index=False)
        ]
        found.append(Section("Refused rows", ["file:line", "codes", "mended by"], rows, "They count nowhere."))
    return found


def _orders_section(known: Known, shown: int) -> Section:
    orders, counted = known.orders, known.orders[known.orders["is_qualifying"].astype(bool)]
    note = f"{len(counted)} orders count"
    if len(counted):
        note += f", from {_shown(counted['order_date'].min())} to {_shown(counted['order_date'].max())}"
    columns = ["order_date", "document_no", "document_type", "lines", "amount_ht", "is_qualifying"]
    titles = ["date", "document", "document type", "lines", "amount HT", "counts"]
    return Section("Orders", titles, _rows(orders.head(shown), columns), f"{note}; {len(orders)} documents in all.")


def _items_section(known: Known) -> Section:
    # fmt: off
    columns = [
        "rank", "listed_rank", "scenario", "product_key", "wine_id", "score", "probability", "confidence",
        "explain_short", "decision", "decided_at", "decided_run_id",
    ]
    titles = [
        "rank", "after review", "scenario", "product", "wine", "score", "probability", "confidence", "reason",
        "review", "decided", "in run",
    ]
    # fmt: on
    return Section(
        "Recommended items",
        titles,
        _rows(known.items, columns),
        "" if len(known.items) else "The engine proposed nothing.",
    )


def _check_sections(known: Known) -> list[Section]:
    if known.checks.empty:
        rows = _rows(known.findings, ["rule_no", "rule_code", "severity", "measured", "threshold", "product_key"])
        titles = ["no", "rule", "severity", "measured", "threshold", "product"]
        note = "Another run is in force: of this one only what the audit found was kept."
        return [Section("Audit", titles, rows, note)]
    found = []
    for kind, title, start in (
        ("permission", "Permission", "The first reason that holds bars every message."),
        ("rule", "Audit", "One error bars the message; score = 100 - points of errors and warnings."),
    ):
        part = known.checks[known.checks["kind"] == kind]
        said = [
            _say(code, measured, threshold) if holds else ""
            for code, measured, threshold, holds in part[["code", "measured", "threshold", "holds"]].itertuples(
                index=False
            )
        ]
        columns = ["number", "code", *(["severity"] if kind == "rule" else []), "holds", "measured", "threshold"]
        columns += ["product_key"] if kind == "rule" else []
        rows = [[*row, text] for row, text in zip(_rows(part, columns), said, strict=True)]
        titles = [{"number": "no", "product_key": "product"}.get(name, name) for name in columns]
        found.append(Section(title, [*titles, "in words"], rows, start))
    if known.contact_code:
        note = f" The contact of this address is {known.contact_code}."
        found[0] = Section(found[0].title, found[0].columns, found[0].rows, found[0].note + note)
    now = held_back_now(known)
    if now:
        audited = found[1]
        note = f"{audited.note} Holds since the run was made, and is checked again when sending: {', '.join(now)}."
        found[1] = Section(audited.title, audited.columns, audited.rows, note)
    return found


def _gate_section(known: Known) -> Section:
    decision, action = known.decision, known.action
    rows: list[list[Any]] = [
        ["run", known.run["run_id"]],
        ["as of", plain(known.run["as_of"])],
        ["in force", bool(known.run["is_in_force"])],
        ["rules_version", known.run["rules_version"]],
        ["gate", decision["status"]],
        ["gate reasons", _gate_reasons(known) or None],
        ["data quality score", plain(decision["data_quality_score"])],
        ["review mode", known.tenant.review],
        ["in the sample", f"{'yes' if known.is_sampled else 'no'}, of {known.sample_size} customers"],
    ]
    if action is not None:
        names = ("permitted", "permission_reason", "scenario", "n_items", "audit_score", "eligible", "reason")
        rows += [[name, plain(action[name])] for name in names]
    return Section("Run, gate and review", ["what", "value"], rows)


def _campaign_section(known: Known) -> Section:
    rows = []
    for state in known.campaigns:
        plan, message = state.plan or {}, state.message
        if message is not None and _is_current(known, state):
            said = _message_sentence(known, state)
        elif message is not None:
            said = f"{message['status']} in the last plan; " + left_out(known, state)[1]
        else:
            said = left_out(known, state)[1]
        row = [state.campaign.name, state.campaign.kind, plan.get("occurrence"), plan.get("run_id")]
        batch, status = (message.get("batch_no"), message["status"]) if message else (None, None)
        rows.append([*row, plain(plan.get("expires_on")), status, plain(batch), said])
    titles = ["campaign", "kind", "last plan", "of run", "expires", "message", "batch", "in words"]
    errors = "; ".join(known.campaign_errors.values())
    return Section("Campaigns", titles, rows, f"Wrong files: {errors}" if errors else "")


def _history_sections(known: Known, shown: int) -> list[Section]:
    contacts = known.contacts.head(shown)
    columns = ["contact_date", "channel", "status", "campaign_id", "place"]
    events = known.events.head(shown)
    return [
        Section(
            "Contacts of the address",
            ["date", "channel", "status", "campaign", "file:line"],
            _rows(contacts, columns),
            f"{len(known.contacts)} in all; rules 4 to 7 look at the address, whoever has it.",
        ),
        Section(
            "Events of sent messages",
            ["at", "event", "campaign", "channel"],
            _rows(events, ["occurred_at", "event", "campaign", "channel"]),
            f"{len(known.events)} in all.",
        ),
    ]


def answer(known: Known, shown: int = 8) -> Answer:
    """The answer and its grounds; of lines, orders, contacts and events the last `shown`."""
    sentence, code = answer_sentence(known)
    return Answer(
        sentence=sentence,
        code=code,
        tenant=known.tenant.slug,
        run_id=known.run["run_id"],
        customer_id=known.customer["customer_id"],
        client_code=known.customer["client_code"],
        sections=[
            _gate_section(known),
            _campaign_section(known),
            *_check_sections(known),
            _items_section(known),
            _customer_section(known),
            _orders_section(known, shown),
            *_history_sections(known, shown),
            *_file_sections(known, shown),
        ],
    )
