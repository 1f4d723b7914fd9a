"""Planning: audience, holdout, batches, what a message says, the plan's hash."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import date
from typing import Any

import pandas as pd
import pytest

from crm_assets import rules as rules_module
from crm_assets.campaigns import Campaign
from crm_assets.logic import activation
from crm_assets.logic.activation import Gate, RefusalError
from tests.logic import estate
from tests.logic.estate import item, items, product, products

RULES = rules_module.load()
TENANT_ZONE = estate.tenant().zone
GATE = Gate("run", estate.AS_OF, "open", ())


def campaign(**changes: Any) -> Campaign:
    settings: dict[str, Any] = {"name": "spring", "kind": "reco", "subject": {"fr": "Notre sélection"}}
    return Campaign.model_validate({**settings, **changes})


def people(count: int = 3, **changes: Any) -> pd.DataFrame:
    """Customers c1 .. cn, as `crm_assets.activation` reads them."""
    ids = [f"c{n}" for n in range(1, count + 1)]
    row: dict[str, Any] = {
        "type": "private",
        "segment": "Champions",
        "cluster_id": "k1",
        "cluster_name": "Fidèles",
        "scenario": "rebuy",
        "postal_code": "68000",
        "country": "FR",
        "eligible": True,
        "reason": None,
    }
    addresses = [f"{i}@example.com" for i in ids]
    return pd.DataFrame({"customer_id": ids, "address": addresses, "holdout_key": addresses, **row, **changes})


def plan(**changes: Any) -> activation.Plan:
    """The plan of a step; `changes`: arguments of `activation.plan`, or what `activation.Known` holds."""
    given: dict[str, Any] = {
        "tenant": estate.tenant(),
        "campaign": campaign(),
        "gate": GATE,
        "rules": RULES,
        "as_of": estate.AS_OF,
    }
    known: dict[str, Any] = {"people": people(), "products": products()}
    for name, value in changes.items():
        (known if name in {entry.name for entry in fields(activation.Known)} else given)[name] = value
    ids = known["people"]["customer_id"]
    known.setdefault("items", items(*[item(i, k, r) for i in ids for r, k in enumerate(["p1", "p2"], start=1)]))
    return activation.plan(known=activation.Known(**known), **given)


def test_the_same_inputs_are_the_same_plan() -> None:
    first, second = plan(), plan(people=people().sample(frac=1, random_state=1))
    assert first.plan_hash == second.plan_hash
    pd.testing.assert_frame_equal(first.messages, second.messages)
    pd.testing.assert_frame_equal(first.batches, second.batches)


@pytest.mark.parametrize(
    "changes",
    [
        {"campaign": campaign(subject={"fr": "Une autre sélection"})},
        {"tenant": estate.tenant(siren="987654321")},
        {"gate": Gate("other", estate.AS_OF, "open", ())},
        {"people": people(2)},
        {"products": products(product("p1", price_ttc=15.01), product("p2"))},
        {"items": items(*[item(f"c{n}", customer_sentence="Autre.") for n in (1, 2, 3)])},
    ],
)
def test_any_change_of_content_changes_the_hash(changes: dict[str, Any]) -> None:
    assert plan(**changes).plan_hash != plan().plan_hash


def test_the_hash_can_be_computed_again_from_what_is_stored() -> None:
    made = plan(people=people(600))
    stored = made.messages.assign(params=[json.loads(json.dumps(p)) for p in made.messages["params"]], status="sent")
    shuffled = stored.sample(frac=1, random_state=2)
    assert activation.plan_hash(estate.tenant(), campaign(), "once", "run", shuffled) == made.plan_hash


def test_an_address_is_written_to_once() -> None:
    crowd = people(4)
    crowd["address"] = ["A@example.com", " a@EXAMPLE.com", "b@example.com", "c@example.com"]
    made = plan(people=crowd)
    assert sorted(made.messages["address"]) == ["a@example.com", "b@example.com", "c@example.com"]
    assert made.messages.set_index("address").loc["a@example.com", "customer_id"] == "c1"
    assert made.left_out == {"SAME_ADDRESS": 1}


def test_who_is_not_eligible_is_left_out_and_counted() -> None:
    made = plan(people=people(3, eligible=[True, False, True]))
    assert sorted(made.messages["customer_id"]) == ["c1", "c3"]
    assert made.left_out == {"NOT_ELIGIBLE": 1}


@pytest.mark.parametrize(
    ("audience", "column", "values"),
    [
        ({}, "type", ["private", "horeca", "merchant"]),
        ({"types": ["horeca"]}, "type", ["horeca", "private", "private"]),
        ({"segments": ["At Risk"]}, "segment", ["At Risk", "Others", None]),
        ({"clusters": ["k7"]}, "cluster_id", ["k7", "k1", None]),
        ({"clusters": ["Curieux"]}, "cluster_name", ["Curieux", "Fidèles", None]),
        ({"scenarios": ["winback", "upsell"]}, "scenario", ["winback", "rebuy", None]),
        ({"departments": ["68"]}, "postal_code", ["68420", "67000", None]),
        ({"departments": ["2A"]}, "postal_code", ["20000", "20200", "75020"]),
        ({"departments": ["2B"]}, "postal_code", ["20200", "20100", "75020"]),
        ({"departments": ["974"]}, "postal_code", ["97400", "97100", "74000"]),
        ({"countries": ["DE"]}, "country", ["DE", "FR", None]),
        ({"countries": ["FR"]}, "country", [None, "DE", "CH"]),
    ],
)
def test_the_audience(audience: dict[str, Any], column: str, values: list[Any]) -> None:
    made = plan(campaign=campaign(audience=audience), people=people(3).assign(**{column: values}))
    assert made.messages["customer_id"].tolist() == ["c1"]


def test_a_german_postal_code_is_no_department() -> None:
    crowd = people(1, country="DE", postal_code="68159")
    with pytest.raises(RefusalError, match="EMPTY_AUDIENCE"):
        plan(campaign=campaign(audience={"departments": ["68"]}), people=crowd)


@pytest.mark.parametrize(
    ("gate", "as_of", "code"),
    [
        (None, estate.AS_OF, "NO_DECISION"),
        (Gate("run", estate.AS_OF, "closed", ("CIRCUIT_BREAKER",)), estate.AS_OF, "GATE_CLOSED"),
        (GATE, date(2025, 12, 30), "HISTORICAL"),
        (GATE, date(2026, 1, 8), "STALE_GATE"),
    ],
)
def test_a_gate_that_does_not_allow_planning(gate: Gate | None, as_of: date, code: str) -> None:
    with pytest.raises(RefusalError) as raised:
        activation.require_open(gate, as_of, RULES)
    assert raised.value.code == code


def test_a_gate_seven_days_old_still_allows_planning() -> None:
    assert activation.require_open(GATE, date(2026, 1, 7), RULES) is GATE


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (0, []),
        (1, [1]),
        (199, [199]),
        (300, [300]),
        (301, [151, 150]),
        (399, [200, 199]),
        (400, [200, 200]),
        (500, [250, 250]),
        (620, [207, 207, 206]),
        (1100, [275, 275, 275, 275]),
    ],
)
def test_batches_are_balanced(count: int, sizes: list[int]) -> None:
    assert activation.batch_sizes(count, RULES) == sizes


def test_batches_of_every_size_keep_to_the_limits() -> None:
    for count in range(400, 3000):
        sizes = activation.batch_sizes(count, RULES)
        assert sum(sizes) == count
        assert 200 <= min(sizes) <= max(sizes) <= 300
        assert max(sizes) - min(sizes) <= 1


def test_every_message_of_a_batch_is_counted() -> None:
    made = plan(people=people(700))
    in_batches = made.messages["batch_id"].value_counts()
    assert in_batches.to_dict() == made.batches.set_index("batch_id")["n_messages"].to_dict()
    assert made.n_planned + made.n_holdout == 700
    assert made.messages.loc[made.messages["status"] == "holdout", "batch_id"].isna().all()


def test_the_holdout_starts_at_500_and_is_a_tenth() -> None:
    assert plan(people=people(499)).n_holdout == 0
    share = plan(people=people(3000)).n_holdout / 3000
    assert 0.08 < share < 0.12
    assert plan(people=people(600), campaign=campaign(holdout=False)).n_holdout == 0


def test_the_holdout_is_the_same_for_every_campaign_of_the_quarter_and_another_in_the_next() -> None:
    addresses = [f"{n}@example.com" for n in range(1000)]
    december = activation.is_held_out("demo", date(2025, 12, 31), addresses, 0.10)
    october = activation.is_held_out("demo", date(2025, 10, 1), addresses, 0.10)
    january = activation.is_held_out("demo", date(2026, 1, 1), addresses, 0.10)
    assert (december == october).all()
    assert (december != january).any()
    assert not activation.is_held_out("demo", date(2026, 1, 1), addresses, 0.0).any()


def test_nobody_is_held_out_of_an_event() -> None:
    event = campaign(kind="event", text={"fr": "Venez."})
    made = plan(campaign=event, people=people(600))
    assert made.n_holdout == 0
    assert set(made.messages["scenario"]) == {"event"}
    assert made.messages["wine_ids"].map(len).eq(0).all()


def test_an_event_needs_permission_and_an_address_but_no_wine() -> None:
    actions = pd.DataFrame(
        {
            "customer_id": ["c1", "c2", "c3", "c4"],
            "permitted": [True, True, True, False],
            "eligible": [False, False, True, False],
        }
    )
    found = pd.DataFrame(
        [("c1", 11, "NO_RECOMMENDATION", "ERROR"), ("c2", 5, "BOUNCED", "ERROR"), ("c3", 14, "SUGAR_MISMATCH", "WARN")],
        columns=["customer_id", "rule_no", "rule_code", "severity"],
    )
    event = campaign(kind="event", text={"fr": "Venez."})
    assert activation.verdicts(event, actions, found, RULES)["eligible"].tolist() == [True, False, True, False]
    assert activation.verdicts(campaign(), actions, found, RULES)["eligible"].tolist() == [False, False, True, False]


def test_a_refused_item_leaves_the_message_and_a_message_without_items_is_not_planned() -> None:
    listed = items(item("c1", "p1"), item("c1", "p2", 2), item("c2", "p2"), item("c3", customer_sentence=None))
    made = plan(products=products(product("p1"), product("p2", price_ttc=None)), items=listed)
    assert made.messages["customer_id"].tolist() == ["c1"]
    assert made.messages.iloc[0]["product_keys"] == ["p1"]
    assert made.refused_products == {"p2": ["price"]}
    assert made.left_out == {
        "ITEMS_WITHOUT_SENTENCE": 1,
        "ITEMS_WITHOUT_PRODUCT": 2,
        "NO_ITEM_TO_SHOW": 2,
    }


# --- experiments, sequences, other channels

ARMS = {"A": {"share": 0.25}, "B": {"share": 0.75, "subject": {"fr": "Trois vins pour vous"}}}
STEPS = [{"after_days": 0}, {"after_days": 14, "subject": {"fr": "Encore une idée"}}]


def test_an_address_has_one_arm_by_its_share_whatever_the_step_and_the_holdout() -> None:
    tested = campaign(arms=ARMS)
    addresses = [f"{n}@example.com" for n in range(4000)]
    arms = activation.arm_of("demo", tested, "once", addresses)
    assert arms == activation.arm_of("demo", campaign(arms=ARMS, steps=STEPS), "once", addresses)
    assert arms != activation.arm_of("demo", tested, "2026-W01", addresses)
    assert 0.23 < arms.count("A") / 4000 < 0.27
    held = activation.is_held_out("demo", estate.AS_OF, addresses, 0.10)
    among_held = [arm for arm, is_held in zip(arms, held, strict=True) if is_held]
    assert 0.19 < among_held.count("A") / len(among_held) < 0.31, "the holdout's hash says nothing of the arm"
    assert set(activation.arm_of("demo", campaign(), "once", addresses)) == {None}


def test_every_planned_message_has_its_arm_and_template_and_the_hash_covers_them() -> None:
    tested = campaign(arms={**ARMS, "A": {"share": 0.25, "template": "welcome"}})
    made = plan(campaign=tested, people=people(600))
    sent = made.messages[made.messages["status"] == "planned"]
    assert made.arms == sent["arm"].value_counts().to_dict()
    assert made.messages.loc[made.messages["status"] == "holdout", "arm"].isna().all()
    assert sent.groupby("arm")["template"].unique().map(list).to_dict() == {"A": ["welcome"], "B": ["rebuy"]}
    for column, value in (("arm", "B"), ("template", "nurture"), ("scenario", "nurture")):
        changed = made.messages.assign(**{column: value})
        assert activation.plan_hash(estate.tenant(), tested, "once", "run", changed) != made.plan_hash
    assert plan(campaign=campaign(arms=ARMS), people=people(600)).plan_hash != made.plan_hash


def test_a_template_kept_at_brevo_is_named_by_its_id_and_its_content_is_in_the_hash() -> None:
    brevo = {"sender_email": "cave@demo.example.com", "templates": {"spring": 7}}
    tenant = estate.tenant(brevo=brevo)
    chosen = campaign(template="brevo:spring")
    assert activation.brevo_template_ids(tenant, chosen) == [7]
    made = plan(campaign=chosen, tenant=tenant, fetched={7: "content"})
    assert set(made.messages["template"]) == {"brevo:7"}
    assert made.calls == 1
    assert plan(campaign=chosen, tenant=tenant, fetched={7: "other"}).plan_hash != made.plan_hash
    assert plan(campaign=chosen, tenant=tenant, fetched={7: "other"}).template_hash != made.template_hash


def test_params_that_brevo_would_refuse_are_refused_before_anything_is_stored() -> None:
    tenant = estate.tenant(brevo={"sender_email": "cave@demo.example.com", "templates": {"spring": 7}})
    long = items(*[item(f"c{n}", customer_sentence="x" * 100_000 if n == 2 else "Court.") for n in (1, 2, 3)])
    with pytest.raises(RefusalError, match="PARAMS_TOO_LARGE") as raised:
        plan(campaign=campaign(template="brevo:spring"), tenant=tenant, items=long, fetched={7: "content"})
    assert "example.com" not in str(raised.value)


def test_a_wine_left_out_is_not_shown_and_the_next_one_leads() -> None:
    own = items(item("c1", "p1", 1), item("c1", "p2", 2, scenario="upsell"), item("c2", "p1", 1), item("c3", "p3", 1))
    made = plan(items=own, campaign=campaign(wines={"exclude": ["family p1"]}))
    shown = made.messages.set_index("customer_id")
    assert shown["product_keys"].to_dict() == {"c1": ["p2"], "c3": ["p3"]}
    assert (shown["scenario"]["c1"], shown["template"]["c1"]) == ("upsell", "upsell")
    assert made.left_out == {"NO_ITEM_TO_SHOW": 1}


@pytest.mark.parametrize(
    ("audience", "who"),
    [
        ({"bought": {"wines": ["w1"]}}, "c1"),
        ({"bought": {"wines": ["p1"], "days": 30}}, ""),
        ({"bought": {"families": ["family p2"]}}, "c2"),
        ({"bought": {"days": 50}}, "c2"),
        ({"not_bought": {"wines": ["w1"]}}, "c2 c3"),
        ({"bought": {"days": 400}, "not_bought": {"days": 50}}, "c1"),
    ],
)
def test_an_audience_by_purchases(audience: dict[str, Any], who: str) -> None:
    purchases = pd.DataFrame(
        {"customer_id": ["c1", "c2"], "wine_id": ["w1", "w2"], "sale_date": [estate.ago(60), estate.ago(50)]}
    )
    given = {"campaign": campaign(audience=audience), "purchases": purchases}
    if not who:
        with pytest.raises(RefusalError, match="EMPTY_AUDIENCE"):
            plan(**given)
    else:
        assert sorted(plan(**given).messages["customer_id"]) == who.split()


class TestSteps:
    SENT_AT = pd.Timestamp("2025-12-16 23:30", tz="UTC")  # the 17th in Paris

    def previous(self, **changes: Any) -> pd.DataFrame:
        """The first step: c1 to c4 sent, c5 held out, c6 unknown."""
        frame = pd.DataFrame(
            {
                "customer_id": [f"c{n}" for n in range(1, 7)],
                "address": [f"c{n}@example.com" for n in range(1, 7)],
                "status": ["sent"] * 4 + ["holdout", "unknown"],
                "sent_at": [self.SENT_AT] * 4 + [pd.NaT] * 2,
                "planned_at": pd.Timestamp("2025-12-15", tz="UTC"),
            }
        )
        return frame.assign(**changes)

    def followers(self, **changes: Any) -> dict[str, Any]:
        orders = pd.DataFrame(
            {
                "address": ["C1@example.com", "c2@example.com", "c5@example.com"],
                "order_date": pd.to_datetime(["2025-12-17", "2025-12-16", "2025-12-01"]),
            }
        )
        events = pd.DataFrame(
            {
                "address": ["c2@example.com", "c3@example.com", "c4@example.com", "c4@example.com"],
                "event": ["clicked", "clicked", "clicked", "unsubscribed"],
                "occurred_at": pd.to_datetime(["2025-12-20", "2025-12-20", "2025-12-10", "2025-12-21"], utc=True),
                "is_machine": [True, None, None, None],
            }
        )
        made = activation.followers(self.previous(), orders, events, campaign(steps=STEPS, **changes), TENANT_ZONE)
        assert made["is_held_out"].tolist() == [False] * 4 + [True, False]
        return dict(zip(made["address"].str[:2], made["reason"].where(made["reason"].notna(), None), strict=True))

    def test_who_ordered_clicked_or_unsubscribed_since_goes_no_further(self) -> None:
        assert self.followers() == {
            "c1": "ORDERED",
            "c2": None,  # ordered the day before, clicked by a machine
            "c3": "CLICKED",
            "c4": "UNSUBSCRIBED",
            "c5": None,
            "c6": "NOT_SENT",
        }

    def test_what_does_not_stop_the_sequence_is_the_campaigns_to_say_but_for_refusals(self) -> None:
        assert self.followers(stop_on=[]) == {**dict.fromkeys(["c1", "c2", "c3", "c5"]), "c4": "UNSUBSCRIBED",
                                               "c6": "NOT_SENT"}  # fmt: skip

    def test_a_step_is_planned_for_who_goes_on_and_the_holdout_stays_the_holdout(self) -> None:
        goes_on = pd.DataFrame(
            {
                "address": [f"c{n}@example.com" for n in range(1, 6)],
                "is_held_out": [False, False, True, True, False],
                "reason": [None, "ORDERED", None, None, None],
            }
        )
        crowd = people(4, eligible=[True, True, True, False], segment="At Risk")
        sequence = campaign(steps=STEPS, audience={"segments": ["Champions"]})
        made = plan(campaign=sequence, people=crowd, followers=goes_on, step=2, as_of=date(2025, 12, 31))
        assert (made.step, made.addressed) == (2, 5)
        assert made.messages.set_index("customer_id")["status"].to_dict() == {"c1": "planned", "c3": "holdout"}
        assert made.left_out == {"ORDERED": 1, "ADDRESS_GONE": 1, "NOT_ELIGIBLE": 1}
        first = plan(campaign=sequence, people=people(4))
        assert not set(made.messages["message_id"]) & set(first.messages["message_id"])

    def test_whom_the_new_quarter_holds_out_gets_no_further_step(self) -> None:
        crowd = people(400)
        goes_on = pd.DataFrame({"address": crowd["address"], "is_held_out": False, "reason": None})
        day = date(2026, 1, 5)
        sequence = campaign(steps=STEPS)
        drawn = activation.is_held_out("demo", day, crowd["address"], RULES.activation.holdout_share)
        without = plan(campaign=sequence, people=crowd, followers=goes_on, step=2, as_of=day)
        assert without.n_holdout == 0, "the first step held nobody out: it was too small"
        goes_on.loc[~drawn & (goes_on.index < 20), "is_held_out"] = True
        made = plan(campaign=sequence, people=crowd, followers=goes_on, step=2, as_of=day)
        expected = set(goes_on.loc[goes_on["is_held_out"] | drawn, "address"])
        assert set(made.messages.loc[made.messages["status"] == "holdout", "address"]) == expected

    def test_a_restore_that_lost_the_holdout_does_not_write_to_it(self) -> None:
        crowd = people(1000)
        first = plan(people=crowd, as_of=date(2025, 12, 30))
        held = first.messages["status"] == "holdout"
        assert held.sum() > 50
        # Brevo never heard of the holdout: what was read back from its log are the other messages.
        written = first.messages[~held].assign(status="sent", planned_at=pd.Timestamp("2025-12-30 09:00", tz="UTC"))
        for day in (date(2025, 12, 31), date(2026, 1, 2)):
            again = plan(people=crowd, written=written, as_of=day)
            assert (again.n_planned, again.n_holdout) == (0, held.sum()), "another quarter draws others"
            assert again.n_written == len(written)
        goes_on = pd.DataFrame({"address": written["address"], "is_held_out": False, "reason": None})
        second = plan(campaign=campaign(steps=STEPS), people=crowd, followers=goes_on, step=2, as_of=date(2026, 1, 20))
        drawn = activation.is_held_out("demo", date(2026, 1, 20), goes_on["address"], RULES.activation.holdout_share)
        assert second.n_holdout == drawn.sum() > 0


def test_shares_of_arms_and_holdout_on_ten_thousand_addresses() -> None:
    shares = {"A": 0.2, "B": 0.3, "C": 0.5}
    tested = campaign(arms={name: {"share": share, "subject": {"fr": name * 3}} for name, share in shares.items()})
    addresses = [f"client.{n}@example.com" for n in range(10_000)]
    arms = pd.Series(activation.arm_of("demo", tested, "once", addresses))
    held = activation.is_held_out("demo", estate.AS_OF, addresses, 0.10)

    def chi_square(counts: pd.Series, of: int) -> float:
        return sum((counts[name] - share * of) ** 2 / (share * of) for name, share in shares.items())

    assert chi_square(arms.value_counts(), 10_000) < 13.8, "two degrees of freedom, p = 0.001"
    assert chi_square(arms[held].value_counts(), int(held.sum())) < 13.8, "in the holdout as outside"
    assert 900 < held.sum() < 1100


def test_a_name_that_the_catalogue_does_not_know_is_told() -> None:
    slips = campaign(
        audience={"not_bought": {"families": ["family p1", "famly p2"]}}, wines={"push": ["p1"], "exclude": ["w99"]}
    )
    assert activation.names_of_nothing(slips, products()) == ["audience.not_bought famly p2", "wines.exclude w99"]


class TestOtherChannels:
    def verdict(self, *found: tuple[str, int, str, str], **changes: Any) -> list[str | None]:
        """Why c1, c2 … may not be called, by telephone and for a recommendation."""
        actions = pd.DataFrame(
            {
                "customer_id": ["c1", "c2", "c3"],
                "permitted": [True, True, False],
                "permission_reason": [None, None, "OBJECTED"],
                "eligible": [False, False, False],
            }
        )
        findings = pd.DataFrame(list(found), columns=["customer_id", "rule_no", "rule_code", "severity"])
        held = changes.pop("held", None)
        said = activation.verdicts(campaign(channel="phone", **changes), actions, findings, RULES, held)
        assert (said["eligible"] == said["reason"].isna()).all()
        return [None if pd.isna(reason) else reason for reason in said["reason"]]

    @pytest.mark.parametrize(
        "code", [(1, "MISSING_EMAIL"), (2, "INVALID_EMAIL"), (3, "DUPLICATE_EMAIL"), (5, "BOUNCED")]
    )
    def test_rules_about_the_e_mail_address_bar_no_call(self, code: tuple[int, str]) -> None:
        assert self.verdict(("c1", *code, "ERROR")) == [None, None, "OBJECTED"]

    @pytest.mark.parametrize(
        ("code", "bars_news"),
        [((4, "OPT_OUT"), True), ((6, "SILENCE_WINDOW"), True), ((9, "UNAVAILABLE_PRODUCT"), False)],
    )
    def test_the_other_rules_do(self, code: tuple[int, str], bars_news: bool) -> None:
        assert self.verdict(("c1", *code, "ERROR"))[0] == code[1]
        news = self.verdict(("c1", *code, "ERROR"), kind="news", text={"fr": "Bonjour."})
        assert news[0] == (code[1] if bars_news else None)

    def test_review_and_too_many_warnings_hold_a_call_back_too(self) -> None:
        warnings = [("c1", number, "LOW_DIVERSITY", "WARN") for number in (13, 14, 15)]
        assert self.verdict(*warnings, held={"c2": "REVIEW_PENDING"}) == ["LOW_SCORE", "REVIEW_PENDING", "OBJECTED"]

    def test_a_refusal_of_the_channel_counts(self) -> None:
        crowd = pd.DataFrame(
            {
                "phone_opt_out": [True, False, None, False],
                "post_opt_out": [False, True, False, False],
                "status": ["active", "active", "moved", "active"],
                "address": ["a", "b", "c", None],
            }
        ).astype({"phone_opt_out": "boolean"})

        def barred(channel: str) -> list[str | None]:
            said = activation.barred_from_channel(campaign(channel=channel), crowd)
            return [None if pd.isna(reason) else reason for reason in said]

        assert barred("phone") == ["PHONE_OPT_OUT", None, None, "NO_PHONE"]
        crowd["address"] = ["Same", "same ", "other", None]
        assert barred("phone") == ["PHONE_OPT_OUT", "PHONE_OPT_OUT", None, "NO_PHONE"], "the number is refused"
        crowd["address"] = ["a", "b", "c", None]
        assert barred("post") == [None, "POST_OPT_OUT", "MOVED", "NO_POSTAL_ADDRESS"]


@pytest.mark.parametrize(
    ("feast", "as_of", "is_refused"),
    [
        ("christmas", date(2025, 12, 16), False),
        ("christmas", date(2025, 12, 17), True),
        ("christmas", date(2025, 12, 25), True),
        ("easter", date(2026, 3, 26), False),  # Easter is on 5 April
        ("easter", date(2026, 3, 27), True),
        (None, date(2025, 12, 24), False),
    ],
)
def test_what_speaks_of_a_feast_is_not_planned_past_its_last_order_date(
    feast: str | None, as_of: date, is_refused: bool
) -> None:
    given = {"campaign": campaign(kind="news", text={"fr": "Commandez."}, feast=feast), "as_of": as_of}
    if is_refused:
        with pytest.raises(RefusalError, match="LAST_ORDER_PAST"):
            plan(**given)
    else:
        assert plan(**given).n_planned == 3


def test_a_campaign_that_leaves_later_is_measured_by_the_day_it_leaves() -> None:
    late = campaign(kind="news", text={"fr": "Commandez."}, feast="christmas", send_on="2025-12-18")
    with pytest.raises(RefusalError, match="LAST_ORDER_PAST"):
        plan(campaign=late, as_of=date(2025, 12, 12))
