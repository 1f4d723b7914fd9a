"""Purchase models: the published parameters, and every formula against one worked out another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import integrate, special
from scipy.optimize import approx_fprime

from crm_assets.logic import purchase_models
from crm_assets.logic.purchase_models import BetaGeometric, FitError, Floats, GammaGamma, ParetoNBD
from tests.logic.cdnow import calibration_summary

DAYS_A_WEEK = 7
BG_NBD = BetaGeometric(r=0.25, alpha=32.0, a=0.75, b=2.2)
PARETO_NBD = ParetoNBD(r=0.6, alpha=80.0, s=0.5, beta=60.0)
# (x, t_x, age): nobody's repeat, a loyal one, one who fell silent, one of many orders, one of today.
CUSTOMERS = np.array([(0, 0, 200), (3, 150, 200), (3, 20, 300), (40, 290, 300), (0, 0, 0)], dtype="float64").T


def written_out(n: int = 210) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A summary made by arithmetic alone: (x, t_x, age) of n customers, of all kinds."""
    i = np.arange(n)
    age = 120.0 + (37 * i) % 240
    x = np.array([0, 1, 0, 0, 1, 0, 2, 1, 0, 4, 0, 3, 20, 1, 0], dtype="float64")[i % 15]
    share = (((29 * i) % 97 + 1) / 98) ** np.where(x > 2, 0.5, 2.0)
    return x, np.where(x > 0, np.floor(age * share) + 1, 0.0), age


def test_bg_nbd_has_the_published_parameters_of_cdnow() -> None:
    x, t_x, age = calibration_summary()
    fitted = BetaGeometric.fit(x, t_x, age)
    assert fitted.r == pytest.approx(0.2516, abs=5e-5)
    assert fitted.alpha / DAYS_A_WEEK == pytest.approx(4.789, abs=5e-4)
    assert fitted.a == pytest.approx(0.7234, abs=5e-5)
    assert fitted.b == pytest.approx(2.161, abs=5e-4)


def test_pareto_nbd_predicts_cdnow_as_the_published_form_does() -> None:
    x, t_x, age = calibration_summary()
    fitted = ParetoNBD.fit(x, t_x, age)
    # Of the differences of 2F1 of Schmittlein et al. at these parameters.
    chosen = np.linspace(0, len(x) - 1, 200).astype(int)
    published = [
        pareto_nbd_published(fitted, *customer) for customer in zip(x[chosen], t_x[chosen], age[chosen], strict=True)
    ]
    assert fitted.log_likelihood(x[chosen], t_x[chosen], age[chosen]) == pytest.approx(published, rel=1e-8)


def pareto_nbd_published(m: ParetoNBD, x: float, t_x: float, age: float) -> float:
    """Log-likelihood of one customer, Fader & Hardie's note on the Pareto/NBD (2005), equation 20."""
    low, high = sorted((m.alpha, m.beta))
    second = m.s + 1 if m.alpha >= m.beta else m.r + x
    total = m.r + m.s + x

    def part(t: float) -> float:
        return float(special.hyp2f1(total, second, total + 1, (high - low) / (high + t)) / (high + t) ** total)

    alive = (m.alpha + age) ** -(m.r + x) * (m.beta + age) ** -m.s
    likelihood = alive + m.s / total * (part(t_x) - part(age))
    constant = special.gammaln(m.r + x) - special.gammaln(m.r) + m.r * np.log(m.alpha) + m.s * np.log(m.beta)
    return float(constant + np.log(likelihood))


def test_the_fits_of_the_written_out_summary_are_pinned() -> None:
    summary = written_out()
    bg_nbd = {"r": 0.204892, "alpha": 6.08966, "a": 0.648457, "b": 1.14773}
    assert BetaGeometric.fit(*summary).parameters() == pytest.approx(bg_nbd, rel=1e-3)
    pareto_nbd = {"r": 0.377899, "alpha": 16.4751, "s": 6.45044, "beta": 931.138}
    assert ParetoNBD.fit(*summary).parameters() == pytest.approx(pareto_nbd, rel=1e-2)  # s and beta: a flat ridge
    gamma_gamma = {"p": 7.22923, "q": 8.68494, "gamma": 72.767}
    x, _, age = summary
    assert GammaGamma.fit(x + 1, 20.0 + age % 90).parameters() == pytest.approx(gamma_gamma, rel=1e-3)


@pytest.mark.parametrize("kind", [BetaGeometric, ParetoNBD])
def test_a_fit_is_the_maximum(kind: Any) -> None:
    summary = written_out()
    fitted = kind.fit(*summary)
    best = fitted.log_likelihood(*summary).sum()
    names = list(fitted.parameters())
    for name in names:
        for factor in (0.97, 1.03):
            moved = kind(**{n: getattr(fitted, n) * (factor if n == name else 1.0) for n in names})
            assert moved.log_likelihood(*summary).sum() < best


@pytest.mark.parametrize("kind", [BetaGeometric, ParetoNBD])
def test_a_fit_depends_neither_on_row_order_nor_on_the_unit_of_time(kind: Any) -> None:
    x, t_x, age = written_out()
    fitted = kind.fit(x, t_x, age)
    mixed = np.random.default_rng(1).permutation(len(x))
    assert kind.fit(x[mixed], t_x[mixed], age[mixed]) == fitted
    weeks = kind.fit(x, t_x / 7, age / 7)
    assert weeks.r == pytest.approx(fitted.r, rel=1e-4)
    assert weeks.alpha == pytest.approx(fitted.alpha / 7, rel=1e-4)


@pytest.mark.parametrize(
    ("likelihood", "parameters", "data"),
    [
        (purchase_models._bg_nbd_likelihood, [0.3, 20.0, 0.8, 2.5], CUSTOMERS),
        (purchase_models._pareto_nbd_likelihood, [0.6, 80.0, 0.5, 60.0], CUSTOMERS),
        (purchase_models._pareto_nbd_likelihood, [0.6, 30.0, 1.5, 90.0], CUSTOMERS),
        (purchase_models._gamma_gamma_likelihood, [6.0, 4.0, 15.0], np.array([(1, 30.0), (4, 80.0)]).T),
    ],
)
def test_gradients_are_those_of_finite_differences(
    likelihood: Callable[..., tuple[Floats, Floats]], parameters: list[float], data: Floats
) -> None:
    at = np.array(parameters)
    numeric = approx_fprime(at, lambda p: likelihood(p, *data)[0].sum(), 1e-6)
    assert likelihood(at, *data)[1].sum(axis=1) == pytest.approx(numeric, rel=1e-4, abs=1e-6)


def bg_nbd_by_quadrature(m: BetaGeometric, customer: list[float], horizon: float) -> tuple[float, ...]:
    """Likelihood (but for its constant), P(active), P(order), E[orders], integrated over lambda and p."""
    x, t_x, age = customer
    rate, rate_weight = special.roots_genlaguerre(120, m.r + x - 1)
    drop, drop_weight = special.roots_jacobi(120, m.b - 1, m.a - 1)
    p = ((drop + 1) / 2)[:, None]
    weight = drop_weight[:, None] * rate_weight[None, :]

    def over(end: float, factor: Callable[[Floats, Floats], Floats], shape: Floats) -> float:
        # lambda^(r + x - 1) exp(-lambda (alpha + end)): the Laguerre weight after scaling.
        scale = m.alpha + end
        lam = (rate / scale)[None, :]
        return float((weight * shape * factor(lam, p)).sum() * scale ** -(m.r + x))

    stayed = (1 - p) ** x
    alive = over(age, lambda lam, p: np.ones_like(lam * p), stayed)
    gone = over(t_x, lambda lam, p: np.ones_like(lam * p), p * (1 - p) ** (x - 1)) if x > 0 else 0.0
    order = over(age, lambda lam, p: -np.expm1(-lam * horizon) * np.ones_like(p), stayed)
    orders = over(age, lambda lam, p: -np.expm1(-lam * p * horizon) / p, stayed)
    total = alive + gone
    return alive / total, order / total, orders / total


def pareto_nbd_by_quadrature(m: ParetoNBD, customer: list[float], horizon: float) -> tuple[float, ...]:
    """P(active), P(order), E[orders], integrated over lambda and mu."""
    x, t_x, age = customer

    def over(end: float, factor: Callable[[float, float], float]) -> float:
        # Substituting quantiles of both gammas, so that the integrand is bounded on the unit square.
        def inner(mu_share: float) -> float:
            mu = special.gammaincinv(m.s, mu_share) / (m.beta + end)

            def of_rate(share: float) -> float:
                return factor(special.gammaincinv(m.r + x, share) / (m.alpha + end), mu)

            return float(integrate.quad(of_rate, 0, 1, epsabs=1e-7)[0])

        value, _ = integrate.quad(inner, 0, 1, epsabs=1e-7)
        return float(value * (m.alpha + end) ** -(m.r + x) * (m.beta + end) ** -m.s)

    alive = over(age, lambda lam, mu: 1.0)
    # Likelihood: mu / (lambda + mu) of leaving at t_x's time scale, lambda / (lambda + mu) at age's.
    total = over(t_x, lambda lam, mu: mu / (lam + mu)) + over(age, lambda lam, mu: lam / (lam + mu))
    order = over(age, lambda lam, mu: lam / (lam + mu) * -np.expm1(-(lam + mu) * horizon))
    orders = over(age, lambda lam, mu: lam * -np.expm1(-mu * horizon) / mu if mu > 1e-12 else lam * horizon)
    return alive / total, order / total, orders / total


@pytest.mark.parametrize("horizon", [1.0, 90.0, 1000.0])
@pytest.mark.parametrize("customer", CUSTOMERS.T.tolist())
@pytest.mark.parametrize("model", [BG_NBD, BetaGeometric(1.4, 60.0, 1.0, 3.0), BetaGeometric(0.8, 70.0, 9.0, 400.0)])
def test_bg_nbd_answers_what_integrating_over_rates_and_dropout_does(
    model: BetaGeometric, customer: list[float], horizon: float
) -> None:
    assert answers(model, customer, horizon) == pytest.approx(
        bg_nbd_by_quadrature(model, customer, horizon), rel=2e-3, abs=1e-6
    )


@pytest.mark.parametrize("customer", CUSTOMERS.T.tolist()[:4])
@pytest.mark.parametrize("model", [PARETO_NBD, ParetoNBD(1.3, 50.0, 1.0, 200.0)])
def test_pareto_nbd_answers_what_integrating_over_rates_does(model: ParetoNBD, customer: list[float]) -> None:
    assert answers(model, customer, 90.0) == pytest.approx(
        pareto_nbd_by_quadrature(model, customer, 90.0), rel=1e-4, abs=1e-6
    )


def answers(model: BetaGeometric | ParetoNBD, customer: list[float], horizon: float) -> list[float]:
    x, t_x, age = (np.array([value]) for value in customer)
    active = model.p_active(x, t_x, age)
    order, orders = model.p_order_if_active(x, age, horizon), model.orders_if_active(x, age, horizon)
    return [float(active[0]), float((active * order)[0]), float((active * orders)[0])]


@pytest.mark.parametrize(
    "model", [BG_NBD, PARETO_NBD, BetaGeometric(0.01, 1e4, 29.0, 1e4), ParetoNBD(9e3, 9e4, 1e-4, 1)]
)
def test_no_horizon_and_no_number_of_orders_is_too_large(model: BetaGeometric | ParetoNBD) -> None:
    x = np.array([0.0, 1.0, 500.0, 20_000.0, 20_000.0])
    t_x = np.array([0.0, 3650.0, 3650.0, 3650.0, 1.0])
    age = np.full(5, 3650.0)
    active = model.p_active(x, t_x, age)
    assert ((active >= 0) & (active <= 1)).all()
    before = np.zeros(5), np.zeros(5)
    for horizon in (1.0, 90.0, 3650.0, 365_000.0):
        chance, orders = model.p_order_if_active(x, age, horizon), model.orders_if_active(x, age, horizon)
        assert np.isfinite(orders).all()
        assert ((chance >= before[0] - 1e-9) & (chance <= 1 + 1e-9) & (orders >= before[1] - 1e-9)).all()
        assert (orders >= chance - 1e-6).all()
        before = chance, orders


def test_a_fit_finds_what_simulated_customers_do() -> None:
    """Pareto/NBD customers over three years, the third held out: totals of both models, and the parameters."""
    chance = np.random.default_rng(20)
    n, seen, ahead = 6000, 730.0, 365.0
    rate, leave = chance.gamma(0.8, 1 / 60, n), chance.gamma(0.9, 1 / 300, n)
    life = chance.exponential(1 / leave)
    counts = [np.zeros(n), np.zeros(n)]
    last = np.zeros(n)
    now = chance.exponential(1 / rate)
    while (going := (now < life) & (now < seen + ahead)).any():
        known = going & (now <= seen)
        counts[0] += known
        counts[1] += going & (now > seen)
        last[known] = now[known]
        now = np.where(going, now + chance.exponential(1 / rate), np.inf)
    summary = counts[0], last, np.full(n, seen)
    fitted = ParetoNBD.fit(*summary)
    assert [fitted.r, 1 / fitted.alpha, fitted.s] == pytest.approx([0.8, 1 / 60, 0.9], rel=0.2)
    for model in (fitted, BetaGeometric.fit(*summary)):
        active = model.p_active(*summary)
        expected = active * model.orders_if_active(counts[0], summary[2], ahead)
        assert expected.sum() == pytest.approx(counts[1].sum(), rel=0.15)
    ordered = fitted.p_active(*summary) * fitted.p_order_if_active(counts[0], summary[2], ahead)
    assert ordered.sum() == pytest.approx((counts[1] > 0).sum(), rel=0.05)


def test_gamma_gamma_is_the_integral_over_the_customers() -> None:
    model = GammaGamma(p=6.0, q=4.0, gamma=15.0)
    n, mean = 3.0, 42.0

    def density(nu: float) -> float:
        """Of the mean of n orders and nu: sum ~ Gamma(pn, nu)."""
        log = model.p * n * np.log(nu * n) + (model.p * n - 1) * np.log(mean) - special.gammaln(model.p * n)
        prior = model.q * np.log(model.gamma) + (model.q - 1) * np.log(nu) - special.gammaln(model.q)
        return float(np.exp(log - n * mean * nu + prior - model.gamma * nu))

    likelihood, _ = integrate.quad(density, 0, 5, epsabs=1e-14)
    value, _ = purchase_models._gamma_gamma_likelihood(np.array([6.0, 4.0, 15.0]), np.array([n]), np.array([mean]))
    assert value[0] == pytest.approx(np.log(likelihood), rel=1e-6)
    posterior, _ = integrate.quad(lambda nu: density(nu) * model.p / nu, 0, 5, epsabs=1e-14)
    assert model.expected_value(np.array([n]), np.array([mean]))[0] == pytest.approx(posterior / likelihood, rel=1e-6)


def test_data_without_an_answer_say_why() -> None:
    nobody = np.zeros(50)
    for kind in (BetaGeometric, ParetoNBD):
        with pytest.raises(FitError, match="no repeat order"):
            kind.fit(nobody, nobody, np.full(50, 100.0))
        with pytest.raises(ValueError, match="t_x"):
            kind.fit(np.ones(3), np.full(3, 20.0), np.full(3, 10.0))
    with pytest.raises(FitError, match="several orders"):
        GammaGamma.fit(np.ones(50), np.linspace(10, 90, 50))
    with pytest.raises(FitError, match="q <= 1"):
        GammaGamma.fit(np.tile([1.0, 2.0], 100), np.exp(np.linspace(0, 30, 200)))


@pytest.mark.parametrize("kind", [BetaGeometric, ParetoNBD])
@pytest.mark.parametrize(
    "summary",
    [
        ([1.0], [10.0], [20.0]),
        ([5.0] * 30, [100.0] * 30, [100.0] * 30),
        ([400.0, 0.0, 0.0], [900.0, 0.0, 0.0], [900.0, 1.0, 0.0]),
    ],
)
def test_few_or_equal_customers_are_fitted_without_a_fuss(kind: Any, summary: tuple[list[float], ...]) -> None:
    x, t_x, age = (np.array(values) for values in summary)
    model = kind.fit(x, t_x, age)
    assert all(np.isfinite(value) and value > 0 for value in model.parameters().values())
    assert np.isfinite(model.p_active(x, t_x, age) * model.orders_if_active(x, age, 365.0)).all()
