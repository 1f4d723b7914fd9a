"""What a table must look like, judged by Great Expectations, and the Data Docs that say so to a person.

A suite is data: each expectation with the reason why it is there. Judging one writes Great Expectations' own Data
Docs of it, two pages that need nothing else: GX's pages fetch styles, scripts and a logo from six hosts, which would
tell strangers whenever an estate looks at its data, and show nothing without a network. Only counts are kept: no
value of a row is in a verdict, a page or an exception. No database and no Dagster here.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from crm_assets.documents import write_whole
from crm_assets.settings import ROOT

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult

STYLES = ROOT / "crm_assets" / "templates" / "data_docs.css"
RESULT_PAGE, SUITE_PAGE = "index.html", "expectations.html"
# No list of the failing values, however short: they could be names and addresses.
COUNTS_ONLY = {"result_format": "BASIC", "partial_unexpected_count": 0}


@dataclass(frozen=True)
class Expected:
    """One expectation: Great Expectations' class, its arguments, and why it is there (English, for the pages).

    The argument `mostly` is the share of rows that must meet it, all of them where it is not given.
    """

    kind: str
    why: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> str:
        """The column or columns it is about; empty for the table as a whole."""
        given = self.arguments
        return str(given["column"]) if "column" in given else ", ".join(given.get("column_list", ()))


@dataclass(frozen=True)
class Suite:
    """Expectations of one kind of table, and why somebody should care."""

    name: str
    why: str
    expected: tuple[Expected, ...]


@dataclass(frozen=True)
class Outcome:
    """One expectation, judged: in words, on `n_rows`, of which `n_unexpected` (None: not about rows) do not meet it.

    `required` is the share of rows that must. `is_met` is None where it could not be measured at all.
    """

    title: str
    why: str
    n_rows: int
    n_unexpected: int | None
    required: float
    is_met: bool | None

    @property
    def measured(self) -> float | None:
        """The share of rows that meet it; None where it is not about rows."""
        if self.n_unexpected is None:
            return None
        return 1.0 - self.n_unexpected / self.n_rows if self.n_rows else 1.0


@dataclass(frozen=True)
class Verdict:
    """A suite, judged. `page` is the first page of its Data Docs; None where an expectation could not be measured."""

    outcomes: tuple[Outcome, ...]
    page: Path | None

    @property
    def is_met(self) -> bool:
        return all(outcome.is_met for outcome in self.outcomes)


def data_docs_folder(home: Path, slug: str, run_id: str) -> Path:
    """Where the Data Docs of a run lie, a folder per suite."""
    return home / "data_docs" / slug / run_id


def judge(frame: pd.DataFrame, suite: Suite, run_folder: Path, now: datetime) -> Verdict:
    """Judge a table and write the Data Docs of it to `run_folder/<suite>/`: index.html and expectations.html."""
    # 1.24 phones nobody; a later release must not begin to.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # noqa: TID251 - what Great Expectations reads
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    with tempfile.TemporaryDirectory() as scratch:
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": scratch}
        site = {"class_name": "SiteBuilder", "show_how_to_buttons": False, "store_backend": store}
        context = gx.get_context(
            mode="ephemeral",
            project_config=DataContextConfig(
                store_backend_defaults=InMemoryStoreBackendDefaults(),
                data_docs_sites={"run": site},
                progress_bars=ProgressBarsConfig(globally=False),
                analytics_enabled=False,
            ),
        )
        made = context.suites.add(_made(suite))
        table = context.data_sources.add_pandas("tenant").add_dataframe_asset("table")
        batch = table.add_batch_definition_whole_dataframe("all")
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=suite.name, data=batch, suite=made)
        )
        result = definition.run(
            batch_parameters={"dataframe": frame},
            result_format=COUNTS_ONLY,
            run_id=gx.RunIdentifier(run_name=run_folder.name, run_time=now),
        )
        found = {one.expectation_config.id: one for one in result.results if one.expectation_config}
        outcomes = tuple(
            _outcome(expected, found[expectation.id], len(frame))
            for expected, expectation in zip(suite.expected, made.expectations, strict=True)
        )
        if any(outcome.is_met is None for outcome in outcomes):
            return Verdict(outcomes, None)  # GX's page would show the error, and that may quote a value
        context.build_data_docs()
        pages = {
            name: self_contained(next(Path(scratch, section).rglob("*.html")).read_text("utf-8")).encode()
            for name, section in ((SUITE_PAGE, "expectations"), (RESULT_PAGE, "validations"))
        }
    for name, page in pages.items():
        write_whole(run_folder / suite.name / name, page)
    return Verdict(outcomes, run_folder / suite.name / RESULT_PAGE)


def _made(suite: Suite) -> ExpectationSuite:
    import great_expectations as gx

    expectations = [
        getattr(gx.expectations, expected.kind)(**expected.arguments, notes=expected.why) for expected in suite.expected
    ]
    return gx.ExpectationSuite(name=suite.name, expectations=expectations, notes=suite.why)


def _outcome(expected: Expected, found: ExpectationValidationResult, n_rows: int) -> Outcome:
    counts = found.result or {}
    unexpected = counts.get("unexpected_count")
    return Outcome(
        title=_title(expected),
        why=expected.why,
        # Values that are not there are judged by the expectations that they must be there, and by no other.
        n_rows=n_rows - (counts.get("missing_count") or 0 if expected.kind != "ExpectColumnValuesToNotBeNull" else 0),
        n_unexpected=None if unexpected is None else int(unexpected),
        required=float(expected.arguments.get("mostly", 1.0)),
        is_met=None if _raised(found) else bool(found.success),
    )


def _raised(found: ExpectationValidationResult) -> bool:
    """Whether an expectation could not be measured. GX tells one exception, or one per measure."""
    told = found.exception_info or {}
    each = [told] if "raised_exception" in told else list(told.values())
    return any(one.get("raised_exception") for one in each if isinstance(one, Mapping))


def _title(expected: Expected) -> str:
    """Column, class and limits in words: "rank: values to be between 1 .. 3"."""
    words = re.sub(r"(?<!^)(?=[A-Z])", " ", expected.kind.removeprefix("Expect")).lower()
    words = re.sub(r"^(?:compound )?columns? ", "", words)
    given = expected.arguments
    if "min_value" in given or "max_value" in given:
        words += f" {given.get('min_value', '')} .. {given.get('max_value', '')}".rstrip()
    if "value_set" in given:
        words += f" {', '.join(map(str, given['value_set']))}"
    return f"{expected.about}: {words}" if expected.about else words


_FETCHED = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<footer\b.*?</footer>|<style\b.*?</style>", re.DOTALL
)
_LINK = re.compile(r'href="(?:\.\./)+(?:(?P<home>index\.html)|expectations/[^"]*)"')


def self_contained(page: str) -> str:
    """A page of Data Docs that fetches nothing: our styles in place of remote ones, no script, its links flattened."""
    page = _LINK.sub(lambda link: f'href="{RESULT_PAGE if link["home"] else SUITE_PAGE}"', _FETCHED.sub("", page))
    return page.replace("</head>", f"<style>\n{STYLES.read_text('utf-8')}</style>\n</head>")


def markdown(verdict: Verdict) -> str:
    """The verdict as a table, what is not met first."""
    lines = ["| | expectation | rows | not met by | met by | required | why |", "|---|---|---:|---:|---:|---:|---|"]
    for outcome in sorted(verdict.outcomes, key=lambda outcome: bool(outcome.is_met)):
        light = "not measured" if outcome.is_met is None else "✅" if outcome.is_met else "❌"
        cells = [
            light,
            outcome.title,
            f"{outcome.n_rows}",
            "" if outcome.n_unexpected is None else f"{outcome.n_unexpected}",
            "" if outcome.measured is None else f"{outcome.measured:.4f}",
            "" if outcome.n_unexpected is None else f"{outcome.required:.4f}",
            outcome.why,
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def remove_old(home: Path, slug: str, kept: int) -> int:
    """Remove the Data Docs of all but the `kept` runs that were judged last; how many runs' were removed."""
    folder = home / "data_docs" / slug
    runs = sorted((path for path in folder.glob("*") if path.is_dir()), key=_last_written, reverse=True)
    for path in runs[kept:]:
        shutil.rmtree(path)
    return len(runs[kept:])


def _last_written(run_folder: Path) -> tuple[int, str]:
    times = [page.stat().st_mtime_ns for page in run_folder.rglob(RESULT_PAGE)]
    return max(times, default=0), run_folder.name
