"""Why a customer gets a message, or none: for each reason there is, the first sentence is the right one."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest

from crm_assets.campaigns import Campaign
from crm_assets.logic import audit, gate, why
from crm_assets.logic.why import CampaignState, Known
from tests.logic import estate
from tests.logic.estate import AS_OF, ago, item, product

NOW = datetime(2025, 12, 31, 7, tzinfo=UTC)
WEEKLY = Campaign.model_validate(
    {"name": "weekly", "kind": "reco", "occurrence": "weekly", "subject": {"fr": "Notre sélection"}}
)
PLAN = {"campaign": "weekly", "occurrence": "2026-W01", "step": 1, "run_id": "run", "expires_on": ago(-7)}
SECRETS = {
    "email": "jeanne.muller@example.com",
    "phone": "+33612345678",
    "last_name": "MULLER",
    "first_name": "Jeanne",
    "address": "7 rue du Paradis",
    "city": "Turckheim",
    "postal_code": "68230",
}


def message(status: str = "planned", **changes: Any) -> dict[str, Any]:
    return {"status": status, "batch_no": 2, "sent_at": None, "scenario": "rebuy", **changes}


def planned(campaign: Campaign = WEEKLY, **changes: Any) -> CampaignState:
    plan = {**PLAN, **changes.pop("plan", {})}
    return CampaignState(campaign, **{"plan": plan, "message": message(), **changes})


def campaign(**changes: Any) -> Campaign:
    return Campaign.model_validate({**WEEKLY.model_dump(), **changes})


def known(
    *,
    person: dict[str, Any] | None = None,
    listed: list[dict[str, Any]] | None = None,
    catalogue: list[dict[str, Any]] | None = None,
    bought: tuple[Any, ...] = (),
    sent: tuple[Any, ...] = (),
    decisions: dict[str, str] | None = None,
    sample: tuple[str, ...] = (),
    review: str = "auto",
    tripped: bool = False,
    in_force: bool = True,
    campaigns: list[CampaignState] | None = None,
    **changes: Any,
) -> Known:
    """What is known of customer c1, whom nothing bars unless said, gated as the assets do it."""
    tenant = estate.tenant(review=review)
    rules = tenant.business_rules
    people = estate.facts(estate.customer(**(person or {})))
    rows = [item()] if listed is None else listed
    proposed = estate.items(*rows) if rows else estate.no_items()
    said = decisions or {}
    applied = proposed[["customer_id", "wine_id", "scenario", "product_key"]].assign(
        decision=[said.get(key) for key in proposed["product_key"]]
    )
    items = proposed[(applied["decision"] != "reject").to_numpy()]
    items = items.assign(rank=range(1, len(items) + 1))
    products = estate.products(*(catalogue or []))
    given = (people, products, estate.bought(*bought), estate.sent(*sent), tenant, rules, AS_OF)
    result = audit.audit(items, *given)
    held = gate.review_verdicts(
        gate.candidates(result.permissions, result.scores, rules),
        proposed,
        applied.dropna(subset="decision"),
        pd.Series(list(sample), dtype="object"),
        review,
        rules,
    )
    actions = gate.next_actions(people, result.permissions, result.scores, items, held, rules)
    breaker = audit.Breaker(20.0 if tripped else 97.0, tripped, ("STALE_SALES",) if tripped else ())
    decision = gate.decide(actions.assign(eligible=True), result.scores, breaker, 0, False, AS_OF, NOW, rules)
    shown = proposed.assign(probability=0.1, decided_at=None, decided_run_id=None, decision=applied["decision"])
    shown["listed_rank"] = shown["product_key"].map(items.set_index("product_key")["rank"]).astype("Int64")
    checks = audit.explain(items, *given) if in_force else pd.DataFrame(columns=audit.EXPLAIN_COLUMNS)
    parts: dict[str, Any] = {
        "tenant": tenant,
        "rules": rules,
        "asked": "CODE-c1",
        "matched_by": "code",
        "customer": {**people.to_dict("records")[0], **SECRETS},
        "run": {"run_id": "run", "as_of": AS_OF, "rules_version": rules.version, "is_in_force": in_force},
        "decision": decision.to_dict("records")[0],
        "action": actions.to_dict("records")[0],
        "codes": pd.DataFrame({"client_code": ["CODE-c1"], "matched_by": ["code"]}),
        "cards": pd.DataFrame({"path": ["clients/c.csv"], "source_line": [7], "client_code": ["CODE-c1"]}),
        "sales": pd.DataFrame(
            [("ventes/v.csv", n, ago(100 + n), f"F{n}", "FACTURE", "p1", 6, 60.0, True) for n in range(1, 13)],
            columns=[
                *("path", "source_line", "sale_date", "document_no", "document_type", "product_key", "quantity"),
                *("amount_ht", "is_counted"),
            ],
        ),
        "refused_rows": pd.DataFrame({"place": ["ventes/v.csv:9"], "codes": [["INVALID_DATE"]], "resolved_by": [None]}),
        "orders": pd.DataFrame(
            [(ago(100 + n), f"F{n}", "FACTURE", 1, 60.0, True) for n in range(1, 13)],
            columns=["order_date", "document_no", "document_type", "lines", "amount_ht", "is_qualifying"],
        ),
        "profile": {"segment": "Champions", "cluster_id": "private_01", "cluster_name": "High", "lead_score": 80.0},
        "items": shown,
        "checks": checks,
        "findings": result.findings,
        "is_sampled": "c1" in sample,
        "sample_size": len(sample),
        "contacts": pd.DataFrame(columns=["contact_date", "channel", "status", "campaign_id", "place"]),
        "events": pd.DataFrame(columns=["occurred_at", "event", "campaign", "channel"]),
        "contact_code": None,
        "tripped": ["STALE_SALES"] if tripped else [],
        "campaigns": [planned()] if campaigns is None else campaigns,
    }
    return Known(**{**parts, **changes})


def said(**given: Any) -> tuple[str, str]:
    sentence, code = why.answer_sentence(known(**{"campaigns": [CampaignState(WEEKLY)], **given}))
    return code, sentence


@pytest.mark.parametrize(
    ("given", "code", "sentence"),
    [
        # Permission.
        (
            {"person": {"n_qualifying_orders": 0}},
            "NO_LEGAL_BASIS",
            "there is neither a consent with date and source nor",
        ),
        ({"person": {"is_refused": True}}, "OBJECTED", "the person has refused messages"),
        ({"person": {"status": "dispute"}}, "DO_NOT_CONTACT", "there is a dispute with the customer"),
        ({"person": {"birth_date": ago(16 * 366)}}, "MINOR", "16 years old; messages are for people aged 18 or over"),
        ({"person": {"country": "CH"}}, "COUNTRY_NOT_ALLOWED", "country: CH; the estate writes to: FR"),
        ({"person": {"last_order_date": ago(1096)}}, "INACTIVE_3Y", "no order, click or reply for 1096 days"),
        (
            {"person": {"last_order_date": ago(13)}},
            "RECENT_ORDER",
            "last order 13 days ago; nothing is sent for 14 days",
        ),
        ({"person": {"is_collective": True}}, "COLLECTIVE", "a till account, not a person"),
        # Errors of the audit.
        ({"person": {"email_status": "missing", "email": None}}, "MISSING_EMAIL", "no e-mail address"),
        ({"person": {"email_status": "invalid"}}, "INVALID_EMAIL", "the e-mail address given is not valid"),
        (
            {"person": {"is_email_contact": False}},
            "DUPLICATE_EMAIL",
            "another customer is the contact for this address",
        ),
        ({"person": {"is_bounced": True}}, "BOUNCED", "a message to this address bounced"),
        ({"person": {"last_contact_date": ago(9)}}, "SILENCE_WINDOW", "last contact 9 days ago; silence lasts 14 days"),
        (
            {"person": {"contacts_90d": 4}},
            "MARKETING_FATIGUE",
            "contacted 4 times in recent months; 4 times is too often",
        ),
        ({"bought": (("c1", "w1", 59),)}, "RECENT_DUPLICATE", "the wine was bought 59 days ago"),
        ({"catalogue": [product("p1", stock_status="out")]}, "UNAVAILABLE_PRODUCT", "the product is out of stock"),
        (
            {"listed": [item(scenario="upsell")], "person": {"price_75cl_ttc": 15.0}},
            "UPSELL_NOT_HIGHER",
            "€15.00 per 75 cl; the customer already pays €15.00",
        ),
        ({"listed": []}, "NO_RECOMMENDATION", "there is nothing to send"),
    ],
)
def test_each_reason_of_the_gate_is_the_answer(given: dict[str, Any], code: str, sentence: str) -> None:
    found, text = said(**given)
    assert found == code
    assert text.startswith(f"No message: {code}: {sentence}")


def test_a_plan_that_expired_hides_no_message_that_was_sent() -> None:
    sent_once = planned(campaign(name="once"), plan={"campaign": "once"}, message=message("sent", sent_at=ago(1)))
    code, text = said(campaigns=[planned(plan={"expires_on": ago(1)}), sent_once])
    assert (code, text.partition(",")[0]) == ("SENT", "Sent in once 2026-W01")


def test_who_objects_to_profiling_is_recommended_nothing() -> None:
    code, text = said(listed=[], profile={"segment": "Prospects", "profiling_objected": True})
    assert (code, text.partition("; ")[2]) == (
        "NO_RECOMMENDATION",
        "the person objects to profiling, and is recommended nothing",
    )


def test_several_errors_are_named_after_the_first() -> None:
    code, text = said(person={"last_contact_date": ago(9), "contacts_90d": 5})
    assert (code, text.partition("; also ")[2]) == ("SILENCE_WINDOW", "MARKETING_FATIGUE")


def test_a_till_account_is_no_person_however_long_ago_its_last_order_is() -> None:
    code, text = said(person={"last_order_date": ago(0), "is_collective": True})
    assert (code, text.partition("; also ")[2]) == ("RECENT_ORDER", "COLLECTIVE")


def test_a_score_too_low_is_said_with_the_warnings() -> None:
    listed = [item(product_key=f"p{n}", rank=n, confidence=0.1, scenario="cross_sell") for n in (1, 2, 3)]
    catalogue = [product(f"p{n}", sweetness="doux", family="Blancs") for n in (1, 2, 3)]
    code, text = said(listed=listed, catalogue=catalogue)
    assert code == "LOW_DIVERSITY"
    assert text.startswith("No message: audit score 70, at least 80 is needed: LOW_DIVERSITY: 100% of the list")
    assert text.endswith("also SUGAR_MISMATCH, LOW_CONFIDENCE")


REVIEWED = {
    "required": (
        {"review": "required", "listed": [item(), item(product_key="p2", rank=2)], "decisions": {"p1": "approve"}},
        "REVIEW_PENDING",
        "every item must be approved (review: required): 1 of 2 are not decided",
    ),
    "sampled": (
        {"review": "sample", "sample": ("c1",)},
        "REVIEW_PENDING",
        "the sample of 1 customers is not wholly decided; this customer is in it, 1 of 1 items undecided",
    ),
    "not sampled": (
        {"review": "sample"},
        "REVIEW_PENDING",
        "the sample of 0 customers is not wholly decided; this customer is not in it",
    ),
    "put off": ({"decisions": {"p1": "later"}}, "REVIEW_PENDING", "a reviewer put 1 of 1 items off"),
    "failed": (
        {
            "review": "sample",
            "sample": ("c1",),
            "listed": [item(), item(product_key="p2", rank=2)],
            "decisions": {"p2": "reject"},
        },
        "REVIEW_FAILED",
        "too many customers of the sample had an item rejected, so every item is to be approved:"
        " 1 of 2 are not decided",
    ),
    "rejected": (
        {"decisions": {"p1": "reject"}},
        "NO_RECOMMENDATION",
        "there is nothing to send; every item was rejected in review",
    ),
}


@pytest.mark.parametrize(("given", "code", "words"), REVIEWED.values(), ids=REVIEWED)
def test_review_holds_back(given: dict[str, Any], code: str, words: str) -> None:
    assert said(**given) == (code, f"No message: {code}: {words}")


@pytest.mark.parametrize(
    ("state", "code", "sentence"),
    [
        (planned(), "PLANNED", "Planned in weekly 2026-W01, batch 2; not sent yet"),
        (
            planned(message=message("holdout", batch_no=None)),
            "HOLDOUT",
            "Held out to measure the effect: in weekly 2026",
        ),
        (planned(message=message("sent", sent_at=ago(0))), "SENT", "Sent in weekly 2026-W01, batch 2, on 2025-12-31"),
        (planned(message=message("superseded")), "SUPERSEDED", "No message: the one of weekly 2026-W01 was replaced"),
        (planned(message=message("failed")), "FAILED", "No message: Brevo refused the one of weekly 2026-W01"),
        (planned(message=message("unknown")), "UNKNOWN", "Handed to Brevo in weekly 2026-W01, batch 2; whether it"),
        (
            planned(plan={"expires_on": ago(1)}),
            "PLANNED",
            "No message: planned in weekly 2026-W01, but the plan expired",
        ),
        (
            planned(paused="stop"),
            "PLANNED",
            "Planned in weekly 2026-W01, batch 2; not sent yet: the campaign is paused",
        ),
        # Planned from an older run, still to be sent: a newer run does not stale it.
        (planned(plan={"run_id": "older"}), "PLANNED", "Planned in weekly 2026-W01"),
        (
            planned(plan={"run_id": "older", "expires_on": ago(1)}, message=message("superseded")),
            "NOT_PLANNED",
            "No message yet: the customer may be written to, but campaign weekly has not been planned from this run",
        ),
        (
            CampaignState(WEEKLY),
            "NOT_PLANNED",
            "No message yet: the customer may be written to, but campaign weekly has",
        ),
        (
            planned(message=None, contact_code="C2"),
            "SAME_ADDRESS",
            "No message: the customer may be written to, but weekly",
        ),
        (
            planned(message=None),
            "NO_ITEM_TO_SHOW",
            "No message: the customer may be written to, but weekly 2026-W01 could",
        ),
        (
            planned(message=None, plan={"run_id": "older"}),
            "OTHER_RUN",
            "No message: the customer may be written to, but weekly 2026-W01 was planned from run older",
        ),
        (
            CampaignState(campaign(occurrence="once", send_on="2026-02-01")),
            "NOT_DUE",
            "No message yet: the customer may be written to, but campaign weekly is for 2026-02-01: it is not its day",
        ),
        (
            CampaignState(campaign(audience={"segments": ["Prospects"], "departments": ["67"]})),
            "NOT_IN_AUDIENCE",
            "No message: the customer may be written to, but is not in the audience of weekly"
            " (segments: Champions, wanted Prospects; departments: 68, wanted 67)",
        ),
        (
            CampaignState(campaign(), purchase_misses=["not_bought"]),
            "NOT_IN_AUDIENCE",
            "No message: the customer may be written to, but is not in the audience of weekly (not_bought: has bought",
        ),
        (
            CampaignState(campaign(channel="phone"), barred="PHONE_OPT_OUT"),
            "PHONE_OPT_OUT",
            "No message: the customer may be written to, but PHONE_OPT_OUT: calls to this number are refused",
        ),
        (
            CampaignState(campaign(active=False)),
            "NOT_ACTIVE",
            "No message: the customer may be written to, but is campaign",
        ),
    ],
)
def test_what_became_of_the_message(state: CampaignState, code: str, sentence: str) -> None:
    found, text = said(campaigns=[state])
    assert found == code
    assert text.startswith(sentence)


def test_an_estate_without_campaigns_says_so() -> None:
    assert said(campaigns=[])[0] == "NO_CAMPAIGN"


def test_a_message_counts_for_more_than_a_campaign_that_left_the_customer_out() -> None:
    elsewhere = CampaignState(campaign(name="pro", audience={"types": ["merchant"]}))
    assert said(campaigns=[elsewhere, planned()])[0] == "PLANNED"


def test_a_closed_gate_is_the_answer_whatever_else_holds() -> None:
    closed = "the gate is closed: CIRCUIT_BREAKER (STALE_SALES)"
    assert said(tripped=True) == ("GATE_CLOSED", f"No message: {closed}")
    code, text = said(tripped=True, person={"last_contact_date": ago(9)})
    assert code == "GATE_CLOSED"
    assert text.startswith(f"No message: {closed}; besides, SILENCE_WINDOW: last contact 9 days")
    assert said(tripped=True, campaigns=[planned()])[1] == (
        f"Planned in weekly 2026-W01, batch 2; not sent yet: {closed}"
    )


def test_what_holds_since_the_run_is_said_of_a_planned_message() -> None:
    then = known()
    now = known(person={"last_contact_date": ago(3)})
    sentence, code = why.answer_sentence(known(checks=now.checks, findings=then.findings))
    assert code == "SILENCE_WINDOW"
    assert sentence.endswith("not sent yet: on present data it would be held back (SILENCE_WINDOW)")


def test_a_customer_who_came_after_the_run() -> None:
    sentence, code = why.answer_sentence(known(action=None, campaigns=[]))
    assert code == "NOT_IN_RUN"
    assert sentence == "No message: the customer was not known when the run was made; refresh the estate"


def test_an_event_is_about_no_wine() -> None:
    event = Campaign.model_validate(
        {"name": "open", "kind": "event", "subject": {"fr": "Venez"}, "text": {"fr": "Oui !"}}
    )
    nothing_to_send = known(listed=[], campaigns=[CampaignState(event)])
    assert why.left_out(nothing_to_send, nothing_to_send.campaigns[0])[0] == "NOT_PLANNED"
    refused = known(person={"is_refused": True}, campaigns=[CampaignState(event)])
    assert why.left_out(refused, refused.campaigns[0])[0] == "OBJECTED"


def test_an_older_run_tells_what_was_kept() -> None:
    answer = why.answer(known(in_force=False, person={"last_contact_date": ago(9)}, campaigns=[]))
    assert answer.sentence.startswith("No message: SILENCE_WINDOW: last contact 9 days ago")
    (audited,) = [section for section in answer.sections if section.title == "Audit"]
    assert [row[1] for row in audited.rows] == ["SILENCE_WINDOW"]
    assert "another run is in force" in audited.note.lower()
    assert (
        why.answer(known(in_force=False, person={"is_refused": True}, campaigns=[])).sentence == "No message: OBJECTED"
    )


def test_every_reason_and_rule_stands_with_what_it_measured_whether_it_holds_or_not() -> None:
    sections = {section.title: section for section in why.answer(known(person={"contacts_90d": 3})).sections}
    assert [row[1] for row in sections["Permission"].rows] == list(audit.PERMISSION_REASONS)
    rules = {row[1]: dict(zip(sections["Audit"].columns, row, strict=True)) for row in sections["Audit"].rows}
    assert set(rules) == set(audit.SEVERITIES)
    fatigue = rules["MARKETING_FATIGUE"]
    assert (fatigue["holds"], fatigue["measured"], fatigue["threshold"]) == (False, "3", "4")


def test_the_answer_is_led_back_to_files_lines_and_orders() -> None:
    found = why.answer(known(asked="OLD-1", matched_by="email")).as_dict()
    assert found["sections"]["cards_in_client_files"] == [{"file": "clients/c.csv", "line": 7, "code": "CODE-c1"}]
    assert found["sections"]["sales_lines_by_file"] == [{"file": "ventes/v.csv", "lines": 12, "first": 1, "last": 12}]
    assert found["sections"]["last_sales_lines"][0]["file:line"] == "ventes/v.csv:1"
    assert len(found["sections"]["last_sales_lines"]) == 8
    assert found["notes"]["orders"] == "12 orders count, from 2025-09-10 to 2025-09-21; 12 documents in all."
    assert found["notes"]["customer"] == "OLD-1 is another code of customer CODE-c1, merged by the same e-mail address."
    json.dumps(found)


def test_nothing_personal_stands_in_the_answer() -> None:
    every = [
        known(),
        known(
            person={"is_email_contact": False}, contact_code="C2", campaigns=[planned(message=None, contact_code="C2")]
        ),
        known(campaigns=[CampaignState(campaign(audience={"departments": ["67"], "countries": ["DE"]}))]),
        known(in_force=False, tripped=True),
    ]
    for each in every:
        answer = why.answer(each)
        told = " ".join([answer.as_text(), answer.as_markdown(), json.dumps(answer.as_dict(), ensure_ascii=False)])
        for name, secret in SECRETS.items():
            assert secret.lower() not in told.lower(), name


def test_markdown_keeps_its_tables_whole() -> None:
    text = why.answer(known(customer={**known().customer, "type": "pri|vate"})).as_markdown()
    assert text.startswith("## Planned in weekly 2026-W01, batch 2; not sent yet\n")
    assert "pri\\|vate" in text
