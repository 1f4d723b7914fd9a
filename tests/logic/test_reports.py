"""The weekly report: its figures from frames, and its page in French, English and German."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import date
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, get_args
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest

from crm_assets import charts, rendering
from crm_assets.logic import audit, report_page, reports, sales
from crm_assets.logic.reports import Previous, Tables, WeeklyReport
from tests.logic import estate
from tests.logic.estate import AS_OF, ago

LOCALES = ("fr", "en", "de")
RULES = estate.tenant().business_rules
DECISION: dict[str, Any] = {
    "run_id": "run",
    "as_of": pd.Timestamp(AS_OF),
    "status": "open",
    "reasons": [],
    "data_quality_score": 97.53,
    "n_customers": 1234,
    "n_permitted": 900,
    "n_eligible": 3,
}
PREVIOUS = Previous("before", date(2025, 12, 24), 5, 2, 96.0)


def frame(columns: str, *rows: tuple[Any, ...]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=columns.split())


def tables(**changes: Any) -> Tables:
    """Five customers of whom three may be written to, three years of sales, files with refused rows."""
    daily = pd.DataFrame({"day": pd.date_range("2023-01-02", "2025-12-31", freq="3D")})
    given = {
        "actions": frame(
            "customer_id client_code permission_reason scenario eligible reason",
            ("c1", "A1", None, "rebuy", True, "LOW_CONFIDENCE"),
            ("c2", "B2", None, "rebuy", True, None),
            ("c3", "C3", "OBJECTED", None, False, "OBJECTED"),
            ("c4", "D4", None, "nurture", True, None),
            ("c5", "E5", None, "rebuy", False, "BOUNCED"),
            ("c6", "F6", None, "upsell", False, "REVIEW_PENDING"),
        ),
        "items": frame(
            "customer_id rank product_key score explain_short",
            ("c1", 1, "p1", 70.0, "commandé 3 fois ; de saison"),
            ("c1", 2, "p2", 60.0, "autre"),
            ("c2", 1, "p1", 90.0, "commandé 9 fois ; en retard"),
            ("c4", 1, "p2", 50.0, "premier pas"),
            ("c5", 1, "p3", 99.0, "jamais envoyé"),
        ),
        "products": frame(
            "product_key wine_id label",
            ("p1", "w1", "Riesling <Vieilles> 2022"),
            ("p2", "w2", "Crémant Brut"),
            ("p3", "w3", "Muscat 2021"),
        ),
        "people": frame(
            "customer_id client_code last_name first_name full_name",
            ("c1", "A1", "Muller", "Jeanne", None),
            ("c2", "B2", None, None, "Restaurant La Cigogne"),
            ("c3", "C3", "Klein", None, None),
            ("c4", "D4", None, None, None),
            ("c5", "E5", "Meyer", "Hélène", None),
            ("c6", "F6", None, None, None),
        ),
        "planned": frame("campaign occurrence batches messages holdout", ("spring", "once", 2, 480, 51)),
        "revenue": daily.assign(amount_ht=100.0),
        "orders": daily.assign(orders=2, amount_ht=90.0),
        "rfm": frame(
            "customer_id segment monetary mean_interval_days first_order_date last_order_date",
            ("c1", "Champions", 900.0, 30.4, ago(900), ago(20)),
            ("c2", "Champions", 400.0, 60.0, ago(2), ago(2)),
            ("c3", "At Risk", 100.0, None, ago(500), ago(500)),
            ("c4", "Prospects", 0.0, None, None, None),
            ("c5", "At Risk", 1500.0, 44.6, ago(800), ago(300)),
        ),
        "segment_moves": frame(
            "from_segment to_segment customers",
            ("Champions", "Champions", 1),
            ("At Risk", "Champions", 1),
            ("Champions", "At Risk", 2),
            ("New", "Prospects", 1),
        ),
        "cluster_moves": frame(
            "population from_cluster_id from_cluster_name to_cluster_id to_cluster_name customers",
            ("private", "private_01", "High spending, frequent", "private_01", "High spending, frequent", 3590),
            ("private", "private_02", "Low spending, lapsed (02)", "private_01", "High spending, frequent", 4),
            ("private", "New", "New", "private_01", "High spending, frequent", 6),
            ("private", "private_02", "Low spending, lapsed (02)", "Gone", "Gone", 1),
        ),
        "clusters": frame(
            "population cluster_id cluster_name size share frequency monetary",
            ("professional", "professional_01", "Average", 30, 1.0, 4.5, 1999.5),
            ("private", "private_02", "Low spending, lapsed (02)", 1200, 0.25, 1.0, 60.0),
            ("private", "private_01", "High spending, frequent", 3600, 0.75, 11.0, 4093.2),
        ),
        "churning": frame("customer_id expected_value_365d", ("c3", 12.4), ("c5", 80.6)),
        "anomaly_counts": frame(
            "kind found examined high is_over value_at_stake_ht",
            ("CUSTOMER_SILENT", 2, 40, 1, True, 980.0),
            ("PRODUCT_FALLING", 1, 12, 0, False, 300.0),
            ("ORDER_VALUE_DOWN", 0, 40, 0, False, 0.0),
            ("VOLUME_OFF", 1, 4, 1, True, 1200.0),
        ),
        "anomalies": frame(
            "kind subject_type subject_id measure measured expected severity value_at_stake_ht",
            ("CUSTOMER_SILENT", "customer", "c5", "silent_days", 300.0, 44.6, "HIGH", 700.0),
            ("CUSTOMER_SILENT", "customer", "c4", "silent_days", 90.0, 40.0, "LOW", 280.0),
            ("PRODUCT_FALLING", "wine", "w2", "bottles_recent", 12.0, 36.0, "LOW", 300.0),
            ("VOLUME_OFF", "estate", "estate", "revenue_week", 300.0, 1500.0, "HIGH", 1200.0),
        ),
        "results": frame(
            "campaign occurrence holdout sent delivered opened clicked bounced unsubscribed ordered converted"
            " revenue_ht last_sent_on final_on is_final",
            *(
                ("autumn", "once", *counts, pd.Timestamp("2025-10-08"), pd.Timestamp("2025-11-07"), True)
                for counts in ((30, 300, 290, 120, 30, 10, 1, 15, 7, 2130.4),)
            ),
            *(
                ("winter", "2025-W51", *counts, pd.Timestamp("2025-12-17"), pd.Timestamp("2026-01-16"), False)
                for counts in ((20, 180, 176, 61, 9, 4, 0, 2, 1, 214.0),)
            ),
            ("spring", "once", 51, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, None, None, False),
        ),
        "uplift": frame(
            "campaign occurrence treated treated_ordered held_out held_out_ordered uplift uplift_low uplift_high"
            " is_final",
            ("autumn", "once", 300, 15, 30, 1, 0.016667, -0.11, 0.05, True),
            ("spring", "once", 480, 15, 51, 1, 0.011, -0.1, 0.05, False),
        ),
        "quarters": frame(
            "quarter treated treated_ordered held_out held_out_ordered uplift uplift_low uplift_high is_final",
            ("2025Q3", 900, 90, 100, 5, 0.05, -0.01, 0.08, True),
            ("2025Q2", 800, 90, 100, 5, 0.0625, 0.01, 0.09, True),
            ("2025Q4", 500, 20, 80, 3, 0.0025, -0.1, 0.04, False),
        ),
        "arms": frame(
            "campaign occurrence measure arm other_arm sent share other_sent other_share more is_final",
            *(
                ("autumn", "once", measure, *pair, True)
                for measure, *pair in (
                    ("clicked", "A", "B", 100, 0.05, 102, 0.2, "B"),
                    ("clicked", "A", "C", 100, 0.05, 98, 0.06, None),
                    ("clicked", "B", "C", 102, 0.2, 98, 0.06, "B"),
                    ("ordered", "A", "B", 100, 0.05, 102, 0.06, None),
                    ("opened", "A", "B", 100, 0.4, 102, 0.1, "A"),
                )
            ),
            ("winter", "2025-W51", "clicked", "A", "B", 90, 0.05, 90, 0.05, None, False),
            ("winter", "2025-W51", "ordered", "A", "B", 90, 0.0, 90, 0.2, "B", False),
        ),
        "files": frame(
            "file_id path dataset status reason row_count",
            ("f1", "isavigne/ventes_lignes/ventes.csv", "sales_lines", "loaded", None, 12345),
            ("f2", "notes.pdf", None, "unrecognised", "is no export: the name must end in .csv", None),
            ("f3", "odd.csv", "sales_lines", "refused", "is odd in a new way", None),
            ("f1", "autre/ventes.csv", "sales_lines", "duplicate", None, 12345),
        ),
        "refused": pd.DataFrame(
            {
                "file_id": ["f1", "f1", "f9"],
                "codes": [["INVALID_DATE"], ["INVALID_DATE", "MISSING_AMOUNT"], ["RAGGED_ROW"]],
                "rows": [4321, 2, 5],
            }
        ),
        "quality": audit.data_quality(
            pd.DataFrame(
                [(code, 1.0 if code == "DUPLICATE_LINE" else 0.0, 1000.0) for code in RULES.circuit_breaker.tolerances],
                columns=["check_code", "bad", "total"],
            ),
            RULES,
        ),
        "backtests": pd.DataFrame(
            [
                ("mixed", engine, top, pd.Timestamp("2025-10-02"), 91, 2292, rate * top / 3, engine == "ridge")
                for engine, rate in (("popularity", 0.196), ("ridge", 0.481))
                for top in RULES.ranking.backtest.tops
            ],
            columns=["part", "engine", "top", "cut", "window_days", "customers", "hit_rate", "is_serving"],
        ),
    }
    return Tables(**{**given, **changes})


def emptied() -> Tables:
    full = tables()
    return Tables(**{f.name: getattr(full, f.name).iloc[:0] for f in dataclasses.fields(Tables)})


def weekly(previous: Previous | None = PREVIOUS, given: Tables | None = None, **decision: Any) -> WeeklyReport:
    return reports.weekly(estate.tenant(), RULES, {**DECISION, **decision}, previous, given or tables())


@cache
def page(locale: str) -> str:
    """The full page; drawn in French only, since drawing takes most of the time."""
    with ExitStack() as patches:
        if locale != "fr":
            patches.enter_context(patch.object(charts, "drawn"))
            patches.enter_context(patch.object(charts, "svg", return_value=b""))
        return report_page.html_of(weekly(), locale)


@cache
def bare(locale: str) -> str:
    """An estate's first report, before anything has come in."""
    nothing = {"status": "closed", "reasons": ["NO_ELIGIBLE_CUSTOMER"], "n_customers": 0, "n_eligible": 0}
    return report_page.html_of(weekly(None, emptied(), n_permitted=0, data_quality_score=0.0, **nothing), locale)


class Page(HTMLParser):
    """A page as a list of (tag, attributes), and the text that people read."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._hidden = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden += tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        alts = [attrs["alt"] or "" for tag, attrs in self.tags if tag == "img"]
        return re.sub(r"[ \n]+", " ", " ".join(self.words + alts))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their charts, which take most of the time: for tests of words alone."""
    monkeypatch.setattr(charts, "drawn", lambda *_: None)
    monkeypatch.setattr(charts, "svg", lambda _: b"")


# --- figures


def test_a_scenario_has_its_customers_first_wines_and_strongest_case() -> None:
    found = weekly().scenarios
    assert found["scenario"].tolist() == ["rebuy", "nurture"]
    rebuy = found.iloc[0]
    assert (rebuy["customers"], rebuy["wines"]) == (2, [("Riesling <Vieilles> 2022", 2)])
    assert (rebuy["code"], rebuy["name"], rebuy["reason"]) == (
        "B2",
        "Restaurant La Cigogne",
        "commandé 9 fois ; en retard",
    )


def test_who_is_blocked_counts_once_under_its_kind() -> None:
    assert weekly().blocked.to_numpy().tolist() == [
        ["permission", "OBJECTED", 1],
        ["rule", "BOUNCED", 1],
        ["review", "REVIEW_PENDING", 1],
    ]
    unsaid = weekly(given=tables(actions=tables().actions.assign(reason=np.nan)))
    assert unsaid.blocked.to_numpy().tolist() == [["permission", "", 1], ["rule", "", 2]], "no reason is no review"


def test_segments_and_groups_are_compared_with_the_week_before() -> None:
    found = weekly()
    assert found.segments.set_index("segment")["before"].to_dict() == {"Champions": 3, "At Risk": 1, "Prospects": 0}
    assert (found.moved, found.new_customers) == (3, 1)
    assert found.movements.iloc[0].tolist() == ["Champions", "At Risk", 2]
    assert found.clusters["cluster_id"].tolist() == ["private_01", "private_02", "professional_01"]
    assert found.clusters["before"].tolist()[:2] == [3590, 5]


def test_those_at_risk_come_by_what_is_expected_of_them() -> None:
    found = weekly()
    assert (found.at_risk, found.at_risk_top["client_code"].tolist()) == (2, ["E5", "C3"])
    assert found.at_risk_top["silent_days"].tolist() == [300, 500]


def test_anomalies_name_whom_or_what_they_are_about() -> None:
    found = weekly().anomalies
    assert found[["kind", "client_code", "name", "label"]].to_numpy().tolist() == [
        ["VOLUME_OFF", "", "", ""],
        ["CUSTOMER_SILENT", "E5", "Hélène Meyer", ""],
        ["PRODUCT_FALLING", "", "", "Crémant Brut"],
        ["CUSTOMER_SILENT", "D4", "", ""],
    ]


def test_campaigns_that_were_sent_are_told_the_newest_first() -> None:
    newest, found = weekly().campaigns.to_dict("records")
    assert (newest["campaign"], newest["is_final"]) == ("winter", False)
    assert (found["campaign"], found["sent"], found["ordered"], found["holdout"]) == ("autumn", 300, 15, 30)
    assert found["is_final"]
    assert (found["treated"], found["uplift"]) == (300, 0.016667)


def test_arms_are_told_with_what_is_beyond_chance_and_orders_once_they_are_final() -> None:
    arms = weekly().arms
    told = {(row.campaign, row.measure, row.arm): (row.sent, row.more_than) for row in arms.itertuples()}
    assert told == {
        ("autumn", "clicked", "A"): (100, []),
        ("autumn", "clicked", "B"): (102, ["A", "C"]),
        ("autumn", "clicked", "C"): (98, []),
        ("autumn", "ordered", "A"): (100, []),
        ("autumn", "ordered", "B"): (102, []),
        ("winter", "clicked", "A"): (90, []),
        ("winter", "clicked", "B"): (90, []),
    }


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("locale", "said"),
    [
        (
            "fr",
            [
                "provisoire jusqu'au 16 janvier 2026 : des commandes peuvent encore venir",
                "L'effet par rapport au groupe témoin sera donné à partir du 16 janvier 2026.",
                "Clics par version : A 5,0 % de 100, B 20,0 % de 102, C 6,0 % de 98 envois.",
                "Au-delà du hasard : plus en B qu'en A, plus en B qu'en C.",
                "Toutes les campagnes du T3 2025 ensemble : 90 des 900 personnes choisies ont commandé",
            ],
        ),
        (
            "en",
            [
                "provisional until 16 January 2026: orders can still come",
                "The effect against the control group will be told from 16 January 2026 on.",
                "Ordered, by version: A 5.0% of 100, B 6.0% of 102 sent. The difference may be due to chance.",
                "All campaigns of Q3 2025 together: 90 of 900 people chosen ordered",
            ],
        ),
        (
            "de",
            [
                "vorläufig bis 16. Januar 2026: Es können noch Bestellungen kommen",
                "Die Wirkung gegenüber der Kontrollgruppe steht ab 16. Januar 2026 fest.",
                "Mehr als Zufall: mehr in B als in A, mehr in B als in C.",
                "Alle Kampagnen des Q3 2025 zusammen: 90 von 900 ausgewählten Personen haben bestellt",
            ],
        ),
    ],
)
def test_campaigns_are_told_in_the_estates_language_and_nothing_before_its_day(locale: str, said: list[str]) -> None:
    text = " ".join(Page(report_page.html_of(weekly(), locale)).text.split())
    for sentence in said:
        assert sentence in text
    silent = Page(report_page.html_of(weekly(given=emptied()), locale)).text
    assert rendering.texts(locale)["report"]["uplift_by_chance"] not in silent


@pytest.mark.usefixtures("undrawn")
def test_an_effect_is_told_once_it_is_final_and_beyond_chance_as_such() -> None:
    early = tables().uplift.assign(is_final=False)
    found = weekly(given=tables(uplift=early)).campaigns
    assert found["uplift"].isna().all()
    sure = tables().uplift.assign(uplift_low=0.001)
    words = rendering.texts("fr")["report"]
    said = Page(
        report_page.html_of(
            weekly(given=tables(uplift=sure, arms=tables().arms.iloc[:0], quarters=tables().quarters.iloc[:0])), "fr"
        )
    ).text
    assert "du groupe témoin" in said
    assert words["uplift_by_chance"] not in said


def test_files_that_need_a_look_come_first_and_content_counts_once() -> None:
    found = weekly()
    assert found.files["path"].tolist() == [
        "notes.pdf",
        "odd.csv",
        "isavigne/ventes_lignes/ventes.csv",
        "autre/ventes.csv",
    ]
    assert found.files["refused"].tolist() == [0, 0, 4323, 0]
    assert found.refused.to_numpy().tolist() == [["INVALID_DATE", 4323], ["MISSING_AMOUNT", 2]]
    assert found.refused_rows == 4323


def test_only_so_many_files_are_shown() -> None:
    many = pd.DataFrame({"file_id": [f"f{n}" for n in range(40)], "path": [f"v{n:02d}.csv" for n in range(40)]})
    many = many.assign(dataset="sales_lines", status="loaded", reason=None, row_count=3)
    found = weekly(given=tables(files=many))
    assert (len(found.files), found.more_files, found.more_files_fine) == (12, 28, True)
    assert not weekly(given=tables(files=many.assign(status="refused"))).more_files_fine


def test_rows_in_any_order_make_the_same_page() -> None:
    full = tables()
    turned = Tables(**{f.name: getattr(full, f.name).iloc[::-1] for f in dataclasses.fields(Tables)})
    assert report_page.html_of(weekly(given=turned), "fr") == page("fr")


# --- the page


@pytest.mark.parametrize(
    ("locale", "texts"),
    [
        (
            "fr",
            [
                "Feu vert\u00a0: 3 clients peuvent recevoir un message.",
                "480 messages sont préparés, en 2 lots.",
                "Ce qui a changé depuis le 24 décembre 2025",
                "Du 25 décembre au 31 décembre 2025\u00a0: 4 commandes et 200\u00a0€ de ventes, contre",
                "1 client a passé sa première commande, 3 ont changé de segment.",
                "2 clients de moins peuvent recevoir un message (3 au lieu de 5).",
                "Restaurant La Cigogne (B2)\u00a0: commandé 9 fois\u00a0; en retard",
                "refuse nos messages",
                "La relecture de 1 client est encore à faire.",
                "L'année 2025 est finie",
                "4 clients ont changé de groupe"
                if False
                else "4 clients ont changé de groupe, de «\u00a0Petits achats",
                "2 clients à risque",
                "Autant que la dernière fois.",
                "tous les 45 jours",
                "Hélène Meyer",
                "300\u00a0€ de ventes sur 7 jours, 1\u202f500\u00a0€ attendus",
                "15 destinataires ont commandé (5,0\u00a0% des envoyés), dont 7 un vin proposé\u00a0; 2\u202f130",
                "15 des 300 personnes choisies ont commandé, et 1 des 30 du groupe témoin\u00a0: un effet de"
                " +1,7 points",
                "L'écart peut être dû au hasard.",
                "4\u202f323 lignes de ces fichiers sont refusées",
                "ce n'est pas un export\u00a0: le nom doit se terminer par .csv",
                "is odd in a new way",
                "date impossible à lire",
                "Lignes contradictoires",
                "97,5 sur 100",
                "parmi 2\u202f292 clients",
                "48,1\u00a0% ont pris au moins un des 3 vins",
                "Petits achats, absents depuis longtemps (02)",
            ],
        ),
        (
            "en",
            [
                "Green light: 3 customers can receive a message.",
                "What changed since 24 December 2025",
                "25 December to 31 December 2025: 4 orders and €200 of sales, against",
                "1 customer placed a first order, 3 changed segment.",
                "Restaurant La Cigogne (B2): commandé 9 fois",
                "As many as last time.",
                "every 45 days",
                "5.0% of those sent",
                "4,323 rows of these files are refused",
                "97.5 out of 100",
            ],
        ),
        (
            "de",
            [
                "Grünes Licht: 3 Kunden können eine Nachricht erhalten.",
                "Was sich seit dem 24. Dezember 2025 geändert hat",
                "25. Dezember bis 31. Dezember 2025: 4 Bestellungen und 200\u00a0€ Umsatz, gegenüber",
                "alle 45 Tage",
                "4.323 Zeilen dieser Dateien sind abgelehnt",
                "97,5 von 100",
                "Geringer Umsatz, lange nicht bestellt (02)",
            ],
        ),
    ],
)
def test_the_page_speaks_the_estates_language(locale: str, texts: list[str]) -> None:
    said = Page(page(locale)).text
    for text in texts:
        assert text in said, text
    assert "Riesling &lt;Vieilles&gt;" in page(locale)


@pytest.mark.parametrize("locale", LOCALES)
def test_an_estates_first_report_has_sentences_where_there_is_nothing_to_tell(locale: str) -> None:
    words = rendering.texts(locale)["report"]
    said = Page(bare(locale)).text
    for key in ("first_report", "no_contacts", "no_sales", "no_campaigns", "no_files", "at_risk_none", "quality_all"):
        assert words[key] in said, key
    assert rendering.texts(locale)["gate_reason"]["NO_ELIGIBLE_CUSTOMER"] in said
    assert "<tbody>\n</tbody>" not in bare(locale)


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("made", [page, bare])
def test_nothing_is_empty_unworded_or_left_in_braces(locale: str, made: Any) -> None:
    said = Page(made(locale)).text
    assert not re.search(r"\b(None|nan|NaN|NaT|inf|True|False)\b", said)
    assert not re.search(r"[{}]", said)
    assert not re.search(r"\d\.\d{3,}\b", said) or locale == "de"
    assert not re.search(r"[_]", re.sub(r"\b[A-Z]+(?:_[A-Z0-9]+)+\b", "", said))


@pytest.mark.parametrize("locale", LOCALES)
def test_a_gate_that_is_closed_says_why(locale: str) -> None:
    said = report_page.headlines(weekly(status="closed", reasons=["CIRCUIT_BREAKER", "SOMETHING_NEW"]), locale)[0]
    assert rendering.texts(locale)["gate_reason"]["CIRCUIT_BREAKER"] in said
    assert "SOMETHING_NEW" in said


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("locale", LOCALES)
def test_a_closed_gate_sends_nothing_to_those_it_lists(locale: str) -> None:
    words = rendering.texts(locale)["report"]
    said = Page(report_page.html_of(weekly(status="closed", reasons=["CIRCUIT_BREAKER"], n_eligible=0), locale)).text
    assert words["while_closed"] in said
    assert words["contacts_sentence"]["zero"].format(permitted=900, total=rendering.number(1234, locale)) in said
    assert words["while_closed"] not in page(locale)


def test_headlines_name_nobody() -> None:
    said = " ".join(line for locale in LOCALES for line in report_page.headlines(weekly(), locale))
    assert not any(name in said for name in ("Meyer", "Cigogne", "Muller", "B2", "E5"))


@pytest.mark.usefixtures("undrawn")
def test_numbers_agree_with_their_words() -> None:
    one = dataclasses.replace(weekly(), n_eligible=1, planned_messages=1, at_risk=1)
    said = Page(report_page.html_of(one, "fr")).text
    assert "1 client peut recevoir un message." in said
    assert "1 message est préparé" in said
    assert "1 client à risque\u00a0: silencieux depuis plus de deux fois son rythme" in said


def _twelve_months(*amounts: float) -> SimpleNamespace:
    days = [day.date() for day in pd.date_range(end="2025-12-31", periods=len(amounts), freq="ME")]
    return SimpleNamespace(trend=pd.DataFrame({"day": days, "amount": list(amounts)}, columns=["day", "amount"]))


def test_a_young_estate_and_more_returns_than_sales_can_be_drawn() -> None:
    assert charts.drawn("trend", _twelve_months(), "en").axes[0].get_ylim() == (0, 1)
    low, high = charts.drawn("trend", _twelve_months(-100.0, -200.0), "en").axes[0].get_ylim()
    assert low < -200 < 0 < high


def test_years_alike_can_be_drawn() -> None:
    """The mean of equal shares may differ from them by a last bit, and an error bar of less than nothing is refused."""
    shares = pd.DataFrame({"month": range(1, 13), "share": 0.1, "low": 0.1, "high": np.nextafter(0.1, 0)})
    assert charts.drawn("seasons", SimpleNamespace(seasons=shares), "en").axes


def test_a_review_that_came_back_needs_no_look() -> None:
    files = pd.concat([tables().files.iloc[:2], tables().files.iloc[:1].assign(path="a.xlsx", status="review")])
    found = weekly(given=tables(files=files.assign(file_id=["f5", "f6", "f7"])))
    assert found.files["status"].tolist() == ["unrecognised", "review", "loaded"]
    assert weekly(given=tables(files=files.iloc[2:])).more_files_fine


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("locale", "said"), [("fr", "trop peu"), ("en", "too little"), ("de", "zu wenig")])
def test_a_year_without_sales_is_not_called_unknown(locale: str, said: str) -> None:
    """The files reach back; there was nothing to compare with, or more came back than was sold."""
    revenue = tables().revenue.loc[lambda rows: (rows["day"] < "2024-01-01") | (rows["day"] >= "2025-01-01")]
    told = weekly(given=tables(revenue=revenue))
    sentences = report_page._sales_sentences(told.sales, report_page.Words(locale))
    assert said in sentences[0]
    assert rendering.whole_euros(0, locale) in sentences[0]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("locale", LOCALES)
def test_a_year_under_way_is_projected_or_says_why_not(locale: str) -> None:
    words = rendering.texts(locale)["report"]
    october = weekly(None, as_of=pd.Timestamp("2025-10-13"))
    said = Page(report_page.html_of(october, locale)).text
    assert rendering.percent(0.8, locale, 0) in said
    assert "Mack (1993)" in said
    for reason in get_args(sales.NoProjection):
        changed = dataclasses.replace(october.sales, projection=None, no_projection=reason)
        told = Page(report_page.html_of(dataclasses.replace(october, sales=changed), locale)).text
        assert words["no_projection"][reason].partition("{")[0] in told


def test_too_few_orders_to_foretell_are_not_spoken_of() -> None:
    few = tables().backtests.assign(customers=99)
    assert "Vérification sur le passé" in page("fr")
    assert weekly(given=tables(backtests=few)).foretold is None
    assert weekly(given=tables(backtests=few.iloc[:0])).foretold is None


@pytest.mark.usefixtures("undrawn")
def test_marts_that_were_never_built_are_not_spoken_of() -> None:
    words = rendering.texts("fr")["report"]
    assert words["anomalies_none"] not in bare("fr")
    assert words["anomalies"] not in Page(bare("fr")).text
    quiet = tables().anomaly_counts.assign(found=0)
    said = report_page.html_of(weekly(given=tables(anomaly_counts=quiet, anomalies=tables().anomalies.iloc[:0])), "fr")
    assert words["anomalies_none"] in Page(said).text


# --- accessibility


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("made", [page, bare])
def test_the_page_can_be_read_without_seeing_it(locale: str, made: Any) -> None:
    found = Page(made(locale)).tags
    assert found[0] == ("html", {"lang": locale})
    alts = [attrs.get("alt") or "" for tag, attrs in found if tag == "img"]
    assert all(re.search(r"\d", alt) and len(alt) > 40 for alt in alts)
    assert len(alts) == (5 if made is page else 0)
    levels = [int(tag[1]) for tag, _ in found if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(attrs.get("scope") in {"col", "row"} for tag, attrs in found if tag == "th")
    tables_of_it = [tag for tag, _ in found if tag in {"table", "thead"}]
    assert tables_of_it == ["table", "thead"] * (len(tables_of_it) // 2)
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in found


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2, relative luminance and contrast ratio."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_and_shapes_stand_out() -> None:
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
    for colour in charts.TEXT_COLOURS:
        assert _contrast(colour, charts.PAPER) >= 4.5
    for paper in (charts.GO_PAPER, charts.STOP_PAPER):
        assert _contrast(charts.INK, paper) >= 4.5
    for edge in (charts.STRAW_EDGE, charts.GO, charts.STOP, charts.WINE):
        assert _contrast(edge, charts.PAPER) >= 3
    assert _contrast(charts.WINE, charts.STRAW) >= 3, "this year and the last differ without colour"


def test_the_page_stands_alone_and_is_small() -> None:
    html = page("fr")
    assert len(html.encode()) < 1_500_000
    assert "<script" not in html
    assert "@import" not in html
    sources = [value for _, attrs in Page(html).tags for name, value in attrs.items() if name in {"src", "href"}]
    assert sources
    assert all((value or "").startswith("data:image/svg+xml;base64,") for value in sources)


@pytest.mark.parametrize("locale", LOCALES)
def test_every_code_and_sentence_has_words_in_every_language(locale: str) -> None:
    def shape(group: Any) -> Any:
        if isinstance(group, dict):
            return {key: shape(value) for key, value in sorted(group.items())}
        return sorted(re.findall(r"{(\w+)}", group))

    words, french = rendering.texts(locale)["report"], rendering.texts("fr")["report"]
    assert words.keys() == french.keys()
    for key in words:
        forms = words[key] if isinstance(words[key], dict) else {}
        if {"one", "other"} <= set(forms):
            assert set(french[key]) == set(forms)
            assert set(shape(forms["other"])) == set(shape(french[key]["other"])), key
        else:
            assert shape(words[key]).__class__ is shape(french[key]).__class__
            assert (shape(words[key]) == shape(french[key])) or key in {"chart"}, key
    assert set(words["kind"]) == {"permission", "rule", "review"}
    assert set(words["no_projection"]) == set(get_args(sales.NoProjection))


def _texts(words: Any) -> Iterator[str]:
    if isinstance(words, dict):
        words = list(words.values())
    if isinstance(words, list):
        for word in words:
            yield from _texts(word)
    else:
        yield str(words)


def test_french_signs_that_stand_apart_never_begin_a_line() -> None:
    """Of everything that an estate reads, not of this report alone."""
    loose = re.compile(r" [;:!?»]|« |[}\d] %")
    assert [text for text in _texts(rendering.texts("fr")) if loose.search(text)] == []


@pytest.mark.parametrize("made", [page, bare])
def test_what_is_opened_is_closed(made: Any) -> None:
    html = made("fr")
    for tag in ("div", "table", "ul", "li", "figure", "tr", "th", "td", "main", "p"):
        assert len(re.findall(rf"<{tag}[ >]", html)) == html.count(f"</{tag}>"), tag
