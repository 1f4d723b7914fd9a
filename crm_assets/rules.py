"""The business rules: the shape of `config/rules.yaml`, and a tenant's overrides laid over it.

The numbers live in the YAML file, never here: a field without a value in the file is an error, not a default.
What stands here is which values make sense: a rule has a type and a range, a section what must hold between its
values. Unknown keys are refused, so that a misspelt override cannot be silently without effect.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from crm_assets import yaml_places

RULES_FILE = Path(__file__).parent / "config" / "rules.yaml"

# Weights that are to sum to 1 may miss it by the error of adding decimals as doubles, not by a digit.
WEIGHTS_TOLERANCE = 1e-9

# What PostgreSQL's patterns have that Python's have not, as Python writes it.
_PATTERN_ESCAPES = {"m": r"\b(?=\w)", "M": r"\b(?<=\w)", "y": r"\b", "Y": r"\B"}


def _compiles(pattern: str) -> str:
    """The pattern, where Python can read what PostgreSQL will: a bracket left open is found here, not in a run."""
    try:
        re.compile(re.sub(r"\\(.)", lambda found: _PATTERN_ESCAPES.get(str(found[1]), str(found[0])), pattern))
    except re.error as error:
        raise PydanticCustomError("pattern", "no regular expression: {reason}", {"reason": str(error)}) from None
    return pattern


Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Days = Annotated[int, Field(ge=1, le=3650)]
Window = Annotated[int, Field(ge=0, le=3650)]  # days; 0: none
Month = Annotated[int, Field(ge=1, le=12)]
Pattern = Annotated[str, Field(min_length=1), AfterValidator(_compiles)]
CountryCode = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
Word = Annotated[str, Field(min_length=1)]
Scale = Literal["orders", "length"]
CustomerType = Literal["private", "horeca", "merchant", "export_trade", "works_council", "staff"]
WineTradeType = Literal["horeca", "merchant", "export_trade"]
ProfessionalType = Literal["horeca", "merchant", "export_trade", "works_council"]
ProductKind = Literal[
    "wine", "gift_box", "other_drink", "tasting", "glassware", "shipping", "deposit", "discount", "voucher", "sample"
]
Dataset = Literal["sales_lines", "customers", "products", "stock", "contacts", "aliases"]
CheckCode = Literal[
    "UNKNOWN_PRODUCT",
    "UNKNOWN_CLIENT",
    "INVALID_SALE_VALUE",
    "ZERO_QUANTITY",
    "DUPLICATE_LINE",
    "NEGATIVE_MARGIN",
    "STALE_SALES",
    "VOLUME_DROP",
    "MISSING_EMAIL_RATE",
    "DUPLICATE_EMAIL",
    "INCOMPLETE_PROFILE",
    "MISSING_FAMILY",
    "UNREALISTIC_PRICE",
    "QUARANTINE_RATE",
    "SCHEMA_DRIFT",
]


def _increasing(values: list[float]) -> bool:
    return all(low < high for low, high in pairwise(values))


def _with_relation(schema: dict[str, Any], model: Any) -> None:
    if model.RELATION:
        schema["relation"] = model.RELATION


class Section(BaseModel):
    """A part of the rules: frozen, closed to keys it does not know, without guessing (`yes` is no number)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, json_schema_extra=_with_relation
    )

    # What must hold between the section's values, in words; empty: nothing.
    RELATION: ClassVar[str] = ""

    def _broken(self) -> str | None:
        """What is found where RELATION does not hold."""
        return None

    @model_validator(mode="after")
    def _relation_holds(self) -> Section:
        found = self._broken()
        if found is not None:
            raise PydanticCustomError("relation", "{relation}; {found}", {"relation": self.RELATION, "found": found})
        return self


class SalesBatchShares(Section):
    required: Share
    date: Share
    number: Share
    postal_code: Share


class ProductBatchShares(Section):
    required: Share
    number: Share
    vintage: Share


class BatchShares(Section):
    sales_lines: SalesBatchShares
    products: ProductBatchShares


class StockFreshness(Section):
    error_days: Days | None


class Freshness(StockFreshness):
    RELATION = "warn_days is less than error_days"
    warn_days: Days

    def _broken(self) -> str | None:
        if self.error_days is None or self.warn_days < self.error_days:
            return None
        return f"they are {self.warn_days} and {self.error_days}"


class FreshnessRules(Section):
    stock: StockFreshness
    customers: Freshness
    products: Freshness
    contacts: Freshness


class MaxShortfall(Section):
    sales_lines: Share
    customers: Share
    products: Share
    stock: Share
    contacts: Share


class WorkbookLimits(Section):
    inflated_bytes: Count
    ratio: Annotated[float, Field(gt=1)]
    ratio_from_bytes: Whole
    cells: Count


class Landing(Section):
    settle_seconds: NotNegative
    settled_after_seconds: NotNegative
    workbook_rows: Annotated[int, Field(ge=1, le=1_000_000)]  # a sheet has 1,048,576
    workbook: WorkbookLimits
    key_bytes: Annotated[int, Field(ge=1, le=2704)]  # PostgreSQL's B-trees take no more
    batch_sample: Count
    batch_shares: BatchShares
    needed_datasets: list[Dataset]
    freshness: FreshnessRules
    max_shortfall: MaxShortfall


class Vat(Section):
    default: Share
    by_country: dict[CountryCode, Share]
    other_countries: Share
    by_family: dict[str, Share]


class BottleCoefficient(Section):
    pattern: Pattern
    coefficient: Positive


class Values(Section):
    vat: Vat
    two_digit_year_pivot: Annotated[int, Field(ge=0, le=99)]
    bottle_coefficients: list[BottleCoefficient]
    countries: dict[Word, CountryCode] = {}


class ToleratedShares(Section):
    split: Share
    number_reused: Share
    positive_credit: Share
    document_inferred: Share
    amount_derived: Share


class Documents(Section):
    tolerated_shares: ToleratedShares
    same_number_max_days: Days
    types: dict[str, Literal["count", "credit", "ignore"]]


class TypePattern(Section):
    pattern: Pattern
    type: CustomerType


class StatusPattern(Section):
    pattern: Pattern
    status: Literal["deceased", "do_not_contact", "moved", "dispute"]


class KindPattern(Section):
    pattern: Pattern
    kind: ProductKind


class Customers(Section):
    name_similarity: Percent
    phone_max_codes: Count
    email_max_names: Count
    invalid_email_share: Share
    collective_order_share: PositiveShare
    collective_min_orders: Whole
    exclude_customers: list[Word]
    types: list[TypePattern]
    professional_types: list[ProfessionalType]
    statuses: list[StatusPattern]


class PriceSegments(Section):
    RELATION = "standard < premium < luxury"
    standard: Positive
    premium: Positive
    luxury: Positive

    def _broken(self) -> str | None:
        edges = [self.standard, self.premium, self.luxury]
        return None if _increasing(edges) else f"they are {edges}"


class Products(Section):
    RELATION = "suggestion_min is not above fuzzy_match"
    fuzzy_match: Percent
    fuzzy_margin: Percent
    suggestion_min: Percent
    stock_coverage_min: Share
    stock_max_age_days: Days
    price_segments: PriceSegments
    customer_price_months: Annotated[int, Field(ge=1, le=120)]
    missing_price_days: Days
    popularity_days: Days
    recommendable_kinds: Annotated[list[ProductKind], Field(min_length=1)]
    kinds: list[KindPattern]

    def _broken(self) -> str | None:
        held = self.suggestion_min <= self.fuzzy_match
        return None if held else f"they are {self.suggestion_min} and {self.fuzzy_match}"


Edges = Annotated[list[Positive], Field(min_length=4, max_length=4)]


class RfmEdges(Section):
    RELATION = "the four edges of each grow"
    recency: Edges
    frequency: Edges
    monetary: Edges

    def _broken(self) -> str | None:
        wrong = [name for name in ("recency", "frequency", "monetary") if not _increasing(getattr(self, name))]
        return f"not those of {', '.join(wrong)}" if wrong else None


class Rfm(Section):
    method: Literal["quintile", "edges"]
    edges_below_customers: Whole
    edges: RfmEdges


class ConfidenceLevels(Section):
    RELATION = "medium < high"
    medium: Share
    high: Share

    def _broken(self) -> str | None:
        return None if self.medium < self.high else f"they are {self.medium} and {self.high}"


class Taste(Section):
    half_weight_days: Positive
    shrinkage_orders: NotNegative
    full_confidence_orders: Positive
    confidence_levels: ConfidenceLevels


class Clusters(Section):
    RELATION = "k_min is not above k_max"
    seed: Whole
    k_min: Annotated[int, Field(ge=2, le=20)]
    k_max: Annotated[int, Field(ge=2, le=20)]
    starts: Annotated[int, Field(ge=1, le=100)]
    deviations_max: Positive
    stability_min: Share
    stability_resamples: Annotated[int, Field(ge=2, le=100)]
    smallest_share_min: Annotated[float, Field(ge=0, le=0.5)]
    silhouette_tolerance: Share
    stability_tolerance: Share
    match_distance_max: Positive
    sample_max: Annotated[int, Field(ge=100)]
    silhouette_sample: Annotated[int, Field(ge=100)]

    def _broken(self) -> str | None:
        return None if self.k_min <= self.k_max else f"they are {self.k_min} and {self.k_max}"


class Engagement(Section):
    open: Percent
    click: Percent
    bounce: Annotated[float, Field(ge=-100, le=0)]


class Predictions(Section):
    horizon_days: Days
    value_days: Days
    churn_interval_factor: Annotated[float, Field(ge=1)]
    churn_p_active: Share
    engagement_days: Days
    engagement: Engagement
    prior_orders: Positive
    min_customers: Whole
    min_history_days: Window
    sample_max: Annotated[int, Field(ge=100)]
    min_gain: Share
    slope_tolerance: Annotated[float, Field(ge=1)]
    learning_cuts: Annotated[int, Field(ge=1, le=52)]
    learning_min_positives: Count
    holdout_auc_min: Annotated[float, Field(ge=0.5, le=1)]
    holdout_total_factor: Annotated[float, Field(ge=1)]


class ComponentWeights(Section):
    RELATION = f"the six weights of a scenario sum to 1 (± {WEIGHTS_TOLERANCE:g})"
    collaborative: Share
    content: Share
    popularity: Share
    rhythm: Share
    margin: Share
    season: Share

    def _broken(self) -> str | None:
        weights = self.model_dump()
        total = sum(weights.values())
        # All six: whoever has overridden one sees only that one in the estate's file.
        each = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        return None if abs(total - 1) <= WEIGHTS_TOLERANCE else f"they sum to {total:.10g}: {each}"


class ScenarioWeights(Section):
    rebuy: ComponentWeights
    cross_sell: ComponentWeights
    upsell: ComponentWeights
    winback: ComponentWeights
    nurture: ComponentWeights


Multiplier = Annotated[float, Field(ge=0, le=10)]


class Multipliers(Section):
    rebuy: Multiplier
    cross_sell: Multiplier
    upsell: Multiplier
    winback: Multiplier
    nurture: Multiplier


class Explanations(Section):
    """From when on a fact is a reason that staff read.

    shortest_rhythm_days; late_days, late_share: of the interval, beyond it; orders_together: with both wines;
    share: of the customer's spend; close_taste: 1 - distance of taste and wine; tops: "among the so many most
    bought"; low_stock: bottles left.
    """

    RELATION = "tops grow"
    shortest_rhythm_days: Positive
    late_days: NotNegative
    late_share: NotNegative
    orders_together: Count
    share: Share
    close_taste: Share
    tops: Annotated[list[Count], Field(min_length=1)]
    low_stock: NotNegative

    def _broken(self) -> str | None:
        return None if _increasing([float(top) for top in self.tops]) else f"they are {self.tops}"


class UnratedOpinions(Section):
    """What a decision without a rating says of the wine, 0..1."""

    RELATION = "reject is not above later, later not above approve"
    approve: Share
    later: Share
    reject: Share

    def _broken(self) -> str | None:
        held = self.reject <= self.later <= self.approve
        return None if held else f"they are {self.reject}, {self.later} and {self.approve}"


class Feedback(Section):
    """days: how long a review counts; prior: neutral reviews that every wine has; see `logic.feedback`."""

    days: Days
    prior: Positive
    unrated: UnratedOpinions


class Recommendations(Section):
    RELATION = "rebuy_min_days < rebuy_max_days"
    max_per_customer: Annotated[int, Field(ge=1, le=10)]
    bought_window_days: Window
    bought_window_days_professional: Window
    rejection_days: Window
    winback_after_days: Days
    winback_min_lifetime: NotNegative
    rebuy_min_days: Window
    rebuy_max_days: Days
    rebuy_rhythm_share: Annotated[float, Field(gt=0, le=5)]
    upsell_max_price_ratio: Annotated[float, Field(gt=1, le=20)]
    nurture_price_segment: Literal["entry", "standard", "premium", "luxury"]
    max_family_share: PositiveShare
    stock_bottles_per_message: Positive
    stock_response_rate: PositiveShare
    probability_days: Annotated[int, Field(ge=1, le=365)]
    confidence_percentile: Annotated[float, Field(gt=0, le=100)]
    candidates_per_list: Annotated[int, Field(ge=1, le=100)]
    memory_days: Positive
    calibration_max_customers: Count
    calibration_min_positives: Count
    season_tags: dict[Word, Annotated[list[Month], Field(min_length=1)]]
    explanations: Explanations
    feedback: Feedback
    weights: ScenarioWeights
    multipliers: Multipliers

    def _broken(self) -> str | None:
        held = self.rebuy_min_days < self.rebuy_max_days
        return None if held else f"they are {self.rebuy_min_days} and {self.rebuy_max_days}"


class Recipe(Section):
    """How a ranker is made; see `logic.ranking.Ranker` for what each weight does.

    memory_days, scale: of a customer's history; order_memory_days: of the orders learned from; penalty: of the
    ridge, in mean diagonals of its Gram matrix; personal, copurchase, popularity: what is added to the ridge.
    """

    scale: Scale
    memory_days: Positive
    order_memory_days: Positive
    penalty: Positive
    personal: NotNegative
    copurchase: NotNegative
    popularity: NotNegative


class Tuning(Section):
    max_orders: Count
    max_products: Count
    max_customers: Count
    min_customers: Count
    least_gain: Share
    scale: Annotated[list[Scale], Field(min_length=1)]
    memory_days: Annotated[list[Positive], Field(min_length=1)]
    order_memory_days: Annotated[list[Positive], Field(min_length=1)]
    penalty: Annotated[list[Positive], Field(min_length=1)]
    personal: Annotated[list[NotNegative], Field(min_length=1)]
    copurchase: Annotated[list[NotNegative], Field(min_length=1)]
    popularity: Annotated[list[NotNegative], Field(min_length=1)]


class RerankerRules(Section):
    min_orders: Count
    orders_per_cut: Count
    cuts: Annotated[int, Field(ge=1, le=52)]
    unordered_step: Count
    iterations: Annotated[int, Field(ge=1, le=2000)]
    learning_rate: PositiveShare
    leaves: Annotated[int, Field(ge=2, le=1000)]
    bins: Annotated[int, Field(ge=2, le=255)]  # scikit-learn takes no more
    leaf_candidates: Count
    l2: NotNegative
    seed: Whole


class BacktestRules(Section):
    RELATION = "tops grow, and judged_by is one of them"
    tops: Annotated[list[Count], Field(min_length=1)]
    judged_by: Count
    max_customers: Count
    shortest_window_days: Days
    windows_in_history: Annotated[int, Field(ge=2)]

    def _broken(self) -> str | None:
        held = _increasing([float(top) for top in self.tops]) and self.judged_by in self.tops
        return None if held else f"they are {self.tops} and {self.judged_by}"


class Ranking(Section):
    prior_orders: Positive
    max_orders: Count
    orders_per_product: Count
    max_products: Count
    least_popularity: Share
    new_product_orders: NotNegative
    likeness_neighbours: Count
    recipe: Recipe
    tuning: Tuning
    candidates_repeat: Count
    candidates_explore: Count
    reranker: RerankerRules
    backtest: BacktestRules


class Permission(Section):
    # The law of the tenants' countries: adults only, nobody who has been silent for three years, no private person
    # without consent or order.
    adult_age: Annotated[int, Field(ge=18, le=25)]
    inactive_days: Annotated[int, Field(ge=1, le=1095)]
    recent_order_days: Window
    professional_basis: bool
    wine_trade_types: list[WineTradeType]


class Audit(Section):
    error_points: Annotated[int, Field(ge=0, le=100)]
    warning_points: Annotated[int, Field(ge=0, le=100)]
    min_score: Annotated[int, Field(ge=0, le=100)]
    silence_days: Window
    fatigue_contacts: Count
    fatigue_days: Days
    duplicate_days: Window
    diversity_min_items: Annotated[int, Field(ge=2)]
    diversity_max_share: PositiveShare
    low_confidence: Share
    data_docs_runs_kept: Count


class Tolerance(Section):
    severity: Literal["ERROR", "WARN"]
    tolerance: PositiveShare


class CircuitBreaker(Section):
    RELATION = "every check has a tolerance, every severity a weight"
    weights: dict[Literal["ERROR", "WARN"], Positive]
    min_score: Percent
    window_days: Days
    stale_after_days: Days
    stale_span_days: Days
    volume_history_files: Count
    max_realistic_price: Positive
    tolerances: dict[CheckCode, Tolerance]

    def _broken(self) -> str | None:
        missing = [code for code in get_args(CheckCode) if code not in self.tolerances]
        missing += [name for name in ("ERROR", "WARN") if name not in self.weights]
        return f"none for {', '.join(missing)}" if missing else None


class Contacts(Section):
    statuses: dict[str, Literal["contact", "engagement", "bounced", "refused"]]


class Review(Section):
    sample_size: Count
    max_rejected_share: Share
    carry_days: Window
    workbook_rows: Annotated[int, Field(ge=1, le=1_000_000)]


class ParamsBytes(Section):
    version: Annotated[int, Field(ge=1, le=100_000)]  # Brevo's own limits
    call: Annotated[int, Field(ge=1, le=1_000_000)]


class RampUp(Section):
    # An estate may be more careful than the product, never less.
    messages: Annotated[int, Field(ge=1, le=50)]
    wait_minutes: Annotated[int, Field(ge=30)]
    max_hard_bounce_share: Annotated[float, Field(ge=0, le=0.05)]
    max_complaint_share: Annotated[float, Field(ge=0, le=0.003)]


class Settling(Section):
    # Less would write to somebody twice: Brevo's log may lag.
    absent_minutes: Annotated[int, Field(ge=30)]
    looks: Annotated[int, Field(ge=2)]
    look_gap_minutes: Annotated[int, Field(ge=10)]
    log_days: Annotated[int, Field(ge=1, le=30)]
    person_after_hours: Count


class Pulls(Section):
    overlap_days: Annotated[int, Field(ge=2, le=30)]
    fresh_minutes: Annotated[int, Field(ge=1, le=1440)]
    alert_after: Annotated[int, Field(ge=1, le=20)]  # failures of a feed in a row


ClockTime = Annotated[str, Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]


class SendingWindow(Section):
    RELATION = "opens is before closes"
    weekdays: Annotated[list[Annotated[int, Field(ge=1, le=7)]], Field(min_length=1)]
    opens: ClockTime
    closes: ClockTime

    def _broken(self) -> str | None:
        return None if self.opens < self.closes else f"they are {self.opens} and {self.closes}"


class SendingCalendar(Section):
    """christmas_last_order: MM-DD; easter_last_order_days: before Easter Sunday. What speaks of an order for the
    feast leaves by then.
    """

    public_holidays: bool
    alsace_moselle: bool
    christmas_last_order: Annotated[str, Field(pattern=r"^(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$")]
    easter_last_order_days: Window


class ApiSeconds(Section):
    connect: Positive
    read: Positive
    write: Positive
    pool: Positive
    total: Positive


class Backoff(Section):
    RELATION = "send <= most"
    first: Positive
    send: Positive
    most: Positive

    def _broken(self) -> str | None:
        return None if self.send <= self.most else f"they are {self.send} and {self.most}"


class Pace(Section):
    """`at_once` of the calls may follow each other without a wait; the rest are spread over the seconds."""

    RELATION = "at_once <= calls"
    calls: Count
    seconds: Positive
    at_once: Count

    def _broken(self) -> str | None:
        return None if self.at_once <= self.calls else f"they are {self.at_once} and {self.calls}"


class BrevoBuckets(Section):
    smtp_email: Pace
    blocked_contacts: Pace
    smtp: Pace
    contacts: Pace
    other: Pace


class BrevoContacts(Section):
    import_from_rows: Count
    import_max_bytes: Annotated[int, Field(ge=1, le=10_000_000)]
    list_max_rows: Annotated[int, Field(ge=1, le=150)]
    process_poll_seconds: Annotated[float, Field(ge=36)]  # 100 calls an hour
    process_polls: Annotated[int, Field(ge=1, le=100)]
    give_up_after: Count


class BrevoRules(Section):
    api_seconds: ApiSeconds
    backoff_seconds: Backoff
    read_tries: Annotated[int, Field(ge=1, le=5)]
    buckets: BrevoBuckets
    contacts: BrevoContacts


class WebhookRules(Section):
    RELATION = "every try after the first has its backoff; what is news is kept, or it would be told twice"
    max_tries: Annotated[int, Field(ge=1, le=10)]
    backoff_minutes: list[Positive]
    timeout_seconds: Annotated[float, Field(gt=0, le=30)]  # a tick of the sensor that delivers has 60
    news_days: Annotated[int, Field(ge=1, le=31)]
    keep_days: Days
    codes_per_notice: Annotated[int, Field(ge=1, le=1000)]

    def _broken(self) -> str | None:
        if len(self.backoff_minutes) != self.max_tries - 1:
            return f"{self.max_tries} tries, {len(self.backoff_minutes)} backoffs"
        return None if self.news_days < self.keep_days else f"{self.news_days} days of news, {self.keep_days} kept"


class OutcomeRules(Section):
    min_sent: Count
    min_delivered_share: Share
    max_unsubscribed_share: Share


class Activation(Section):
    RELATION = "batch_min <= batch_size <= batch_max"
    batch_size: Count
    batch_min: Count
    batch_max: Count
    carton_bottles: Count
    unit_min_cl: Positive
    forbidden_words: list[Word]
    message_max_bytes: Annotated[int, Field(ge=10_000, le=102_000)]
    chunk_max_messages: Annotated[int, Field(ge=1, le=1000)]  # Brevo's own limits
    params_max_bytes: ParamsBytes
    chunk_max_bytes: Annotated[int, Field(ge=1, le=4_000_000)]
    plan_expires_days: Annotated[int, Field(ge=1, le=31)]
    holdout_share: Annotated[float, Field(ge=0, le=0.5)]
    holdout_min_eligible: Whole
    conversion_days: Days
    ramp_up: RampUp
    settling: Settling
    not_sent_tries: Annotated[int, Field(ge=1, le=20)]
    max_dead_letter_share: Annotated[float, Field(ge=0, le=0.5)]
    payload_days: Annotated[int, Field(ge=3, le=365)]
    pulls: Pulls
    window: SendingWindow
    calendar: SendingCalendar

    def _broken(self) -> str | None:
        held = self.batch_min <= self.batch_size <= self.batch_max
        return None if held else f"they are {self.batch_min}, {self.batch_size} and {self.batch_max}"


class Weekly(Section):
    weekday: Annotated[int, Field(ge=1, le=7)]
    hour: Annotated[int, Field(ge=0, le=23)]


class Daily(Section):
    hour: Annotated[int, Field(ge=0, le=23)]


class Monthly(Section):
    day: Annotated[int, Field(ge=1, le=28)]
    hour: Annotated[int, Field(ge=0, le=23)]


class Automation(Section):
    daily: Daily
    weekly: Weekly
    monthly: Monthly
    retry_after_minutes: Count
    max_tries: Annotated[int, Field(ge=1, le=20)]


class ReportProjection(Section):
    level: Annotated[float, Field(gt=0, lt=1)]
    min_years: Annotated[int, Field(ge=2, le=50)]
    min_share: PositiveShare


class ReportRows(Section):
    at_risk: Whole
    anomalies: Whole
    files: Whole
    campaigns: Whole
    wines: Whole


class MonthlyReports(Section):
    wines: Whole
    actions: Whole
    cohorts: Count
    quarters: Count
    low_stock_months: NotNegative


class Reports(Section):
    previous_min_days: Days
    projection: ReportProjection
    rows: ReportRows
    monthly: MonthlyReports


class SpanDays(Section):
    week: Days
    month: Days


class SilentRules(Section):
    """given_up_intervals: own intervals after which a silence is no news any more."""

    min_orders: Count
    min_days: Days
    given_up_intervals: Positive


class OrderValueRules(Section):
    """recent_orders against at least min_past_orders before them, the newest within active_days.

    drop: share of the own average; deviations: of the own orders, so that who varies anyway is left alone.
    """

    recent_orders: Count
    min_past_orders: Count
    drop: PositiveShare
    deviations: NotNegative
    active_days: Days


class FallingRules(Section):
    """min_orders: with the wine, in the days a year before; deviations: of their count."""

    min_orders: Count
    drop: PositiveShare
    deviations: NotNegative


class VolumeRules(Section):
    """change and deviations: from what the same weeks of past years let expect; both must be exceeded."""

    min_past_years: Count
    change: Positive
    deviations: NotNegative


class AnomalyNumbers(Section):
    CUSTOMER_SILENT: NotNegative
    ORDER_VALUE_DOWN: NotNegative
    PRODUCT_FALLING: NotNegative
    VOLUME_OFF: NotNegative


class AnomalyShares(Section):
    CUSTOMER_SILENT: Share
    ORDER_VALUE_DOWN: Share
    PRODUCT_FALLING: Share
    VOLUME_OFF: Share


class AnomalyRules(Section):
    customer_silent: SilentRules
    order_value_down: OrderValueRules
    product_falling: FallingRules
    volume_off: VolumeRules
    high_value_ht: AnomalyNumbers
    max_shares: AnomalyShares


class Kpis(Section):
    recent_days: Days
    trend_change: Share
    span_days: SpanDays
    cluster_history_days: Days
    anomalies: AnomalyRules


class BusinessRules(Section):
    """All business rules in force for one tenant."""

    landing: Landing
    values: Values
    documents: Documents
    customers: Customers
    products: Products
    rfm: Rfm
    taste: Taste
    clusters: Clusters
    predictions: Predictions
    recommendations: Recommendations
    ranking: Ranking
    permission: Permission
    audit: Audit
    circuit_breaker: CircuitBreaker
    contacts: Contacts
    review: Review
    activation: Activation
    brevo: BrevoRules
    webhooks: WebhookRules
    outcomes: OutcomeRules
    automation: Automation
    kpis: Kpis
    reports: Reports

    @cached_property
    def version(self) -> str:
        """First 12 hex of the SHA-256 of the effective rules."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    def parameters(self) -> dict[str, Any]:
        """Every node of the rules under its dotted name, for `landing.parameters`."""
        nodes: dict[str, Any] = {}

        def walk(prefix: str, node: Any) -> None:
            if prefix:
                nodes[prefix] = node
            if isinstance(node, dict):
                for key, value in node.items():
                    walk(f"{prefix}.{key}" if prefix else str(key), value)

        walk("", self.model_dump(mode="json"))
        return nodes


@cache
def defaults() -> dict[str, Any]:
    """The rules as `config/rules.yaml` has them."""
    loaded = yaml_places.load(RULES_FILE.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def merge(base: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """`base` with `overrides` laid over it, mapping by mapping; lists and scalars are replaced whole."""
    merged = dict(base)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def load(overrides: dict[str, Any] | None = None) -> BusinessRules:
    """The rules in force under a tenant's `rules:` mapping; pydantic.ValidationError names a wrong key."""
    return BusinessRules.model_validate(merge(defaults(), overrides or {}))
