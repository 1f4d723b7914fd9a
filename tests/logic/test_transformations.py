"""What an estate may have done to a cell before it is typed: ordinary values, odd ones, and those that stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from crm_assets.logic.landing import (
    HeaderMapping,
    Profiler,
    RowMaker,
    SourceSpec,
    load_source,
    map_header,
    normalise_header,
)
from crm_assets.logic.reading import open_table
from crm_assets.logic.transformations import compile_transformations, split_name, with_country

SOURCE = load_source()


@pytest.mark.parametrize(
    ("step", "before", "after"),
    [
        ("trim", "  a b ", "a b"),
        ("trim", "\u00a0\u202fa\u200b ", "a"),
        ("collapse_spaces", " a \u00a0 b\t\nc ", "a b c"),
        ("lowercase", "ÉTÉ", "été"),
        ("uppercase", "été ß", "ÉTÉ SS"),
        # Names of people and places: every word, after hyphens and apostrophes too; small words stay small inside.
        ("capitalize", "jEAN", "Jean"),
        ("capitalize", "jean-pierre", "Jean-Pierre"),
        ("capitalize", "MARIE-ÈVE  O’NEILL", "Marie-Ève  O’Neill"),
        ("capitalize", "d'alsace", "D'Alsace"),
        ("capitalize", "comte d'alsace", "Comte d'Alsace"),
        ("capitalize", "JEAN DE LA TOUR", "Jean de la Tour"),
        ("capitalize", "saint-jean-de-luz", "Saint-Jean-de-Luz"),
        ("capitalize", "LE HAVRE", "Le Havre"),
        ("capitalize", "villeneuve d d", "Villeneuve D D"),
        ("capitalize", "12 rue de l'église", "12 Rue de l'Église"),
        ("capitalize", "élise", "Élise"),
        ("capitalize", "-", "-"),
        ("remove_special_chars", "n°_12-B!", "n12B"),
        ("remove_special_chars", "Cre\u0301mant d’Alsace n° 3", "Crémant dAlsace n 3"),
        ("remove_special_chars", "#!", None),
        ("parse_email", "Jean <Jean@Exemple.FR>", "jean@exemple.fr"),
        ("parse_email", "mailto:jean@exemple.fr?subject=x", "jean@exemple.fr"),
        ("parse_email", "jean @ exemple.fr", "jean@exemple.fr"),
        ("parse_email", "a@b@c, vrai.nom@exemple.fr.", "vrai.nom@exemple.fr"),
        ("parse_email", "un@exemple.fr; deux@exemple.fr", "un@exemple.fr"),
        ("parse_email", "jean@exemple", "jean@exemple"),
        ("parse_email", "Jean@", "Jean@"),
        ("parse_email", "pas d'e-mail", "pas d'e-mail"),
        ("parse_phone", "03 88 00 00 01", "+33388000001"),
        ("parse_phone", "+33 (0)3 88 00 00 01", "+33388000001"),
        ("parse_phone", "0033388000001", "+33388000001"),
        ("parse_phone", "03.88.00.00.01 / 06 12 34 56 78", "+33388000001"),
        ("parse_phone", "bureau : 03-88-00-00-01", "+33388000001"),
        ("parse_phone", "+49 761 2030", "+497612030"),
        ("parse_phone", "388000001", "+33388000001"),
        ("parse_phone", "12", "12"),
        ("parse_phone", "inconnu", "inconnu"),
        ({"parse_phone": "DE"}, "0761 2030", "+497612030"),
        ({"parse_date": "%d %b %Y"}, "05 Mar 2024", "2024-03-05"),
        ({"parse_date": "%d %B %Y"}, "5 mars 2024", "2024-03-05"),
        ({"parse_date": "%d %B %Y"}, "1er août 2024", "2024-08-01"),
        ({"parse_date": "%d %b %Y"}, "12 déc. 2024", "2024-12-12"),
        ({"parse_date": "%d. %B %Y"}, "3. März 2024", "2024-03-03"),
        ({"parse_date": "%Y%m%d"}, "20240305", "2024-03-05"),
        ({"parse_date": "%m/%d/%y"}, "03/05/24", "2024-03-05"),
        ({"parse_date": ["%d-%m-%Y", "%d/%m/%Y %H:%M"]}, " 05/03/2024 10:30", "2024-03-05"),
        ({"parse_date": "%d/%m/%Y"}, "30/02/2024", "30/02/2024"),
        ({"parse_date": "%Y%m%d"}, "x", "x"),
        ("parse_currency", "1 234,50 €", "1234,50"),
        ("parse_currency", "€ 1,234.50", "1,234.50"),
        ("parse_currency", "12€50", "12,50"),
        ("parse_currency", "12,50 Euros", "12,50"),
        ("parse_currency", "12,-", "12"),
        ("parse_currency", "-1\u202f234 EUR", "-1234"),
        ("parse_currency", "(12,50 €)", "(12,50)"),
        ("parse_currency", "12,50 CHF", "12,50 CHF"),
        ("parse_currency", "offert", "offert"),
        ("null_to_empty", "N/A", None),
        ("null_to_empty", " (null) ", None),
        ("null_to_empty", "Nanette", "Nanette"),
        ("empty_to_zero", None, "0"),
        ("empty_to_zero", " \u00a0", "0"),
        ("empty_to_zero", "3", "3"),
        ({"map_values": {"P": "Particulier", "X": None}}, "P", "Particulier"),
        ({"map_values": {"P": "Particulier", "X": None}}, "X", None),
        ({"map_values": {"P": "Particulier"}}, "p", "p"),
        ({"map_values": {"": "FR"}}, None, "FR"),
        ({"map_values": {"caisse": 6}}, "caisse", "6"),
    ],
)
def test_one_step(step: Any, before: str | None, after: str | None) -> None:
    transform = compile_transformations(with_country([step], "FR"))
    assert transform is not None
    assert transform(before) == after


def test_steps_follow_each_other_and_null_stays_null() -> None:
    both = compile_transformations(["trim", {"map_values": {"oui": "1"}}])
    assert both is not None
    assert (both(" oui "), both(None)) == ("1", None)
    zero = compile_transformations(["null_to_empty", "empty_to_zero"])
    assert zero is not None
    assert zero("NULL") == "0"
    assert compile_transformations([]) is None


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ("tirm", r"no transformation 'tirm' \(known: trim, "),
        ({"trim": 3}, "no transformation"),
        ({"parse_phone": "France"}, "no transformation"),
        ("parse_date", "no transformation"),
        ({"parse_date": "DD/MM/YYYY"}, "no format of a date: write day, month and year as %d"),
        ({"parse_date": "%d/%m"}, "no format of a date"),
        ({"parse_date": []}, "no format"),
        ({"map_values": {1: "a"}}, "put 1 into quotes"),
        ({"map_values": {True: "a"}}, "put True into quotes"),
        ({"map_values": {"a": 1.5}}, "put the value of 'a' into quotes"),
        ({"map_values": {}}, "expects pairs"),
        ({"a": 1, "b": 2}, "no transformation"),
        (7, "no transformation 7"),
    ],
)
def test_what_is_no_step_is_named(step: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        compile_transformations([step])


@pytest.mark.parametrize(
    ("full", "parts"),
    [
        ("DUPONT Jean", ("DUPONT", "Jean")),
        ("Jean DE LA TOUR", ("DE LA TOUR", "Jean")),
        ("Jean Dupont", ("Dupont", "Jean")),
        ("Jean de la Tour", ("de la Tour", "Jean")),
        ("Jean Jean", ("Jean", "Jean")),
        ("DUPONT JEAN", ("DUPONT", "JEAN")),
        ("Dupont, Jean", ("Dupont", "Jean")),
        ("M. Jean Dupont", ("Dupont", "Jean")),
        ("M. et Mme DUPONT Jean", ("DUPONT", "Jean")),
        ("Mme Dupont", ("Dupont", "")),
        ("Jean-Pierre Le Goff", ("Le Goff", "Jean-Pierre")),
        ("Dupont", ("Dupont", "")),
        (" Dupont ", ("Dupont", "")),
        ("Monsieur", ("Monsieur", "")),
    ],
)
def test_split_name(full: str, parts: tuple[str, str]) -> None:
    assert split_name(full) == parts


# --- in a file


def rows(folder: Path, text: str, dataset: str, source: SourceSpec) -> tuple[HeaderMapping, list[dict[str, Any]]]:
    """The rows of the raw table that a CSV text becomes; the profiler must take them too."""
    path = folder / "export.csv"
    path.write_text(text, encoding="utf-8")
    table = open_table(path)
    mapping = map_header(table.header, source.datasets[dataset])
    maker, profiler = RowMaker(mapping, "f" * 16, is_spreadsheet=False), Profiler(mapping, source, 68)
    found: list[dict[str, Any]] = []
    for batch in table.batches():
        fields = maker.fields(batch)
        profiler.add(batch, fields)
        found += maker.table(batch, fields).to_pylist()
    profiler.finish()
    return mapping, found


def test_split_name_fills_what_is_blank_and_a_name_column_gives_way(tmp_path: Path) -> None:
    source = SOURCE.with_tenant({}, {"clients": {"full_name": ["split_name"]}})
    _, found = rows(tmp_path, "client;name;prenom\nC1;MULLER Anne;\nC2;MULLER Anne;Anna\n", "customers", source)
    assert [(r["last_name"], r["first_name"]) for r in found] == [("MULLER", "Anne"), ("MULLER", "Anna")]
    source = SOURCE.with_tenant({}, {"clients": {"last_name": ["trim", "split_name"]}})
    _, found = rows(tmp_path, "client;nom\nC1; MULLER Anne\nC2;HAAS\nC3;\n", "customers", source)
    assert [(r["last_name"], r["first_name"]) for r in found] == [("MULLER", "Anne"), ("HAAS", None), (None, None)]


def test_parse_phone_reads_numbers_of_the_tenants_country(tmp_path: Path) -> None:
    steps = {"customers": {"phone": ["parse_phone"]}}
    text = "client;tel\nC1;0761 2030\n"
    assert rows(tmp_path, text, "customers", SOURCE.with_tenant({}, steps, country="DE"))[1][0]["phone"] == "+497612030"
    assert rows(tmp_path, text, "customers", SOURCE.with_tenant({}, steps))[1][0]["phone"] == "0761 2030"


FIXED = {
    "ventes_lignes": {
        "document_type": "FACTURE",
        "quantity": 1,
        "order_date": "2024-03-05",
        "country": "FR",
        "margin": 1.234,
    }
}


def test_a_fixed_value_stands_where_the_file_has_no_column(tmp_path: Path) -> None:
    source = SOURCE.with_tenant({}, {}, FIXED)
    mapping, found = rows(
        tmp_path, "client;piece;produit;montant;pays\nC1;F1;P;10,5;\nC2;F2;P;11,5;DE\nC3\n", "sales_lines", source
    )
    assert mapping.fault(1) is None, "quantity and date are fixed"
    assert mapping.missing_requirements == []
    assert "quantity" not in mapping.missing_fields
    assert [(r["quantity"], r["document_type"], r["order_date"], r["margin"]) for r in found] == [
        ("1", "FACTURE", "2024-03-05", "1.2340"),
        ("1", "FACTURE", "2024-03-05", "1.2340"),
        (None, None, None, None),
    ]
    # A column of the file wins, and what is blank in it stays blank.
    assert [r["country"] for r in found] == [None, "DE", None]


def test_a_fixed_value_counts_as_mapped() -> None:
    header = ["produit_key", "quantite"]
    plain, fixed = (
        map_header(header, source.datasets["stock"])
        for source in (SOURCE, SOURCE.with_tenant({}, {}, {"stock": {"warehouse": "Caveau"}}))
    )
    assert (plain.quality, fixed.quality) == (int(60 * 2 / 5 + 40), int(60 * 3 / 5 + 40))
    assert plain.version != fixed.version


def test_a_file_of_fixed_values_alone_has_no_header() -> None:
    source = SOURCE.with_tenant({}, {}, {"clients": {"client_code": "CAVEAU"}})
    fault = map_header(["Muller", "Julien"], source.datasets["customers"]).fault(1)
    assert fault is not None
    assert "has no header row" in fault


@pytest.mark.parametrize(
    ("fixed", "problem"),
    [
        ({"vente": {"country": "FR"}}, r"source\.fixed: no dataset 'vente' \(known: sales_lines or ventes_lignes"),
        ({"stock": {"entrepot": "x"}}, r"source\.fixed\.stock: no field 'entrepot', warehouse is meant perhaps"),
        ({"stock": {"quantity": "beaucoup"}}, r"source\.fixed\.stock\.quantity: 'beaucoup' is no number"),
        ({"stock": {"as_of": "31/12/2025"}}, "is no date: write it as"),
        ({"stock": {"warehouse": ""}}, "one text, number or date is expected"),
        ({"stock": {"warehouse": ["a"]}}, "one text, number or date is expected"),
        ({"products": {"is_active": "peut-être"}}, "neither yes nor no"),
        ({"products": {"premium_tier": "gold"}}, "'gold' is none of 0, 1, 2, 3, standard"),
        ({"sales_lines": {"document_no": "F1"}}, "one value for all rows would make one document"),
    ],
)
def test_a_wrong_fixed_value_is_named(fixed: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        SOURCE.with_tenant({}, {}, fixed)


@pytest.mark.parametrize(
    ("given", "stands"), [(True, "1"), (False, "0"), ("oui", "oui")], ids=["true", "false", "word"]
)
def test_yes_and_no_may_be_yamls(given: Any, stands: str) -> None:
    source = SOURCE.with_tenant({}, {}, {"products": {"is_active": given}})
    assert source.datasets["products"].fields["is_active"].fixed == stands
    assert normalise_header(stands) in source.booleans.words


def test_the_version_of_a_mapping_changes_with_what_applies_to_the_file_only() -> None:
    header = ["client", "nom", "tel", "Colonne"]

    def version(**more: Any) -> str:
        given = {"synonyms": {}, "transformations": {}, **more}
        return map_header(header, SOURCE.with_tenant(**given).datasets["customers"]).version

    plain = version()
    assert version(synonyms={"clients": {"email": ["adresse mel"]}, "stock": {"warehouse": ["Colonne"]}}) == plain
    assert version(transformations={"clients": {"email": ["trim"]}}) == plain, "the file has no such column"
    assert version(fixed={"clients": {"last_name": "X"}}) == plain, "the file has that column"
    assert version(synonyms={"clients": {"email": ["Colonne"]}}) != plain
    assert version(transformations={"clients": {"phone": ["parse_phone"]}}) != plain
    assert version(fixed={"clients": {"country": "DE"}}) != plain
