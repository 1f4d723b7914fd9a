"""What a file would become: its report, the report in words, and what of it Dagster may show."""

from __future__ import annotations

import csv
import inspect
import json
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from crm_assets import cli, rendering, rules, settings
from crm_assets.logic import landing
from crm_assets.logic.landing import load_source
from crm_assets.logic.mapping_report import Report, mask, masked
from crm_assets.mapping_preview import as_text, original_record, preview

SOURCE = load_source()
RULES = rules.load({})
LOCALES = ("fr", "en", "de")
SAMPLES = sorted((settings.ROOT / "data" / "samples").rglob("*.*sv")) + sorted(
    (settings.ROOT / "data" / "samples").rglob("*.xls*")
)

SALES = """Code client;N° pièce;SKU;Date commande;Date livraison;Quantité;Mt HT;Vendeur
00123;F1;P1;05/03/2024;;6;1 060,50;Anne
;F2;P2;;07/03/2024;x;10,00;
00124;F3;P3;30/02/2024;08/04/2024;1;;
00125;F4
#N/A;F5;P5;2024-03-05 10:30;00/00/0000;(2);;
00126;;;;;;;
"""


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def report_of(folder: Path, name: str, content: str | bytes, **more: Any) -> Report:
    return preview(write(folder, name, content), more.pop("source", SOURCE), RULES, **more)


# --- the report


def test_the_report_of_a_sales_file(tmp_path: Path) -> None:
    report = report_of(tmp_path, "ventes_31-03-2024.csv", SALES)
    assert json.loads(json.dumps(report)) == report
    assert (report["dataset"], report["verdict"]["status"], report["file_date"]) == (
        "sales_lines", "loads", "2024-03-31",
    )  # fmt: skip
    assert report["format"] == {
        "format": "csv", "encoding": "utf-8", "delimiter": ";", "header_line": 1,
        "decimal_separator": ",", "date_order": "dmy",
    }  # fmt: skip
    assert report["rows"] == {
        "count": 6, "ragged": 1, "refused": 5, "first_date": "2024-03-05", "last_date": "2024-03-07",
    }  # fmt: skip
    columns = {column["field"]: column for column in report["mapping"]["columns"]}
    assert columns["amount_ht"]["header"] == "Mt HT"
    assert (columns["amount_ht"]["synonym"], columns["amount_ht"]["origin"]) == ("mt_ht", "source")
    assert [columns[name]["required"] for name in ("quantity", "amount_ht", "delivery_date")] == [
        "alone", "one_of", "one_of",
    ]  # fmt: skip
    assert report["mapping"]["unmapped"] == ["Vendeur"]
    assert {refusal["code"]: (refusal["count"], refusal["lines"]) for refusal in report["refusals"]} == {
        "RAGGED_ROW": (1, [5]),
        "MISSING_CLIENT": (1, [3]),
        "INVALID_NUMBER": (1, [3]),
        "INVALID_DATE": (1, [4]),
        "INVALID_KEY": (1, [6]),
        "MISSING_AMOUNT": (3, [4, 6, 7]),
        "MISSING_DOCUMENT": (1, [7]),
        "MISSING_PRODUCT": (1, [7]),
        "MISSING_DATE": (1, [7]),
        "MISSING_QUANTITY": (1, [7]),
    }
    found = {
        (f["problem"], *f["fields"]): (f["count"], f["lines"], f["values"]) for f in report["anomalies"]["findings"]
    }
    assert found["is no number", "quantity"] == (1, [3], ["x"])
    assert found[("the number of values is not the header's",)] == (1, [5], ["2 ≠ 8"])
    assert found["is no day of the calendar", "order_date"] == (1, [4], ["30/02/2024"])
    assert found["can be no code", "client_code"] == (1, [6], ["#N/A"])
    assert report["anomalies"]["counts"] == {"Critical": 9, "High": 3, "Medium": 0}


def test_first_rows_are_typed_as_staging_types_them(tmp_path: Path) -> None:
    rows = report_of(tmp_path, "ventes.csv", SALES)["first_rows"]
    assert [row["line"] for row in rows] == [2, 3, 4, 6, 7]
    first, second, third, fourth, _ = (row["cells"] for row in rows)
    assert first["client_code"] == {"text": "00123", "value": "00123", "is_read": True}
    assert first["amount_ht"] == {"text": "1 060,50", "value": "1060.50", "is_read": True}
    assert first["order_date"] == {"text": "05/03/2024", "value": "2024-03-05", "is_read": True}
    assert first["delivery_date"] == {"text": None, "value": None, "is_read": True}
    assert second["quantity"] == {"text": "x", "value": None, "is_read": False}
    assert third["order_date"] == {"text": "30/02/2024", "value": None, "is_read": False}
    assert (fourth["quantity"]["value"], fourth["order_date"]["value"]) == ("-2", "2024-03-05")
    assert fourth["delivery_date"] == {"text": "00/00/0000", "value": None, "is_read": True}


def test_what_is_refused_by_day_depends_on_the_files_own_order(tmp_path: Path) -> None:
    header = "client;piece;produit;date;qte;montant\n"
    american = report_of(tmp_path, "ventes.csv", f"{header}C;F;P;12/31/2024;1;1\nC;F;P;13/01/2024;1;1\n")
    assert (american["format"]["date_order"], american["rows"]["refused"]) == ("dmy", 1), "both orders are proven"
    american = report_of(tmp_path, "ventes.csv", f"{header}C;F;P;12/31/2024;1;1\nC;F;P;02/30/2024;x;1\n")
    assert (american["format"]["date_order"], american["rows"]["refused"]) == ("mdy", 1), "one row, two codes"
    assert {refusal["code"] for refusal in american["refusals"]} == {"INVALID_DATE", "INVALID_NUMBER"}


def test_values_that_are_none_of_a_list(tmp_path: Path) -> None:
    header = "libelle;premium_tier;saison;vendu_par;actif\n"
    text = f"{header}A;Prestige;noel, ete;6;oui\nB;2.0;hiver;5;ok\nC;or;printemps;12;?!\n"
    report = report_of(tmp_path, "produits.csv", text)
    found = {(f["severity"], f["problem"], *f["fields"]): f["values"] for f in report["anomalies"]["findings"]}
    assert found["High", "is none of the values known", "premium_tier"] == ["or"]
    assert found["Medium", "is none of the values known", "season_tags"] == ["printemps"]
    assert found["Medium", "is outside its range", "sold_by"] == ["5"]
    assert [refusal["code"] for refusal in report["refusals"]] == ["INVALID_NUMBER"]


def test_who_was_contacted_must_be_known(tmp_path: Path) -> None:
    rows = "C1;;\n;jo@example.org;\n;jo@example;\n;;\n#N/A;jo@example.org;\n"
    report = report_of(
        tmp_path, "contacts.csv", f"client;email;date_contact\n{rows.replace(';' + chr(10), ';5/3/24' + chr(10))}"
    )
    assert {refusal["code"]: refusal["lines"] for refusal in report["refusals"]} == {
        "INVALID_KEY": [4, 6], "MISSING_CLIENT": [5],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "refused"),
    [
        ("stock.csv", "sku;qte;quantite\nA;;1\nB;;2\nC;;x\n", 3),
        ("stock_2025-12-31.csv", "sku;quantite\nA;1\nB;2\nC;x\n", 1),
        ("stock.csv", "sku;quantite;date_snapshot\nA;1;31/12/2025\nB;2;\nC;x;\n", 1),
        ("stock.csv", "sku;quantite;date_snapshot\nA;1;30/02/2025\nB;2;\nC;x;\nD\n", 4),
    ],
)
def test_stock_of_no_day_is_refused(tmp_path: Path, name: str, text: str, refused: int) -> None:
    report = report_of(tmp_path, name, text)
    codes = {refusal["code"] for refusal in report["refusals"]}
    assert report["rows"]["refused"] == refused
    assert ("MISSING_DATE" in codes) == (refused > 1)


def test_a_tenants_names_and_fixed_values_are_told_apart(tmp_path: Path) -> None:
    source = SOURCE.with_tenant(
        {"clients": {"email": ["Adresse mél"]}},
        {"clients": {"email": ["trim", {"map_values": {"": "x"}}]}},
        {"clients": {"country": "FR"}},
    )
    report = report_of(tmp_path, "clients.csv", "client;adresse mel\nC1;a\n", source=source)
    (email,) = (column for column in report["mapping"]["columns"] if column["field"] == "email")
    assert (email["origin"], email["transformations"]) == ("tenant", ["trim", "map_values"])
    assert report["mapping"]["fixed"] == [{"field": "country", "value": "FR"}]
    text = as_text(report, "fr", tenant="demo")
    assert "nom ajouté pour votre domaine «\u00a0adresse_mel\u00a0»; transformé par trim, map_values" in text
    assert "valeur fixe de votre domaine «\u00a0FR\u00a0»" in text


def test_a_spreadsheets_serials_are_shown_as_days(tmp_path: Path) -> None:
    path = tmp_path / "stock.xlsx"
    with xlsxwriter.Workbook(str(path)) as book:
        sheet = book.add_worksheet()
        sheet.write_row(0, 0, ["produit_key", "quantite", "date_snapshot"])
        sheet.write_row(1, 0, ["00123", 1.5, 45356])
    report = preview(path, SOURCE, RULES)
    assert report["format"]["format"] == "xlsx"
    assert report["first_rows"][0]["cells"]["as_of"]["value"] == "2024-03-05"
    assert "5 mars 2024" in as_text(report, "fr", tenant="demo")


# --- which dataset


def test_the_dataset_is_recognised_as_landing_does_else_asked_for_else_assumed_and_said(tmp_path: Path) -> None:
    text = "Code client;Nom;Prénom\nC1;A;B\n"

    def seen(name: str, **more: Any) -> tuple[str | None, str]:
        report = report_of(tmp_path, name, text, **more)
        return report.get("dataset"), report["recognised"]["how"]

    assert seen("clients.csv") == ("customers", "path")
    assert seen("ici/isavigne/clients/x.csv") == ("customers", "path")
    assert seen("raw/clients/x.csv", root=tmp_path / "raw") == ("customers", "guess"), "no layout names that folder"
    assert seen("x.csv", dataset="clients") == ("customers", "option")
    assert seen("x.csv") == ("customers", "guess")
    with pytest.raises(ValueError, match=r"no dataset 'klienten' \(known: sales_lines or ventes_lignes"):
        seen("x.csv", dataset="klienten")
    told = as_text(report_of(tmp_path, "x.csv", text), "en", tenant="demo", folder="/drop")
    assert "to judge by the columns" in told
    assert "landing never guesses" in told
    assert "Drop the file into /drop/isavigne/clients/." in told


# --- broken files


@pytest.mark.parametrize(
    ("name", "content", "status", "advice"),
    [
        ("clients.csv", "", "unreadable", "Exportez de nouveau depuis iSaVigne, ou enregistrez"),
        ("clients.csv", "%PDF-1.4", "unreadable", "Exportez de nouveau depuis iSaVigne, ou enregistrez"),
        ("clients.csv", "Code client;Nom\n", "empty", "en vérifiant la période et les filtres"),
        ("clients.csv", "Code client;Nom\nC1\n", "ragged", "Exportez de nouveau"),
        ("clients.csv", "Muller;Jo\nHaas;Luc\n", "no_header", "avec les noms de colonnes sur la première ligne"),
        ("clients.csv", "Nom;Prénom\nA;B\n", "missing", "source.fixed"),
        ("ventes.csv", "client;piece;produit;date;ttc\nC;F;P;1/1/24;1\n", "missing", "la colonne qui manque"),
        ("x.csv", "foo;bar\n1;2\n", "unknown", "/drop/isavigne/clients/"),
    ],
)
def test_what_to_do_about_a_broken_file_is_said(
    tmp_path: Path, name: str, content: str, status: str, advice: str
) -> None:
    report = report_of(tmp_path, name, content)
    assert report["verdict"]["status"] == status
    for locale in LOCALES:
        told = as_text(report, locale, tenant="demo", folder="/drop")
        assert rendering.texts(locale)["mapping"]["advice_title"] in told
    assert advice in " ".join(as_text(report, "fr", tenant="demo", folder="/drop").split())


def test_the_missing_column_is_named_in_the_readers_language(tmp_path: Path) -> None:
    report = report_of(tmp_path, "ventes.csv", "client;piece;produit;date;ttc\nC;F;P;1/1/24;1\n")
    told = " ".join(as_text(report, "fr", tenant="demo").split())
    assert "Indispensable : quantité. Ajoutez une colonne, par exemple « quantite », « qty_line »" in told


# --- words


def keys(words: Any, path: str = "") -> set[str]:
    """Every path of a tree of texts."""
    if not isinstance(words, dict):
        return {path}
    return {found for key, below in words.items() for found in keys(below, f"{path}.{key}")}


def test_all_languages_have_the_same_words_and_places_for_values() -> None:
    trees = {locale: rendering.texts(locale)["mapping"] for locale in LOCALES}
    assert (
        keys({**trees["fr"], "fields": {}})
        == keys({**trees["en"], "fields": {}})
        == keys({**trees["de"], "fields": {}})
    )
    fields = {name for dataset in SOURCE.datasets.values() for name in dataset.fields}
    assert set(trees["fr"]["fields"]) == set(trees["de"]["fields"]) == fields

    def places(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for group in ("verdicts", "advice", "origin"):
        for key, text in trees["fr"][group].items():
            assert places(text) == places(trees["en"][group][key]) == places(trees["de"][group][key]), (group, key)


def test_everything_a_report_can_say_has_its_word() -> None:
    words = rendering.texts("fr")["mapping"]
    code = inspect.getsource(landing.Profiler) + f'"{landing._UNKNOWN_VALUE}"'
    assert set(re.findall(r'"((?:is|can|has|the) [^"{]*)"', code)) == set(words["problems"])
    assert set(rendering.texts("fr")["workbooks"]["codes"]) >= {
        *landing.MISSING_CODES.values(), landing.RAGGED_ROW, landing.INVALID_DATE, landing.INVALID_NUMBER,
        landing.INVALID_KEY,
    }  # fmt: skip
    assert set(words["severities"]) == set(landing.SEVERITIES)
    assert set(words["datasets"]) == set(SOURCE.datasets)


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_every_sample_reads_well(path: Path, locale: str) -> None:
    report = preview(path, SOURCE, RULES)
    assert (report["verdict"]["status"], report["recognised"]["how"]) == ("loads", "path")
    told = as_text(report, locale, tenant="demo", folder="/drop")
    assert all(len(line) <= 130 for line in told.splitlines())
    assert "{" not in told
    assert "None" not in told
    assert not any(line != line.rstrip() for line in told.splitlines())


# --- masking


def test_a_masked_report_holds_no_value_of_the_file() -> None:
    (path,) = (path for path in SAMPLES if path.name == "clients_2025-12-31.csv")
    report = preview(path, SOURCE, RULES)
    hidden = masked(report)
    texts = {
        cell["text"]
        for row in report["first_rows"]
        for name, cell in row["cells"].items()
        if cell["text"] and name not in ("email_opt_in", "language")
    }
    assert len(texts) > 20
    assert not [text for text in texts if text in json.dumps(hidden, ensure_ascii=False)]
    assert report == preview(path, SOURCE, RULES), "the report itself is left alone"


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("Jean-1@b.fr", "Xxxx-9@x.xx"),
        ("03 88 00", "99 99 99"),
        ("Élodie WEIẞ", "Xxxxxx XXXX"),
        ("京都 ٣", "xx 9"),
        ("", ""),
    ],
)
def test_a_mask_keeps_the_shape_alone(text: str, shape: str) -> None:
    assert mask(text) == shape


# --- the command line, and the way back


TENANT = """name: T
legal_name: T
address: 1 rue
siren: "123456789"
source:
  fixed:
    clients: {country: FR}
"""


@pytest.fixture
def tenants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "tenants"
    write(folder, "t1.yaml", TENANT)
    monkeypatch.setenv("CRM_TENANTS", str(folder))
    settings.settings.cache_clear()
    yield folder
    monkeypatch.undo()
    settings.settings.cache_clear()


def test_the_command_shows_a_file_that_lies_anywhere(
    tenants: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "clients.csv", "client;nom\nC1;Muller\n")
    assert cli.main(["mapping", "preview", str(path), "--tenant", "t1"]) == 0
    told = capsys.readouterr().out
    assert "se charge\u202f; lignes acceptées\u00a0: 1 sur 1" in told
    assert "valeur fixe de votre domaine" in told
    assert cli.main(["mapping", "preview", str(path), "--tenant", "t1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"]["status"] == "loads"
    write(tmp_path, "clients.csv", "nom\nMuller\n")
    assert cli.main(["mapping", "preview", str(path), "--tenant", "t1"]) == 1, "it would not load"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["/nowhere/clients.csv"], "cannot be opened: No such file"),
        (["README.md", "--dataset", "klienten"], "--dataset: no dataset 'klienten' (known: sales_lines or"),
    ],
)
def test_the_command_says_what_is_wrong(
    tenants: Path, arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main(["mapping", "preview", *arguments, "--tenant", "t1"])
    assert problem in capsys.readouterr().err


def test_a_wrong_mapping_is_named_by_tenant_check(tenants: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tenants, "t1.yaml", TENANT.replace("country", "pays"))
    with pytest.raises(SystemExit):
        cli.main(["tenant", "check"])
    said = capsys.readouterr().err
    assert "t1.yaml: key source.fixed.clients: no field 'pays', country is meant perhaps (known: client_code" in said


def test_a_value_leads_back_to_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "ventes.csv", 'client;libelle\nC1;"deux\nlignes"\nC2\n\nC3;P\n')
    assert original_record(path, 1, RULES) is None
    two_lines = (2, [("client", "C1"), ("libelle", "deux\nlignes")])
    assert original_record(path, 2, RULES) == two_lines
    assert original_record(path, 3, RULES) == two_lines
    assert original_record(path, 4, RULES) == (4, [("client", "C2"), ("libelle", "")])
    assert original_record(path, 6, RULES) == (6, [("client", "C3"), ("libelle", "P")])


def test_the_line_command_prints_the_record_as_it_stands(
    tenants: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "clients.csv", "client;nom\nC1; mULLER \n")
    assert cli.main(["mapping", "line", f"{path}:2", "--tenant", "t1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"][1] == {"header": "nom", "text": " mULLER "}
    with pytest.raises(SystemExit):
        cli.main(["mapping", "line", "clients.csv:2", "--tenant", "t1"])
    assert "there is no file clients.csv" in capsys.readouterr().err


# --- whatever is in the file

CELLS = st.one_of(
    st.sampled_from(
        ["", " ", "C1", "05/03/2024", "31/04/2024", "2024-03-05 10:30", "1 234,5", "1.234", "-", "oui", "#N/A"]
    ),
    st.text(max_size=12),
)


@settings_of_hypothesis(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dataset=st.sampled_from(list(SOURCE.datasets)),
    rows=st.lists(st.lists(CELLS, min_size=1, max_size=30), max_size=8),
    dropped=st.sets(st.integers(0, 30)),
    locale=st.sampled_from(LOCALES),
)
def test_any_table_has_a_report_that_can_be_told_and_masked(
    tmp_path: Path, dataset: str, rows: list[list[str]], dropped: set[int], locale: str
) -> None:
    header = [name for place, name in enumerate(SOURCE.datasets[dataset].fields) if place not in dropped]
    path = tmp_path / "x.csv"
    with path.open("w", encoding="utf-8", newline="", errors="replace") as stream:
        csv.writer(stream, delimiter=";").writerows([header, *(row[: len(header)] for row in rows)])
    report = preview(path, SOURCE, RULES, dataset=dataset)
    assert json.loads(json.dumps(report)) == report
    assert as_text(report, locale, tenant="demo", folder="/drop")
    assert as_text(masked(report), "en")
    if report.get("rows"):
        assert report["rows"]["refused"] <= report["rows"]["count"]
        counts = [refusal["count"] for refusal in report["refusals"]]
        assert max(counts, default=0) <= report["rows"]["refused"] <= sum(counts)


@settings_of_hypothesis(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300))
def test_any_bytes_have_a_report(tmp_path: Path, content: bytes) -> None:
    report = report_of(tmp_path, "clients.csv", content)
    assert report["verdict"]["status"] in rendering.texts("fr")["mapping"]["verdicts"]
    assert as_text(report, "fr", tenant="demo", folder="/drop")
