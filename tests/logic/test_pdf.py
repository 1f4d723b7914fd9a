"""PDF of a page: the same bytes each time, fonts and pages of its own, nothing fetched, and a reason where it fails."""

from __future__ import annotations

import re
import shutil
import subprocess
import zlib
from datetime import date
from pathlib import Path

import pytest

from crm_assets import pdf

DAY = date(2025, 12, 31)
PAGE = "<!DOCTYPE html><html lang='fr'><head><meta charset='utf-8'></head><body>{}</body></html>"


def made(body: str, locale: str = "fr", title: str = "Domaine de l'Été – rapport") -> bytes:
    return pdf.pdf_of(PAGE.format(body), title=title, locale=locale, as_of=DAY)


def inflated(content: bytes) -> bytes:
    """All streams of a PDF, unpacked: its pages are counted, and its fonts are named, in them."""
    found = b""
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", content, re.DOTALL):
        try:
            found += zlib.decompressobj().decompress(stream)
        except zlib.error:
            continue
    return content + found


def pages(content: bytes) -> int:
    return max(int(n) for n in re.findall(rb"/Count (\d+)", inflated(content)))


def text_of(content: bytes, tmp_path: Path) -> str:
    if shutil.which("pdftotext") is None:
        pytest.skip("needs pdftotext")
    (tmp_path / "page.pdf").write_bytes(content)
    said = subprocess.run(["pdftotext", tmp_path / "page.pdf", "-"], capture_output=True, check=True, text=True)
    return said.stdout


def test_the_same_page_gives_the_same_bytes_with_fonts_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = made("<h1>Cœur de cuvée, 12,50 €</h1>")
    # A machine whose fontconfig knows no font at all.
    monkeypatch.setenv("FONTCONFIG_PATH", str(tmp_path))
    monkeypatch.setenv("FONTCONFIG_FILE", str(tmp_path / "none.conf"))
    assert made("<h1>Cœur de cuvée, 12,50 €</h1>") == first
    fonts = set(re.findall(rb"/FontName /[A-Z]{6}\+([\w-]+)", inflated(first)))
    assert fonts
    assert all(name.startswith(b"DejaVuSans") for name in fonts)
    assert b"20251231" in inflated(first)


@pytest.mark.parametrize(("locale", "foot"), [("fr", "Page 2 sur 3"), ("en", "Page 2 of 3"), ("de", "Seite 2 von 3")])
def test_every_page_has_title_and_number_at_its_foot(locale: str, foot: str, tmp_path: Path) -> None:
    content = made("<p>un</p>" + "<p style='break-before: page'>suite</p>" * 2, locale, 'L\'Été "à la \\ cave"')
    assert pages(content) == 3
    text = text_of(content, tmp_path)
    assert foot in text
    assert text.count('L\'Été "à la \\ cave"') == 3


def test_what_the_page_points_at_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "secret.svg").write_text(
        "<svg xmlns='http://www.w3.org/2000/svg' width='90' height='20'><text y='15'>FOUND</text></svg>"
    )
    (tmp_path / "secret.css").write_text("p::after { content: 'STYLED' }")
    outside = (tmp_path / "secret.svg").as_uri()
    inside = (
        "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='90' height='20'><text y='15'>OURS</text>"
    )
    content = made(
        f"<link rel='stylesheet' href='{(tmp_path / 'secret.css').as_uri()}'><p>texte</p>"
        f"<img src='{outside}' alt='image absente'><img src='http://127.0.0.1:9/x.png' alt=''>"
        f'<img src="{inside}</svg>" alt="">'
    )
    text = text_of(content, tmp_path)
    assert "texte" in text
    assert "OURS" in text
    assert "image absente" in text
    assert "FOUND" not in text
    assert "STYLED" not in text


def test_a_missing_or_failing_library_is_a_reason_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "TIMEOUT_SECONDS", 0.001)
    with pytest.raises(pdf.PdfUnavailableError, match=r"longer than 0\.001 s"):
        made("<p>x</p>")
    monkeypatch.undo()
    monkeypatch.setattr(pdf.sys, "executable", "/nowhere/python")
    with pytest.raises(pdf.PdfUnavailableError, match="could not be started"):
        made("<p>x</p>")
    monkeypatch.setattr(pdf.sys, "executable", "/bin/false")
    with pytest.raises(pdf.PdfUnavailableError, match="no PDF"):
        made("<p>x</p>")
    monkeypatch.undo()
    found = pdf.importlib.util.find_spec
    monkeypatch.setattr(pdf.importlib.util, "find_spec", lambda name: None if name == "plutoprint" else found(name))
    with pytest.raises(pdf.PdfUnavailableError, match="plutoprint is not installed"):
        made("<p>x</p>")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("ValueError: bad markup near <b>Jeanne Muller</b>", "no PDF: ValueError"),
        ("near <b>Jeanne Muller</b>", "no PDF: its process failed"),
        ("ImportError: libfontconfig.so.1: cannot open", "no PDF: ImportError: libfontconfig.so.1: cannot open"),
    ],
)
def test_a_reason_quotes_no_page(said: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is shown in the UI: what is missing on the machine, never what stands in the report."""
    failed = subprocess.CompletedProcess([], 1, b"", f"Traceback\n{said}\n".encode())
    monkeypatch.setattr(pdf.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(pdf.PdfUnavailableError) as raised:
        made("<p>x</p>")
    assert str(raised.value) == reason
