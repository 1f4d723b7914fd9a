"""Predictions: the next order of every person, its value, churn and lead score, each measured on the estate's own
past (spec.md §4.4).

Within private and within professional customers: a purchase model (`purchase_models.py`), or the simple rule where
there is little history, and on top of it a learned model that serves only where it was better on the last 90 days.
Everything that is learned is learned at earlier days than it is judged at. Frames in, frames out: no SQL, no
Dagster, no clock, no unseeded chance; the order of the input rows never changes a result.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crm_assets.logic.customers import (
    DECIMALS,
    METHOD_NO_ORDER,
    METHOD_RATE,
    PURCHASE_MODELS,
    Activity,
    Floats,
    Ints,
    JoinedActivity,
    ModelledActivity,
    OrderHistory,
    RateWithDropout,
    auc,
    day_number,
    day_numbers,
    measure,
    population_members,
    positions,
    purchase_models_of,
    sorted_ids,
    stride,
    too_little_history,
    totals,
)
from crm_assets.logic.purchase_models import FitError, GammaGamma, ParetoNBD, PurchaseModel

if TYPE_CHECKING:
    from crm_assets.rules import BusinessRules

METHOD_STACKED = "stacked"
VALUE_OWN_MEAN = "own_mean"
_SURE = 1e-6  # a learned probability is kept this far from 0 and 1
_YEAR = 365
# The learners. Small trees and few of them: with order dates alone there is little more to learn.
_BOOSTING = {
    "learning_rate": 0.05,
    "max_iter": 60,
    "max_leaf_nodes": 8,
    "min_samples_leaf": 50,
    "l2_regularization": 1.0,
    "early_stopping": False,
    "random_state": 0,
}
_CLIPPED_SHARE = 0.002  # of a feature's values at either end: what was hardly seen is not extrapolated
_STEEPNESS = (0.5, 2.0)
_LEAST_SPREAD = 1e-3  # a feature that varies less says nothing


@dataclass(frozen=True)
class Predictions:
    """Rows of `customers.predictions`; per population, the measures of the hold-out (`status` measured, or none
    with a reason); and what answers other horizons, by position of the rows.
    """

    rows: pd.DataFrame
    quality: dict[str, dict[str, Any]]
    active: JoinedActivity


def predict(
    customers: pd.DataFrame,
    orders: pd.DataFrame,
    as_of: date,
    rules: BusinessRules,
    engagement: pd.DataFrame | None = None,
) -> Predictions:
    """Order probability, expected orders and value, churn flag and lead score of every person, by
    customer_id.

    customers: customer_id, population. orders: customer_id, order_date, amount_ht, qualifying ones. engagement
    (optional): customer_id and booleans opened, clicked, bounced, unsubscribed of the last 90 days, already
    limited to addresses with tracking consent and to opens by people. An order is a day with orders, its value
    that day's sum.
    """
    settings = rules.predictions
    people = customers.assign(customer_id=customers["customer_id"].astype(str)).drop_duplicates("customer_id")
    people = people.set_index("customer_id").loc[sorted_ids(people["customer_id"])]
    is_professional = (people["population"] == "professional").to_numpy(dtype=bool)
    until = day_number(as_of)
    customer, day = positions(orders["customer_id"], people.index), day_numbers(orders["order_date"])
    past = OrderDays.of(customer, day, orders["amount_ht"].to_numpy(dtype="float64"), len(people), until)

    history = past.history(np.arange(len(people)), until)
    has = history.n_days > 0
    value = np.zeros(len(people))
    method = np.full(len(people), METHOD_NO_ORDER, dtype=object)
    parts: list[tuple[Ints, Activity]] = []
    quality: dict[str, dict[str, Any]] = {}
    for population, members in population_members(has, is_professional):
        served = _serve(past, members, until, rules)
        parts.append((members, served.active))
        value[members] = served.value
        method[members] = served.quality["method"]
        quality[population] = served.quality
    active = JoinedActivity(len(people), parts, quality)

    probability = np.round(active.probability(settings.horizon_days), DECIMALS)
    expected = active.expected_orders(settings.value_days)
    p_active = active.p_active
    silence, interval = until - history.last, history.interval
    overdue = np.where(np.isnan(interval), False, silence > settings.churn_interval_factor * np.nan_to_num(interval))
    rows = pd.DataFrame(
        {
            "customer_id": people.index,
            "probability_90d": probability,
            "expected_orders_365d": np.round(expected, DECIMALS),
            "expected_value_365d": np.round(expected * value, 2),
            "p_active": np.round(p_active, DECIMALS),
            "is_churning": has & (overdue | (p_active < settings.churn_p_active)),
            "lead_score": lead_scores(people.index, probability, engagement, rules),
            "method": method,
        }
    )
    return Predictions(rows, quality, active)


def lead_scores(ids: pd.Index, probability: Floats, engagement: pd.DataFrame | None, rules: BusinessRules) -> Floats:
    """0..100: percentile rank of the probability (0 when it is 0), then +5 opened, +15 clicked, -20 bounced;
    0 refused.
    """
    from scipy.stats import rankdata

    score = np.where(probability > 0, 100.0 * rankdata(probability) / max(len(probability), 1), 0.0)
    if engagement is not None and len(engagement):
        flags = ["opened", "clicked", "bounced", "unsubscribed"]
        by_customer = (
            engagement.groupby(engagement["customer_id"].astype(str))[flags].any().reindex(ids, fill_value=False)
        )
        points = rules.predictions.engagement
        score = (
            score + by_customer["opened"].to_numpy() * points.open + by_customer["clicked"].to_numpy() * points.click
        )
        score = score + by_customer["bounced"].to_numpy() * points.bounce
        score = np.where(by_customer["unsubscribed"].to_numpy(), 0.0, score)
    return np.round(np.clip(score, 0.0, 100.0), 1)


@dataclass(frozen=True)
class OrderDays:
    """Every (customer, day) with an order, by customer and day, with the day's sum: the state of any customers at
    any day is a search away.
    """

    key: Ints  # customer × span + days since origin: sorted
    day: Ints
    start: Ints  # of each customer's rows, one entry more than customers
    spent: Floats  # running sum of the amounts, one entry more than rows
    origin: int
    span: int

    @classmethod
    def of(cls, customer: Ints, day: Ints, amount: Floats, n: int, until: int) -> OrderDays:
        """From one entry per order; strangers (-1) and what comes after `until` are left out."""
        known = (customer >= 0) & (day <= until)
        customer, day, amount = customer[known], day[known], amount[known]
        origin = int(day.min(initial=until))
        span = until - origin + 1
        key = customer * span + (day - origin)
        order = np.lexsort((amount, key))
        key, amount = key[order], amount[order]
        new = np.ones(len(key), dtype=bool)
        new[1:] = key[1:] != key[:-1]
        sums = totals((np.cumsum(new) - 1).astype(np.int64), amount, int(new.sum()))
        key = key[new]
        return cls(
            key=key,
            day=key % span + origin,
            start=np.searchsorted(key, np.arange(n + 1) * span).astype(np.int64),
            spent=np.concatenate([[0.0], np.cumsum(sums)]),
            origin=origin,
            span=span,
        )

    def count(self, who: Ints, day: int) -> Ints:
        """How many order days each of `who` had until the end of `day`."""
        since = min(max(day - self.origin, -1), self.span - 1)
        return (np.searchsorted(self.key, who * self.span + since, side="right") - self.start[who]).astype(np.int64)

    def amount(self, who: Ints, first: Ints, last: Ints) -> Floats:
        """Sum of each one's order days number `first` to `last` (exclusive), counted from their first."""
        start = self.start[who]
        found: Floats = self.spent[start + last] - self.spent[start + first]
        return found

    def history(self, who: Ints, until: int) -> OrderHistory:
        """Of each of `who` at the end of day `until`; its orders are order days."""
        n = self.count(who, until)
        zero = np.zeros_like(n)
        first, last = zero.copy(), zero.copy()
        has = n > 0
        start = self.start[who[has]]
        first[has], last[has] = self.day[start], self.day[start + n[has] - 1]
        return OrderHistory(n_orders=n, n_days=n, first=first, last=last, amount=self.amount(who, zero, n))

    def who_had_ordered(self, members: Ints, day: int) -> Ints:
        """Those of `members` (who have all ordered) who had by the end of `day`."""
        return members[self.day[self.start[members]] <= day]


# What answers for a population


@dataclass(frozen=True)
class CalibratedActivity:
    """An activity whose log-odds are moved by `offset` per customer, and by the season of the days to come.

    `season` is of the next `horizon` days; over longer ones it fades, and a whole year has none. Expected orders
    are P(at least one) × the model's E[orders | at least one]: what was learned about who orders moves the
    first factor only. A customer who is to order is active.
    """

    base: Activity
    offset: Floats
    season: float
    p_stays: Floats  # probability of still being a customer, before what the offset says
    horizon: int

    @cached_property
    def p_active(self) -> Floats:
        return np.maximum(self.p_stays, self.probability(self.horizon))

    def probability(self, days: float) -> Floats:
        moved = self._moved(self.base.probability(days), days)
        return moved if days <= self.horizon else np.maximum(moved, self.probability(self.horizon))

    def expected_orders(self, days: float) -> Floats:
        base = self.base.probability(days)
        return self.base.expected_orders(days) * self._moved(base, days) / np.maximum(base, _SURE)

    def _moved(self, probability: Floats, days: float) -> Floats:
        left = np.clip((_YEAR - days) / (_YEAR - self.horizon), 0.0, 1.0)
        return _probability(_log_odds(probability) + self.offset + self.season * left)


@dataclass(frozen=True)
class _Cut:
    """A day of the past: a sample of those who had ordered by then, what each model, fitted on what was known then,
    said of the horizon, and what came in it.
    """

    day: int
    who: Ints
    history: OrderHistory
    said: dict[str, Activity]
    orders: Ints  # order days within the horizon
    spend: Floats

    @property
    def ordered(self) -> np.ndarray:
        return self.orders > 0


@dataclass(frozen=True)
class _Served:
    active: Activity
    value: Floats  # of an order day, EUR HT
    quality: dict[str, Any]


def _serve(past: OrderDays, members: Ints, until: int, rules: BusinessRules) -> _Served:
    """What answers for the customers `members`, who have all ordered, of one population."""
    settings = rules.predictions
    history = past.history(members, until)
    history_days = int(until - history.first.min())
    own_mean = _own_mean(history)
    facts: dict[str, Any] = {"customers": len(members), "history_days": history_days}
    reason = too_little_history(len(members), history_days, rules)
    models, likelihood, failed = ({}, {}, {}) if reason else purchase_models_of(history, until, rules)
    if not models:
        reason = reason or "; ".join(sorted(set(failed.values())))
        quality = {**facts, "status": "none", "method": METHOD_RATE, "reason": reason}
        return _Served(RateWithDropout.fit(history, until, rules), own_mean, quality)

    said = _said(history, until, models, rules)
    facts["parameters"] = {name: model.parameters() for name, model in models.items()}
    held = _cut(past, members, until - settings.horizon_days, rules)
    if held is None or not 0 < held.ordered.sum() < len(held.who):
        base = max(models, key=lambda name: round(float(likelihood[name].mean()), DECIMALS))
        days = settings.horizon_days
        reason = f"{settings.min_customers} customers needed {days} days ago"
        if held is not None:
            reason = f"{'all' if held.ordered.any() else 'none'} ordered in the last {days} days"
        reason = f"no hold-out ({reason}): the likelier model"
        quality = {**facts, "status": "none", "method": base, "reason": reason}
        return _Served(_calibrated(said, base, None, 1.0, 0.0, settings.horizon_days), own_mean, quality)

    choice = _choose(past, members, held, said, rules)
    log_odds = None
    if choice.learned is not None:
        log_odds = choice.learned.log_odds(_features(past, members, until, said, settings.horizon_days))
    year_ago = _cut(past, members, until - _YEAR, rules, _only(choice.base))
    season = _missed(year_ago, choice.base, rules) if choice.with_season and year_ago is not None else 0.0
    value, value_quality = _value(held, choice.expected_orders, history, rules)
    quality = {
        **facts,
        "status": "measured",
        **choice.quality,
        "season_log_odds": round(season, 4),
        "value": value_quality,
        "year": _year_totals(past, year_ago, choice.base, until, rules),
    }
    active = _calibrated(said, choice.base, log_odds, choice.steepness, season, settings.horizon_days)
    return _Served(active, value, quality)


def _said(
    history: OrderHistory, until: int, models: dict[str, PurchaseModel], rules: BusinessRules
) -> dict[str, Activity]:
    """The rule and the fitted purchase models, by name, for customers who have all ordered."""
    said: dict[str, Activity] = {METHOD_RATE: RateWithDropout.fit(history, until, rules)}
    for name, model in models.items():
        said[name] = ModelledActivity(model, *history.purchases(until))
    return said


def _cut(
    past: OrderDays, members: Ints, day: int, rules: BusinessRules, names: Collection[str] = PURCHASE_MODELS
) -> _Cut | None:
    """None when too few had ordered by that day, history was shorter than the horizon, or no model can be
    fitted.
    """
    settings = rules.predictions
    known = past.who_had_ordered(members, day)
    if len(known) < settings.min_customers:
        return None
    who = known[:: stride(len(known), rules)]
    history = past.history(who, day)
    if day - history.first.min() < settings.horizon_days:
        return None
    models, _, _ = purchase_models_of(history, day, rules, names)
    if names and not models:
        return None
    end = past.count(who, day + settings.horizon_days)
    return _Cut(
        day=day,
        who=who,
        history=history,
        said=_said(history, day, models, rules),
        orders=end - history.n_days,
        spend=past.amount(who, history.n_days, end),
    )


def _only(base: str) -> tuple[str, ...]:
    """The purchase models that a base needs: the rule needs none."""
    return () if base == METHOD_RATE else (base,)


def _own_mean(history: OrderHistory) -> Floats:
    return np.maximum(history.amount / np.maximum(history.n_days, 1), 0.0)


# Choosing on the hold-out


@dataclass(frozen=True)
class _Choice:
    """What serves: the base and, where they won, the learners on top (fitted until today); the steepness of its
    log-odds; whether the season of a year ago moves its level; what it expected of the hold-out; and the measures.
    """

    base: str
    learned: _Learned | None
    steepness: float
    with_season: bool
    expected_orders: Floats
    quality: dict[str, Any]


def _choose(past: OrderDays, members: Ints, held: _Cut, today: dict[str, Activity], rules: BusinessRules) -> _Choice:
    """The rule and the purchase models, then the learned model, by how they did on the hold-out.

    Base = the best AUC; where others come within `min_gain` of it, the least log-loss among them. The learned
    model, fitted on earlier cuts, serves when its AUC is better than the base's by `min_gain` and its log-loss
    is less. The season (what the base missed in the same days a year earlier) moves the level when that lowers
    the log-loss. Today's log-odds are made steeper or flatter where the hold-out's were much too flat or steep.
    """
    settings = rules.predictions
    horizon, ordered = settings.horizon_days, held.ordered
    names = [name for name in held.said if name in today]
    tried = {name: _judged(held.said[name].probability(horizon), ordered) for name in names}
    best = max(float(tried[name]["auc"]) for name in names)
    close = [name for name in names if tried[name]["auc"] >= best - settings.min_gain]
    base = min(close, key=lambda name: tried[name]["log_loss"])

    cuts = [held]
    for step in range(2, settings.learning_cuts + 2):
        cut = _cut(past, members, held.day - (step - 1) * horizon, rules)
        if cut is None:
            break
        cuts.append(cut)
    blocks = [
        (_features(past, cut.who, cut.day, cut.said, horizon), cut.ordered)
        for cut in cuts
        if set(cut.said) >= set(today)
    ]
    learned, log_odds, reason = None, None, "no earlier cut to learn from"
    positives = sum(int(label.sum()) for _, label in blocks[1:])
    if len(blocks) == len(cuts) > 1:
        reason = f"{positives} orders to learn from, {settings.learning_min_positives} needed"
    if len(blocks) == len(cuts) > 1 and positives >= settings.learning_min_positives:
        log_odds = _Learned.fit(blocks[1:]).log_odds(blocks[0][0])
        stacked = _calibrated(held.said, base, log_odds, 1.0, 0.0, horizon).probability(horizon)
        tried[METHOD_STACKED] = _judged(stacked, ordered)
        gain = float(tried[METHOD_STACKED]["auc"]) - float(tried[base]["auc"])
        less = float(tried[base]["log_loss"]) - float(tried[METHOD_STACKED]["log_loss"])
        reason = f"stacked: AUC {gain:+.4f}, log-loss {-less:+.4f} against {base}"
        if gain >= settings.min_gain and less > 0:
            learned = _Learned.fit(blocks[: settings.learning_cuts])
        else:
            log_odds = None

    plain = _calibrated(held.said, base, log_odds, 1.0, 0.0, horizon)
    year_before = _cut(past, members, held.day - _YEAR, rules, _only(base))
    season = 0.0 if year_before is None else _missed(year_before, base, rules)
    seasonal = _calibrated(held.said, base, log_odds, 1.0, season, horizon)
    levels = {
        "model": _judged(plain.probability(horizon), ordered)["log_loss"],
        "season": _judged(seasonal.probability(horizon), ordered)["log_loss"] if year_before is not None else None,
    }
    with_season = levels["season"] is not None and levels["season"] < levels["model"]
    served = seasonal if with_season else plain
    slope = _slope(_log_odds(served.probability(horizon)), ordered)
    steepness = _steepness(slope, rules)
    expected = served.expected_orders(horizon)
    probability = served.probability(horizon)
    quality = {
        "method": METHOD_STACKED if learned is not None else base,
        "base": base,
        "reason": reason,
        "tried": [{"method": name, **judged} for name, judged in tried.items()],
        "level": {"chosen": "season" if with_season else "model", "log_loss": levels},
        "calibration_slope": slope,
        "steepness": steepness,
        "holdout_days": horizon,
        "log_loss": _judged(probability, ordered)["log_loss"],
        **measure(probability, ordered),
        "expected_orders": round(float(expected.sum()), 1),
        "observed_orders": int(held.orders.sum()),
        "rmse_orders": round(float(np.sqrt(np.mean((expected - held.orders) ** 2))), 4),
        "top_decile_share_of_orders": _top_share(expected, held.orders.astype("float64")),
    }
    return _Choice(base, learned, steepness, with_season, expected, quality)


def _judged(probability: Floats, happened: np.ndarray) -> dict[str, Any]:
    sure = np.clip(probability, _SURE, 1.0 - _SURE)
    loss = -np.where(happened, np.log(sure), np.log1p(-sure)).mean()
    return {
        "auc": auc(probability, happened),
        "log_loss": round(float(loss), 4),
        "brier": round(float(np.mean((probability - happened) ** 2)), 4),
        "mean_predicted": round(float(probability.mean()), 4),
    }


def _top_share(score: Floats, amount: Floats) -> float | None:
    """Share of the amount that the tenth with the highest scores has; None of nothing."""
    top = np.argsort(-score, kind="stable")[: max(len(score) // 10, 1)]
    total = float(amount.sum())
    return round(float(amount[top].sum()) / total, 4) if total > 0 else None


def _missed(cut: _Cut, base: str, rules: BusinessRules) -> float:
    """By how much the log-odds of the base were too low in the horizon after a cut; half an order is added to
    what came, so that none is no certainty.
    """
    if base not in cut.said:
        return 0.0
    said = _log_odds(cut.said[base].probability(rules.predictions.horizon_days))
    return _shift_to(said, (float(cut.ordered.sum()) + 0.5) / (len(cut.who) + 1.0))


def _year_totals(
    past: OrderDays, cut: _Cut | None, base: str, until: int, rules: BusinessRules
) -> dict[str, float] | None:
    """What the base expected a year ago of the year to come, and what came, of the sample's customers."""
    if cut is None or base not in cut.said:
        return None
    expected = float(cut.said[base].expected_orders(rules.predictions.value_days).sum())
    observed = past.count(cut.who, cut.day + rules.predictions.value_days) - cut.history.n_days
    return {"expected_orders": round(expected, 1), "observed_orders": int(observed.sum())}


# Log-odds


def _log_odds(probability: Floats) -> Floats:
    sure = np.clip(probability, _SURE, 1.0 - _SURE)
    return np.asarray(np.log(sure) - np.log1p(-sure), dtype=np.float64)


def _probability(log_odds: Floats) -> Floats:
    from scipy.special import expit

    return np.asarray(expit(log_odds), dtype=np.float64)


def _shift_to(log_odds: Floats, mean: float) -> float:
    """What to add to the log-odds so that the mean probability is `mean` (0 < mean < 1)."""
    low, high = -20.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _probability(log_odds + middle).mean() < mean else (low, middle)
    return round((low + high) / 2.0, DECIMALS)


def _slope(log_odds: Floats, happened: np.ndarray) -> float:
    """Platt's: by how much steeper the log-odds should have been; 1 of calibrated ones."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        model = LogisticRegression(C=1e6, solver="newton-cholesky").fit(log_odds[:, None], happened)
    return round(float(model.coef_[0, 0]), 2)


def _steepness(slope: float, rules: BusinessRules) -> float:
    """What of a hold-out's slope is applied today: what exceeds its usual swing from season to season
    (docs/decisions/0009-predictions.md), and no more than doubling or halving.
    """
    tolerance = rules.predictions.slope_tolerance
    beyond = slope / tolerance if slope > tolerance else slope * tolerance if slope < 1.0 / tolerance else 1.0
    return round(float(np.clip(beyond, *_STEEPNESS)), 2)


def _calibrated(
    said: dict[str, Activity], base: str, learned: Floats | None, steepness: float, season: float, horizon: int
) -> CalibratedActivity:
    """The base's log-odds, or the mean of its and the learners' (two rows), times the steepness, at the base's mean
    probability; then the season.

    Who is still a customer is Pareto/NBD's to say where it was fitted: in BG/NBD who never came back is active
    for ever.
    """
    own = _log_odds(said[base].probability(horizon))
    mixed = steepness * (own if learned is None else (own + learned.sum(axis=0)) / (1.0 + len(learned)))
    # On at most some ten thousand customers: a mean of a million is not needed to find a level.
    every = max(1, len(own) // 20_000)
    shift = _shift_to(mixed[::every], float(_probability(own[::every]).mean()))
    stays = said[ParetoNBD.name if ParetoNBD.name in said else base].p_active
    return CalibratedActivity(said[base], mixed + shift - own, season, stays, horizon)


# The learned model


def _features(past: OrderDays, who: Ints, day: int, said: dict[str, Activity], horizon: int) -> Floats:
    """One row per customer, who had all ordered by `day`; nothing of later days.

    Logs of: order days, silence, age, mean and last interval, silence by interval, order days of the last one and
    two horizons and of the year, those of the coming season a year ago, mean and last value; whether there is no
    repeat; then log-odds, chance of being active and expected orders of each purchase model.
    """
    history = past.history(who, day)
    n = history.n_days
    repeats, span, age = history.purchases(day)
    silence = age - span
    once = repeats == 0
    start = past.start[who]
    interval = span / np.maximum(repeats, 1.0)
    last_interval = (history.last - past.day[start + np.maximum(n - 2, 0)]).astype("float64")
    last_value = past.amount(who, n - 1, n)
    coming = past.count(who, day - _YEAR + horizon) - past.count(who, day - _YEAR)
    around = past.count(who, day - _YEAR + horizon + 30) - past.count(who, day - _YEAR - 30)
    columns = [
        np.log(n),
        np.log1p(silence),
        np.log1p(age),
        np.log1p(interval),
        np.where(once, 0.0, np.log((silence + 7.0) / (interval + 7.0))),
        np.log1p(last_interval),
        np.log1p(n - past.count(who, day - horizon)),
        np.log1p(n - past.count(who, day - 2 * horizon)),
        np.log1p(n - past.count(who, day - _YEAR)),
        np.log1p(coming),
        np.log1p(around),
        (age >= _YEAR - horizon).astype("float64"),
        once.astype("float64"),
        np.log1p(_own_mean(history)),
        np.log1p(np.maximum(last_value, 0.0)),
    ]
    for name, activity in said.items():
        if name != METHOD_RATE:
            expected = np.log(activity.expected_orders(horizon) + _SURE)
            columns += [_log_odds(activity.probability(horizon)), activity.p_active, expected]
    # Rounded: a split between two values that differ by the last bit would differ between machines.
    return np.round(np.stack(columns, axis=1).astype("float64"), 6)


_CURVED = 5  # the first features enter the logistic regression squared and multiplied too


@dataclass(frozen=True)
class _Learned:
    """Gradient boosting and logistic regression of "orders within the horizon" on the features; only the order
    of their log-odds is used, the level is the base's.
    """

    boosting: Any
    low: Floats
    high: Floats
    mean: Floats
    deviation: Floats
    weights: Floats

    @classmethod
    def fit(cls, blocks: list[tuple[Floats, np.ndarray]]) -> _Learned:
        """One block per cut: features and who ordered. A cut's level is its own, so that seasons are not
        mistaken for customers.
        """
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        features = np.concatenate([block for block, _ in blocks])
        label = np.concatenate([ordered for _, ordered in blocks])
        cut = np.repeat(np.arange(len(blocks)), [len(ordered) for _, ordered in blocks])
        curved = _curved(features)
        low, high = np.quantile(curved, [_CLIPPED_SHARE, 1.0 - _CLIPPED_SHARE], axis=0)
        curved = np.clip(curved, low, high)
        mean, deviation = curved.mean(axis=0), curved.std(axis=0)
        deviation = np.where(deviation > _LEAST_SPREAD, deviation, np.inf)
        levels = np.eye(len(blocks))[cut]
        with threadpool_limits(limits=1):
            scaled = np.hstack([(curved - mean) / deviation, levels])
            logistic = LogisticRegression(solver="newton-cholesky", max_iter=100).fit(scaled, label)
            boosting = HistGradientBoostingClassifier(**_BOOSTING).fit(features, label)
        weights = logistic.coef_[0, : curved.shape[1]]
        return cls(boosting, low, high, mean, deviation, weights)

    def log_odds(self, features: Floats) -> Floats:
        """(2, n): the logistic regression's but for a constant, and the boosting's."""
        from threadpoolctl import threadpool_limits

        with threadpool_limits(limits=1):
            boosted = _log_odds(self.boosting.predict_proba(features)[:, 1])
            scaled = (np.clip(_curved(features), self.low, self.high) - self.mean) / self.deviation
            linear = scaled @ self.weights
        return np.asarray(np.round(np.stack([linear, boosted]), 9), dtype=np.float64)


def _curved(features: Floats) -> Floats:
    """The features, and all products of two of the first ones."""
    pairs = [features[:, i] * features[:, j] for i in range(_CURVED) for j in range(i, _CURVED)]
    return np.hstack([features, np.stack(pairs, axis=1)])


# The value of an order


def _value(
    held: _Cut, expected_orders: Floats, history: OrderHistory, rules: BusinessRules
) -> tuple[Floats, dict[str, Any]]:
    """Value of an order day of each customer of `history`, by Gamma-Gamma or their own mean: whichever missed the
    hold-out's spend by less (RMSE), and how both did.
    """
    ways: dict[str, Floats] = {VALUE_OWN_MEAN: _own_mean(held.history)}
    own_mean = _own_mean(history)
    value = own_mean
    parameters: dict[str, float] | None = None
    reason = "the lower RMSE of spend"
    try:
        ways[GammaGamma.name] = _gamma_gamma(held.history, rules)[0]
        value, model = _gamma_gamma(history, rules)
        parameters = model.parameters()
    except FitError as error:
        ways.pop(GammaGamma.name, None)
        reason = str(error)
    tried: list[dict[str, Any]] = []
    for name, then in ways.items():
        expected = expected_orders * then
        tried.append(
            {
                "method": name,
                "rmse_spend": round(float(np.sqrt(np.mean((expected - held.spend) ** 2))), 2),
                "top_decile_share_of_spend": _top_share(expected, held.spend),
                "expected_spend": round(float(expected.sum()), 2),
                "observed_spend": round(float(held.spend.sum()), 2),
            }
        )
    best = min(tried, key=lambda way: way["rmse_spend"])
    if best["method"] == VALUE_OWN_MEAN:
        value = own_mean
    return value, {**best, "tried": tried, "parameters": parameters, "reason": reason}


def _gamma_gamma(history: OrderHistory, rules: BusinessRules) -> tuple[Floats, GammaGamma]:
    """Raises FitError where the model cannot be fitted. A customer without a positive mean is worth that mean."""
    n, mean = history.n_days.astype("float64"), _own_mean(history)
    positive = np.flatnonzero(mean > 0)
    sample = positive[:: stride(len(positive), rules)]
    model = GammaGamma.fit(n[sample], mean[sample])
    return np.where(mean > 0, model.expected_value(n, mean), mean), model
