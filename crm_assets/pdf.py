"""A page of HTML as PDF, by PlutoPrint, in a process of its own.

The fonts are those that matplotlib ships, and no other: the same bytes on every machine, also on one without a
font or a fontconfig. Nothing is fetched, from no disk and no network: what the page shows stands in it. A fault in
the library's native code, or a machine that cannot load it, costs the PDF and nothing else. No wording and no
layout of a report here, beside the margins and the foot of a page; only the standard library is imported, since
this file is also what the child process runs.
"""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from xml.sax.saxutils import escape

TIMEOUT_SECONDS = 120
_MACHINE_FAULTS = ("ImportError", "ModuleNotFoundError", "OSError", "FileNotFoundError", "PermissionError")
# "Page 2 of 5" around the two counters.
_PAGE_OF = {"fr": ("Page ", " sur "), "en": ("Page ", " of "), "de": ("Seite ", " von ")}
_FONT_CONFIGURATION = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
<dir>{fonts}</dir>
<cachedir>{cache}</cachedir>
<selectfont>
<acceptfont><glob>*/DejaVuSans*</glob><glob>*/DejaVuSerif*</glob></acceptfont>
<rejectfont><glob>{fonts}/*</glob></rejectfont>
</selectfont>
</fontconfig>
"""


class PdfUnavailableError(Exception):
    """No PDF can be made here; the message says what is missing, or what went wrong, in one line."""


def pdf_of(html: str, *, title: str, locale: str, as_of: date) -> bytes:
    """The page as PDF: A4, its foot with the title and the page numbers; the same bytes for the same page and day.

    `title` and `as_of` go into the document's properties too. PdfUnavailableError where there can be none.
    """
    for package in ("plutoprint", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise PdfUnavailableError(f"no PDF: the Python package {package} is not installed")
    asked = {"html": html, "title": title, "as_of": as_of.isoformat(), "style": _page_style(title, locale)}
    with tempfile.TemporaryDirectory(prefix="crm-pdf-") as folder:
        configuration = Path(folder, "fonts.conf")
        configuration.write_text(
            _FONT_CONFIGURATION.format(fonts=escape(str(_fonts())), cache=escape(folder)), encoding="utf-8"
        )
        try:
            child = subprocess.run(
                [sys.executable, "-I", __file__],
                input=json.dumps(asked).encode(),
                capture_output=True,
                env={"FONTCONFIG_FILE": str(configuration), "LC_ALL": "C.UTF-8"},
                cwd=folder,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PdfUnavailableError(f"no PDF: it took longer than {TIMEOUT_SECONDS} s") from error
        except OSError as error:
            raise PdfUnavailableError(f"no PDF: its process could not be started ({type(error).__name__})") from error
    if child.returncode != 0 or not child.stdout.startswith(b"%PDF"):
        raise PdfUnavailableError(f"no PDF: {_reason(child)}")
    return child.stdout


def _reason(child: subprocess.CompletedProcess[bytes]) -> str:
    """Why the child made no PDF: its exception, in full only where that says what is missing on the machine; any
    other may quote the page, and customers' names stand in it.
    """
    said = child.stderr.decode(errors="replace").strip().splitlines()
    if child.returncode != 1 or not said:
        return f"its process ended with {child.returncode}"
    kind = said[-1].partition(":")[0]
    if kind in _MACHINE_FAULTS:
        return said[-1][:200]
    return kind if kind.isidentifier() else "its process failed"


def _fonts() -> Path:
    spec = importlib.util.find_spec("matplotlib")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], "mpl-data", "fonts", "ttf")


def _page_style(title: str, locale: str) -> str:
    """Margins and the foot of every page. A page's own @page rules come after these."""
    page, of = _PAGE_OF[locale]
    small = "font: 8pt 'DejaVu Sans', sans-serif; color: #6b6258; vertical-align: top; padding-top: 4mm"
    return (
        "@page { size: A4; margin: 14mm 14mm 18mm;"
        f" @bottom-left {{ content: {_css_string(title)}; {small} }}"
        f' @bottom-right {{ content: "{page}" counter(page) "{of}" counter(pages); {small} }} }}'
    )


def _css_string(text: str) -> str:
    return '"' + "".join(char if char.isalnum() or char in " ,.-" else f"\\{ord(char):x} " for char in text) + '"'


def _main() -> None:
    """The child: a page on stdin as JSON, its PDF on stdout."""
    import plutoprint

    class OnlyWhatThePageHolds(plutoprint.ResourceFetcher):
        def fetch_url(self, url: str) -> plutoprint.ResourceData:
            if url.startswith("data:"):
                return super().fetch_url(url)
            return plutoprint.ResourceData(b"", "text/plain")

    asked = json.load(sys.stdin.buffer)
    book = plutoprint.Book(plutoprint.PAGE_SIZE_A4)
    book.custom_resource_fetcher = OnlyWhatThePageHolds()
    book.load_html(asked["html"], user_style=asked["style"])
    moment = f"{asked['as_of']}T00:00:00Z"
    book.set_metadata(plutoprint.PDF_METADATA_TITLE, asked["title"])
    book.set_metadata(plutoprint.PDF_METADATA_CREATION_DATE, moment)
    book.set_metadata(plutoprint.PDF_METADATA_MODIFICATION_DATE, moment)
    target = io.BytesIO()
    book.write_to_pdf_stream(target)
    sys.stdout.buffer.write(target.getvalue())


if __name__ == "__main__":
    _main()
