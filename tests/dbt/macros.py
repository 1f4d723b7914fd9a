"""The value macros of the dbt project as SQL expressions, its singular tests and plain models as statements, without
dbt's start-up.

No values here and no database: tests say what goes in and what must come out.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jinja2

from crm_assets.dbt_manifest import PROJECT

FILES = (
    *("parameters.sql", "text_values.sql", "parse_number.sql", "parse_date.sql", "quarantine_codes.sql", "kpis.sql"),
    *("wilson.sql", "outcomes.sql"),
)


@cache
def _environment() -> tuple[jinja2.Environment, str]:
    """Jinja as far as these files need it, and the macros' text."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    stages = {path.stem: path.parent.name for path in (PROJECT / "models").glob("*/*.sql")}
    environment.globals["source"] = lambda schema, table: f"{schema}.{table}"
    environment.globals["ref"] = lambda model: f"{stages[model]}.{model}"
    environment.globals["config"] = lambda **settings: ""
    return environment, "\n".join((PROJECT / "macros" / name).read_text("utf-8") for name in FILES)


@cache
def _module() -> Any:
    environment, macros = _environment()
    return environment.from_string(macros).module


def statement(test: str) -> str:
    """The SELECT that a singular test is: it finds what is wrong."""
    environment, macros = _environment()
    return environment.from_string(macros + (PROJECT / "tests" / f"{test}.sql").read_text("utf-8")).render()


def model(name: str) -> str:
    """The SELECT that a model is. Only for models that ask nothing but refs, sources and the macros above."""
    environment, macros = _environment()
    (path,) = (PROJECT / "models").glob(f"*/{name}.sql")
    return environment.from_string(macros + path.read_text("utf-8")).render()


def render(macro: str, *arguments: str) -> str:
    """The SQL expression that `macro` makes of these SQL expressions."""
    return str(getattr(_module(), macro)(*arguments))
