"""The outcomes against a recomputation in plain Python, on made rows: campaigns that touch the same customers, steps,
arms, a control group, sends around midnight, late, repeated and untagged events, openings by machines, orders on the
last day and the day after, credit notes.

The models' own SQL over hand-made tables. Nothing of it is shared with what is expected here.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from statistics import NormalDist
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from crm_assets import databases, tables
from crm_assets import rules as rules_module
from crm_assets.defs.outcomes import plots
from crm_assets.defs.outcomes.checks import campaigns_are_delivered_and_welcome
from crm_assets.resources.warehouse import Warehouse
from tests.conftest import PREFIX, fresh_warehouse
from tests.dbt.macros import model, statement

PARIS = ZoneInfo("Europe/Paris")
DAYS = 30
MODELS = ("sendings", "message_outcomes", "campaign_results", "campaign_uplift", "campaign_arms")
NEWEST_SALE = date(2024, 7, 20)
Z = 1.959963984540054
Row = dict[str, Any]

# campaign, occurrence, step, day of the plan, first day of sending, run, arms, has a control group
SENDINGS = [
    ("reco", "2024-W22", 1, date(2024, 5, 27), date(2024, 5, 31), "r1", False, True),
    ("reco", "2024-W24", 1, date(2024, 6, 10), date(2024, 6, 11), "r2", False, True),
    ("news", "once", 1, date(2024, 6, 3), date(2024, 6, 4), "r1", True, True),
    ("news", "once", 2, date(2024, 6, 17), date(2024, 6, 18), "r3", True, False),
    ("fair", "once", 1, date(2024, 7, 1), date(2024, 7, 2), "r4", False, False),
    ("dry", "once", 1, date(2024, 6, 3), None, "r1", False, True),
]


def _made() -> dict[str, list[Row]]:
    """Rows of the tables that the models read."""
    chance = random.Random(20240601)
    addresses = [f"a{n:03}" for n in range(160)]
    customer = {address: f"C{n}" for n, address in enumerate(addresses)}
    held_out = {address for n, address in enumerate(addresses) if n % 7 == 0}
    rows: dict[str, list[Row]] = defaultdict(list)
    for campaign, occurrence, step, as_of, first_day, run_id, has_arms, has_control in SENDINGS:
        began = first_day and datetime.combine(first_day, time(0, 5), PARIS).astimezone(UTC)
        rows["campaigns"].append(
            {
                **dict(campaign=campaign, occurrence=occurrence, step=step, run_id=run_id, as_of=as_of, plan_hash="h"),
                **dict(audience=0, holdout=0, planned_at=began or datetime(2024, 6, 3, tzinfo=UTC)),
                **dict(expires_on=as_of + timedelta(days=7), kind="reco", channel="email", began_at=began),
            }
        )
        for half in ("", "-half"):
            digest = f"T-{campaign}-{occurrence}-{step}{half}"
            rows["chunks"].append(
                {
                    **dict(tag=digest, campaign=campaign, occurrence=occurrence, step=step, idempotency_key="k"),
                    **dict(request_hash="h", n_messages=1, n_bytes=1, status="accepted", frozen_at=datetime.now(UTC)),
                }
            )
        for address in chance.sample(addresses, 110):
            held = has_control and address in held_out
            fate = chance.choices(["sent", "failed", "unknown", "superseded"], [12, 1, 1, 2])[0]
            status = "holdout" if held else "planned" if first_day is None else fate
            sent_at = None
            if status == "sent":
                assert began is not None
                # Mostly minutes after midnight in Paris, when London has another day.
                late = timedelta(minutes=chance.randrange(1, 110)) + timedelta(days=chance.choice([0, 0, 1]))
                sent_at = began + late
            rows["messages"].append(
                {
                    **dict(message_id=f"{campaign}-{occurrence}-{step}-{address}", campaign=campaign, step=step),
                    **dict(occurrence=occurrence, address=address, customer_id=customer[address], status=status),
                    "run_id": run_id,
                    "scenario": chance.choice(["rebuy", "upsell"]),
                    "wine_ids": chance.sample(["W1", "W2", "W3", "W4"], 2),
                    "template": "reco" if campaign == "reco" else "news",
                    "arm": chance.choice("ABC") if has_arms and not held else None,
                    "cluster_id": chance.choice(["k1", "k2", None]),
                    **dict(batch_id="b", product_keys=[], params={}, sent_at=sent_at, planned_at=datetime.now(UTC)),
                }
            )
    sent = [message for message in rows["messages"] if message["status"] == "sent"]
    kinds = ["delivered", "opened", "clicked", "hard_bounce", "blocked", "unsubscribed", "spam", "soft_bounce"]
    for number in range(900):
        message = chance.choice(sent)
        tag = f"T-{message['campaign']}-{message['occurrence']}-{message['step']}" + chance.choice(["", "-half"])
        event: Row = {
            **dict(event_key=f"E{number}", address=message["address"], tag=tag, channel="email"),
            "event": chance.choices(kinds, [9, 6, 4, 1, 1, 1, 0.5, 2])[0],
            "is_machine": chance.choice([True, False, None]),
            # Up to weeks late, out of order, some before what they are said to be about.
            "occurred_at": message["sent_at"] + timedelta(hours=chance.randrange(-30, 500)),
            **dict(campaign=None, occurrence=None, step=None),
        }
        match chance.randrange(6):
            case 0:  # no tag: of the campaign's last message
                event |= {"tag": None, "campaign": message["campaign"]}
            case 1:  # of a chunk that is lost, but whose tag says what it was
                event |= {"tag": "lost"} | {name: message[name] for name in ("campaign", "occurrence", "step")}
            case 2:  # to nobody of ours
                event |= {"address": "stranger"}
        rows["events"].append(event)
    for number in range(260):
        address = chance.choice(addresses)
        mine = [message for message in sent if message["address"] == address]
        day = date(2024, 5, 20) + timedelta(days=chance.randrange(60))
        if mine and chance.random() < 0.5:  # on the day itself, the last that counts, or the first that does not
            day = _day(chance.choice(mine)["sent_at"]) + timedelta(days=chance.choice([0, DAYS, DAYS + 1]))
        is_qualifying = chance.random() < 0.85
        amount = round(chance.uniform(10, 300), 2) * (1 if is_qualifying else -1)
        order: Row = {
            **dict(order_id=f"O{number}", customer_id=customer[address], order_date=min(day, NEWEST_SALE)),
            **dict(amount_ht=amount, margin=chance.choice([None, 5.5]), is_qualifying=is_qualifying),
        }
        rows["orders"].append(order)
        for wine in chance.sample(["W1", "W2", "W5"], 2) if is_qualifying else []:
            rows["purchases"].append(
                {
                    **dict(customer_id=order["customer_id"], wine_id=wine, order_id=order["order_id"]),
                    **dict(sale_date=order["order_date"], amount_ht=round(amount / 2, 2)),
                }
            )
    rows["orders"].append(
        dict(order_id="last", customer_id="nobody", order_date=NEWEST_SALE, amount_ht=1.0, margin=None)
        | {"is_qualifying": True}
    )
    return rows


def _day(moment: datetime) -> date:
    return moment.astimezone(PARIS).date()


MADE = _made()


@pytest.fixture(scope="module")
def built(cluster: databases.Cluster, template: str) -> Iterator[Warehouse]:
    """The made rows, and the models built from them."""
    with fresh_warehouse(cluster, template, f"{PREFIX}outcomes") as warehouse:
        warehouse.execute(
            "insert into landing.parameters (name, value) values"
            f" ('activation.conversion_days', '{DAYS}'), ('tenant.timezone', '\"Europe/Paris\"')"
        )
        for table, name in (
            (tables.campaigns, "campaigns"),
            (tables.chunks, "chunks"),
            (tables.messages, "messages"),
            (tables.events, "events"),
        ):
            warehouse.append(table, pd.DataFrame(MADE[name]).astype(object).where(lambda made: made.notna(), None))
        warehouse.execute("create schema if not exists curated; create schema if not exists rfm")
        warehouse.execute(
            "insert into customers.cluster_profiles (cluster_id, population, cluster_name, size, share, centroid)"
            " values ('k1', 'private', 'Regulars', 1, 1, '{}')"
        )
        warehouse.execute(
            "create table curated.fct_orders (order_id text, customer_id text, order_date date, amount_ht numeric,"
            " margin numeric, is_qualifying boolean)"
        )
        warehouse.execute(
            "create table rfm.purchases (customer_id text, wine_id text, order_id text, sale_date date,"
            " amount_ht numeric)"
        )
        with warehouse.transaction() as connection:
            for name, key in (("curated.fct_orders", "orders"), ("rfm.purchases", "purchases")):
                columns = list(MADE[key][0])
                marks = ", ".join(f"%({column})s" for column in columns)
                connection.cursor().executemany(
                    f"insert into {name} ({', '.join(columns)}) values ({marks})".encode(), MADE[key]
                )
        for name in MODELS:
            warehouse.execute(f"create table outcomes.{name} as {model(name)}")
        yield warehouse


def _table(warehouse: Warehouse, name: str, keys: Iterable[str]) -> dict[tuple[Any, ...], Row]:
    found = warehouse.query(f"select * from outcomes.{name}").astype(object)
    rows = found.where(found.notna(), None).to_dict("records")
    made = {tuple(row[key] for key in keys): {str(name): value for name, value in row.items()} for row in rows}
    assert len(made) == len(rows)
    return made


def _expected_messages() -> dict[str, Row]:
    """message_id -> what became of it."""
    sent = [message for message in MADE["messages"] if message["status"] == "sent"]
    facts: dict[str, Row] = {
        message["message_id"]: {"message": message, "events": set(), "orders": [], "wines": []} for message in sent
    }
    of_step = {(m["address"], m["campaign"], m["occurrence"], m["step"]): m["message_id"] for m in sent}
    chunks = {chunk["tag"]: chunk for chunk in MADE["chunks"]}
    for event in MADE["events"]:
        said = chunks.get(event["tag"], event)
        if said["occurrence"] is not None:
            found = of_step.get((event["address"], said["campaign"], said["occurrence"], said["step"]))
        else:
            before = [
                m
                for m in sent
                if (m["address"], m["campaign"]) == (event["address"], said["campaign"])
                and m["sent_at"] <= event["occurred_at"]
            ]
            last = max(before, key=lambda m: m["sent_at"], default=None)
            found = last and last["message_id"]
        if found:
            facts[found]["events"].add((event["event"], event["is_machine"] is True))

    def touch(customer: str, day: date, wine: str | None = None) -> Row | None:
        touching = [
            m
            for m in sent
            if m["customer_id"] == customer
            and 0 <= (day - _day(m["sent_at"])).days <= DAYS
            and (wine is None or wine in m["wine_ids"])
        ]
        return max(touching, key=lambda m: m["sent_at"], default=None)

    for order in MADE["orders"]:
        if order["is_qualifying"] and (last := touch(order["customer_id"], order["order_date"])):
            facts[last["message_id"]]["orders"].append(order)
    for bought in MADE["purchases"]:
        if last := touch(bought["customer_id"], bought["sale_date"], bought["wine_id"]):
            facts[last["message_id"]]["wines"].append(bought)
    return facts


EXPECTED = _expected_messages()


def _reacted(fact: Row, *names: str, machine: bool | None = None) -> bool:
    return any(name in names and (machine is None or by == machine) for name, by in fact["events"])


FLAGS: dict[str, Callable[[Row], bool]] = {
    "delivered": lambda fact: _reacted(fact, "delivered", "opened", "clicked", "unsubscribed", "spam"),
    "opened": lambda fact: _reacted(fact, "opened", machine=False),
    "machine_opened": lambda fact: _reacted(fact, "opened", machine=True),
    "clicked": lambda fact: _reacted(fact, "clicked", machine=False),
    "bounced": lambda fact: _reacted(fact, "hard_bounce", "blocked", "invalid"),
    "unsubscribed": lambda fact: _reacted(fact, "unsubscribed"),
    "complained": lambda fact: _reacted(fact, "spam"),
    "converted": lambda fact: bool(fact["wines"]),
    "ordered": lambda fact: bool(fact["orders"]),
}
RATES = {
    "delivery_rate": ("delivered", "sent"),
    "bounce_rate": ("bounced", "sent"),
    "open_rate": ("opened", "delivered"),
    "click_rate": ("clicked", "delivered"),
    "unsubscribe_rate": ("unsubscribed", "delivered"),
    "complaint_rate": ("complained", "delivered"),
    "conversion_rate": ("converted", "sent"),
    "order_rate": ("ordered", "sent"),
}


def test_each_message_has_its_reactions_and_the_orders_that_followed_it_last(built: Warehouse) -> None:
    found = _table(built, "message_outcomes", ["message_id"])
    assert len(found) == len(EXPECTED)
    for (message_id,), row in found.items():
        fact = EXPECTED[message_id]
        for name, holds in FLAGS.items():
            flag = "has_ordered" if name == "ordered" else f"is_{name}"
            assert row[flag] == holds(fact), (message_id, name)
        assert row["sent_on"].date() == _day(fact["message"]["sent_at"])
        assert row["n_orders"] == len(fact["orders"])
        assert row["revenue_ht"] == pytest.approx(sum(order["amount_ht"] for order in fact["orders"]))
        assert row["margin_ht"] == pytest.approx(sum(order["margin"] or 0 for order in fact["orders"]))
        assert row["recommended_revenue_ht"] == pytest.approx(sum(bought["amount_ht"] for bought in fact["wines"]))
    # Made so that days differ from London's, events are late and untagged, and two campaigns touch one customer.
    assert any(fact["message"]["sent_at"].date() != _day(fact["message"]["sent_at"]) for fact in EXPECTED.values())
    touched = defaultdict(set)
    for fact in EXPECTED.values():
        touched[fact["message"]["customer_id"]].add(fact["message"]["campaign"])
    assert max(map(len, touched.values())) == 3


def _sides(message: Row) -> dict[str, Any]:
    return {
        "all": "all",
        "step": str(message["step"]),
        "scenario": message["scenario"],
        "template": message["template"],
        "arm": message["arm"],
        "cluster": message["cluster_id"] or "none",
    }


def test_results_count_addresses_once_in_every_dimension_and_level(built: Warehouse) -> None:
    found = _table(built, "campaign_results", ["campaign", "occurrence", "dimension", "value"])
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for message in MADE["messages"]:
        for dimension, value in _sides(message).items():
            if value is None:
                continue
            groups[message["campaign"], message["occurrence"], dimension, value].append(message)
            if dimension != "arm":
                groups[message["campaign"], "*", dimension, value].append(message)
            if dimension not in ("arm", "step"):
                groups["*", "*", dimension, value].append(message)
    assert found.keys() == groups.keys()
    for key, members in groups.items():
        row = found[key]

        def count(members: list[Row] = members, **of: str) -> int:
            return len({m["address"] for m in members if all(m[name] == value for name, value in of.items())})

        sent = [m for m in members if m["message_id"] in EXPECTED]
        assert row["planned"] == len({m["address"] for m in members if m["status"] != "holdout"})
        for column, status in (
            *(("holdout", "holdout"), ("held_back", "superseded"), ("failed", "failed"), ("unknown", "unknown")),
            ("sent", "sent"),
        ):
            assert row[column] == count(status=status), (key, column)
        assert row["n_messages"] == len(sent)
        for name, holds in FLAGS.items():
            assert row[name] == len({m["address"] for m in sent if holds(EXPECTED[m["message_id"]])}), (key, name)
        orders = [order for m in sent for order in EXPECTED[m["message_id"]]["orders"]]
        assert row["n_orders"] == len(orders)
        assert row["revenue_ht"] == pytest.approx(sum(order["amount_ht"] for order in orders))
        for rate, (part, whole) in RATES.items():
            if not row[whole]:
                assert row[rate] is row[f"{rate}_low"] is row[f"{rate}_high"] is None
                continue
            assert row[rate] == pytest.approx(row[part] / row[whole])
            interval = binomtest(int(row[part]), int(row[whole])).proportion_ci(method="wilson")
            assert (row[f"{rate}_low"], row[f"{rate}_high"]) == pytest.approx(tuple(interval), abs=1e-6)
        last = max((_day(m["sent_at"]) for m in sent), default=None)
        assert row["is_final"] == (last is not None and last + timedelta(days=DAYS) <= NEWEST_SALE)
    assert found["*", "*", "cluster", "k1"]["label"] == "Regulars"
    assert {row["is_final"] for row in found.values()} == {True, False}


def _newcombe(n: int, of: int, other: int, other_of: int, z: float = Z) -> tuple[float, float, float]:
    def wilson(k: int, m: int) -> tuple[float, float]:
        roots = np.roots([1 + z * z / m, -(2 * k / m + z * z / m), (k / m) ** 2])  # (p - k/m)² = z² p (1 - p) / m
        return float(min(roots.real)), float(max(roots.real))

    (low, high), (other_low, other_high) = wilson(n, of), wilson(other, other_of)
    share, other_share = n / of, other / other_of
    difference = share - other_share
    below = math.hypot(share - low, other_high - other_share)
    above = math.hypot(high - share, other_share - other_low)
    return difference, difference - below, difference + above


def test_uplift_compares_all_who_were_drawn_from_the_first_day_on(built: Warehouse) -> None:
    found = _table(built, "campaign_uplift", ["scope", "quarter", "campaign", "occurrence"])
    orders = defaultdict(list)
    for order in MADE["orders"]:
        if order["is_qualifying"]:
            orders[order["customer_id"]].append(order["order_date"])

    def ordered(message: Row, began: date) -> bool:
        return any(0 <= (day - began).days <= DAYS for day in orders[message["customer_id"]])

    first_of_quarter: dict[str, tuple[date, str, str, Row]] = {}
    expected: dict[tuple[str, ...], tuple[list[tuple[Row, date]], date]] = {}
    for campaign, occurrence, step, _, began, _, _, has_control in SENDINGS:
        if step != 1 or began is None or not has_control:
            continue
        drawn = [
            (m, began)
            for m in MADE["messages"]
            if (m["campaign"], m["occurrence"], m["step"]) == (campaign, occurrence, 1)
        ]
        expected["occurrence", "2024Q2", campaign, occurrence] = (drawn, began + timedelta(days=DAYS))
        for message, _ in drawn:
            mine = (began, campaign, occurrence, message)
            known = first_of_quarter.get(message["address"])
            if known is None or mine[:3] < known[:3]:
                first_of_quarter[message["address"]] = mine
    pooled = [(message, began) for began, _, _, message in first_of_quarter.values()]
    # The last of its campaigns began on 11 June: 30 days later the quarter is over.
    expected["quarter", "2024Q2", "*", "*"] = (pooled, date(2024, 7, 11))
    assert found.keys() == expected.keys()
    for key, (drawn, final_on) in expected.items():
        held = [pair for pair in drawn if pair[0]["status"] == "holdout"]
        treated = [pair for pair in drawn if pair[0]["status"] != "holdout"]
        row = found[key]
        counts = [
            *(sum(ordered(*pair) for pair in treated), len(treated)),
            *(sum(ordered(*pair) for pair in held), len(held)),
        ]
        columns = ("treated_ordered", "treated", "held_out_ordered", "held_out")
        assert [row[name] for name in columns] == counts
        assert {m["status"] for m, _ in treated} == {"sent", "failed", "unknown", "superseded"}
        bounds = [row[name] for name in ("uplift", "uplift_low", "uplift_high")]
        assert bounds == pytest.approx(list(_newcombe(*counts)), abs=2e-6)
        assert row["final_on"].date() == final_on
        assert row["is_final"] is (final_on <= NEWEST_SALE)


def test_a_verdict_on_arms_stands_only_beyond_chance(built: Warehouse) -> None:
    found = _table(built, "campaign_arms", ["campaign", "occurrence", "measure", "arm", "other_arm"])
    results = _table(built, "campaign_results", ["campaign", "occurrence", "dimension", "value"])
    pairs = [("A", "B"), ("A", "C"), ("B", "C")]
    measures = ["opened", "clicked", "converted", "ordered", "unsubscribed"]
    assert found.keys() == {("news", "once", measure, *pair) for measure in measures for pair in pairs}
    z = NormalDist().inv_cdf(1 - 0.05 / 3 / 2)
    for (campaign, occurrence, measure, arm, other), row in found.items():
        first, second = (results[campaign, occurrence, "arm", name] for name in (arm, other))
        expected = _newcombe(first[measure], first["sent"], second[measure], second["sent"], z)
        bounds = [row[name] for name in ("difference", "difference_low", "difference_high")]
        assert bounds == pytest.approx(list(expected), abs=2e-6)
        assert row["more"] == (arm if expected[1] > 0 else other if expected[2] < 0 else None)


ADDS_UP, RATES_HOLD = "outcomes_every_dimension_adds_up", "outcomes_rates_never_exceed_1"
ONE_ONLY = "outcomes_an_order_counts_for_one_message_only"


@pytest.mark.parametrize(
    ("test", "breach"),
    [
        (ADDS_UP, "update outcomes.campaign_results set n_orders = n_orders + 1 where dimension = 'scenario'"),
        (ADDS_UP, "update outcomes.campaign_results set revenue_ht = revenue_ht + 1 where campaign = '*'"),
        (RATES_HOLD, "update outcomes.campaign_results set open_rate = 1.2"),
        (RATES_HOLD, "update outcomes.campaign_results set click_rate_low = click_rate + 0.1"),
        (ONE_ONLY, "update outcomes.message_outcomes set n_orders = n_orders + 1000"),
    ],
)
def test_the_identities_hold_and_a_breach_is_told(built: Warehouse, test: str, breach: str) -> None:
    assert built.rows(statement(test)) == []

    with built.transaction() as connection:
        connection.execute(breach.encode())
        assert connection.execute(statement(test).encode()).fetchall()
        connection.rollback()


@pytest.mark.parametrize("draw", [plots.funnel, plots.uplift, plots.arms])
def test_results_can_be_drawn_and_their_absence_too(
    built: Warehouse, draw: Callable[[Warehouse], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert draw(built).value.startswith("![plot](data:image/png;base64,")
    monkeypatch.setattr(Warehouse, "read", lambda *_, **__: pd.DataFrame({"is_final": []}))
    assert draw(built).value.endswith(": none")


def test_a_campaign_that_is_not_delivered_or_not_welcome_is_a_light(built: Warehouse) -> None:
    class _Run:
        warehouse, rules = built, rules_module.load({})

    def judged() -> Any:
        function: Any = campaigns_are_delivered_and_welcome.node_def.compute_fn.decorated_fn  # type: ignore[attr-defined]
        return function(None, _Run())

    told = judged()
    assert not told.passed
    # The others are final: history. So many complain here only because the events are drawn by chance.
    (lines,) = (told.metadata["outside"].value,)
    assert {line.split(":")[0] for line in lines.splitlines()} == {"* fair once"}
    with built.transaction() as connection:
        connection.execute("create table outcomes.kept as select * from outcomes.campaign_results")
        connection.execute(
            "update outcomes.campaign_results set delivery_rate = 0.95, bounce_rate = 0.01, unsubscribe_rate = 0.02,"
            " complaint_rate = 0.001"
        )
    assert judged().passed
    built.execute("update outcomes.campaign_results set complaint_rate = 0.004 where campaign = 'fair'")
    assert "complaint rate 0.40%, at most 0.30%" in judged().metadata["outside"].value
    built.execute("delete from outcomes.campaign_results")
    built.execute("insert into outcomes.campaign_results select * from outcomes.kept")
