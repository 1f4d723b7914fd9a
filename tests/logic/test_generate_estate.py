"""The generator of estates: the samples committed are its bytes, hold every defect, and grow to any size."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
import yaml

from benchmarks import generate_estate as estate

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "data" / "samples"


@pytest.fixture(scope="module")
def samples() -> estate.Samples:
    return estate.build_samples()


def read_csv(content: bytes, encoding: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode(encoding), newline=""), delimiter=";"))


def encoding_of(content: bytes) -> str:
    return "utf-8-sig" if content.startswith(b"\xef\xbb\xbf") else "cp1252"


def tables(samples: estate.Samples, dataset: str) -> dict[str, list[dict[str, str]]]:
    """Whole CSV rows by file name; ragged rows cannot be named by column and are left out."""
    found = {}
    for path, content in samples.files.items():
        if f"/{dataset}/" in path and path.endswith(".csv"):
            header, *rows = read_csv(content, encoding_of(content))
            found[Path(path).name] = [dict(zip(header, r, strict=True)) for r in rows if len(r) == len(header)]
    return found


def test_the_committed_samples_are_what_the_generator_writes(tmp_path: Path) -> None:
    estate.write_samples(tmp_path)
    written = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    committed = {p.relative_to(COMMITTED): p.read_bytes() for p in (COMMITTED / "isavigne").rglob("*") if p.is_file()}
    assert sorted(written) == sorted(committed)
    assert [p for p in written if written[p] != committed[p]] == []


def test_the_samples_stay_small(samples: estate.Samples) -> None:
    sizes = [len(content) for content in samples.files.values()]
    assert max(sizes) < 1_048_576
    assert sum(sizes) < 1_500_000


def test_every_code_of_a_bad_row_is_there_and_stands_where_it_is_said_to(samples: estate.Samples) -> None:
    assert {code for d in samples.defects for code in d.codes} == set(estate.BAD_ROW_CODES)
    for defect in samples.defects:
        content = samples.files[defect.path]
        if defect.path.endswith(".xlsx"):
            continue
        text = content.decode(encoding_of(content))
        header, *rows = read_csv(content, encoding_of(content))
        row = rows[defect.record - 1]
        assert text.split("\n")[defect.line - 1].startswith(row[0])
        cells = dict(zip(header, row, strict=False))
        if "RAGGED_ROW" in defect.codes:
            assert len(row) != len(header)
        if "MISSING_CLIENT" in defect.codes:
            assert not cells["Code client"]
            assert not cells.get("E-mail") or "/clients/" in defect.path
        if "INVALID_DATE" in defect.codes:
            assert {"31/04/2023", "30/02/2024", "29/02/2025"} & set(row)
        if "INVALID_KEY" in defect.codes:
            assert {"#REF!", "#N/A", "---", "???", "4,52E+11"} & set(row)
    assert len(samples.defects) < 0.01 * sum(samples.records.values())


# Where each code of spec.md §2.3 can occur. A stock row without a day has its file's, here in every name.
ROW, KEY = {"RAGGED_ROW"}, {"INVALID_KEY"}
CODES_OF = {
    "ventes_lignes": set(estate.BAD_ROW_CODES),
    "clients": {"MISSING_CLIENT", "INVALID_DATE"} | KEY | ROW,
    "produits": {"MISSING_PRODUCT", "INVALID_NUMBER"} | KEY | ROW,
    "stock": {"MISSING_PRODUCT", "INVALID_DATE", "MISSING_QUANTITY", "INVALID_NUMBER"} | KEY | ROW,
    "contacts": {"MISSING_CLIENT", "MISSING_DATE", "INVALID_DATE"} | KEY | ROW,
    "alias": {"MISSING_PRODUCT"} | KEY | ROW,
}


def test_every_dataset_has_every_code_it_can_have(samples: estate.Samples) -> None:
    found: dict[str, set[str]] = {}
    for defect in samples.defects:
        found.setdefault(defect.path.split("/")[1], set()).update(defect.codes)
    assert found == CODES_OF


def test_every_document_type_and_spelling_of_a_value_is_there(samples: estate.Samples) -> None:
    sales = [row for rows in tables(samples, "ventes_lignes").values() for row in rows]
    types = {row["Type pièce"].upper() for row in sales}
    rules = yaml.safe_load((ROOT / "crm_assets" / "config" / "rules.yaml").read_text("utf-8"))
    assert types == set(rules["documents"]["types"])
    stock = tables(samples, "stock")["stock_2025-11-30.csv"]
    texts = [value for row in [*sales, *stock] for value in row.values()]
    spellings = [
        r"\d \d{3},\d\d", r"\d\u00a0\d{3},\d\d", r"\d\u202f\d{3},\d\d", r"\d\.\d{3},\d\d", r"\d,\d{3}\.\d\d",
        r"\d'\d{3}\.\d\d", r"\d+,\d\d\u00a0€", r"-\d+,\d\d", r"\(\d+\)", r"\d+", r"\d{4}-\d\d-\d\d", r"\d{4}/\d\d/\d\d",
        r"\d{4}\.\d\d\.\d\d", r"\d\d/\d\d/\d{4}", r"\d\d-\d\d-\d{4}", r"\d\d\.\d\d\.\d{4}", r"\d\d/\d\d/\d\d",
        r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d",
    ]  # fmt: skip
    assert [form for form in spellings if not any(re.fullmatch(form, text) for text in texts)] == []


def test_only_the_told_rows_are_ragged(samples: estate.Samples) -> None:
    told = {(d.path, d.record) for d in samples.defects if "RAGGED_ROW" in d.codes}
    found = set()
    for path, content in samples.files.items():
        if path.endswith(".csv"):
            header, *rows = read_csv(content, encoding_of(content))
            assert len(rows) == samples.records[path]
            found |= {(path, n) for n, row in enumerate(rows, start=1) if len(row) != len(header)}
    assert found == told


def test_the_clothes_are_isavigne_s(samples: estate.Samples) -> None:
    encodings = {encoding_of(c) for p, c in samples.files.items() if p.endswith(".csv")}
    assert encodings == {"utf-8-sig", "cp1252"}
    assert sum(p.endswith(".xlsx") for p in samples.files) == 1
    sales = tables(samples, "ventes_lignes")
    amounts = [row["Montant HT"] for rows in sales.values() for row in rows]
    assert any(estate.NBSP in a for a in amounts)
    assert any(estate.NNBSP in a for a in amounts)
    assert any(a.startswith("(") for a in amounts)
    assert any(a.startswith("-") for a in amounts)
    labels = [row.get("Désignation") or row.get("Libellé", "") for rows in sales.values() for row in rows]
    assert any("’" in label for label in labels)
    assert any("\n" in label and ";" in label for label in labels)
    assert set(estate.UNKNOWN_LABELS) <= set(labels)
    assert set(labels) & set(estate.ALIASES)
    assert {"Riesling Vieilles Vignes", "Pinot Noir Élevé en Barrique"} & set(labels)  # which vintage?
    assert "Riesling Vieille Vignes 2021" in labels
    assert any("€" in row["PU HT"] for row in sales["ventes_2023-12-31.csv"])


def test_the_estate_is_believable() -> None:
    clients = estate.make_clients()
    documents = estate.make_documents(clients)
    assert len(clients) == len({c.code for c in clients}) == 400
    assert {c.country for c in clients} >= {"France", "Allemagne", "Suisse"}
    assert any(c.postcode.startswith("0") for c in clients)
    prospects = [c for c in clients if c.behaviour == "prospect"]
    assert 10 < sum(c.opt_in == "oui" for c in prospects) < len(prospects) - 10
    assert {d.type for d in documents} >= {"FACTURE", "TICKET", "AVOIR", "DEVIS", "BL", "PROFORMA"}
    assert max(d.ordered for d in documents) == max(d.delivered for d in documents) == estate.AS_OF
    last = {}
    for document in documents:
        last[document.client.code] = document.ordered
    ages = [(estate.AS_OF - day).days for day in last.values()]
    assert sum(age <= 365 for age in ages) > 200
    assert sum(age > 365 for age in ages) > 50
    assert not {c.code for c in prospects} & set(last)
    # every wine of a sale was on sale that day, hence in the catalogue
    assert all(line.product in estate.PRODUCTS for d in documents for line in d.lines)


def test_an_invoice_is_wholly_reversed_and_another_has_two_identical_lines() -> None:
    documents = estate.make_documents(estate.make_clients())
    invoices = [d for d in documents if d.type == "FACTURE"]
    assert any(len(d.lines) > 1 and sum(x.unit * x.quantity for x in d.lines) == 0 for d in invoices)
    assert any(max(Counter(d.lines).values()) > 1 for d in invoices)


@pytest.mark.parametrize(("lines", "files"), [(3_000, 4), (10, 1)])
def test_an_estate_of_any_size_has_the_counts_asked_for(tmp_path: Path, lines: int, files: int) -> None:
    written = estate.write_scale(tmp_path, lines, customers=200, products=60, files=files)
    sales = [f for f in written if "/ventes_lignes/" in f.path]
    by_dataset = Counter[str]()
    bad = Counter[str]()
    for file in written:
        header, *rows = read_csv((tmp_path / file.path).read_bytes(), "utf-8-sig")
        dataset = file.path.split("/")[1]
        assert header == list(estate.HEADERS[dataset].values())
        assert len(rows) == file.records
        ragged = sum(len(row) != len(header) for row in rows)
        assert ragged == file.bad.get("RAGGED_ROW", 0)
        by_dataset[dataset] += file.records
        bad.update(file.bad)
    assert by_dataset["ventes_lignes"] == lines
    assert by_dataset["clients"] == 200
    assert by_dataset["produits"] == 60
    assert set(bad) == set(estate.BAD_ROW_CODES)
    assert len(sales) <= files
    assert sales[-1].path.endswith(f"ventes_{date(2025, 12, 31)}.csv")


def test_the_same_seed_writes_the_same_estate_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        estate.write_scale(tmp_path / name, 500, seed=seed)
    path = "isavigne/ventes_lignes/ventes_2025-12-31.csv"
    one, again, other = ((tmp_path / n / path).read_bytes() for n in ("one", "again", "other"))
    assert one == again
    assert one != other
