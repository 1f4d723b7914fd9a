"""The value macros of the dbt project as SQL expressions, rendered without dbt's start-up.

No values here and no database: tests say what goes in and what must come out.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jinja2

from crm_assets.dbt_manifest import PROJECT

FILES = ("parameters.sql", "text_values.sql", "parse_number.sql", "parse_date.sql")


@cache
def _module() -> Any:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.globals["source"] = lambda schema, table: f"{schema}.{table}"
    text = "\n".join((PROJECT / "macros" / name).read_text("utf-8") for name in FILES)
    return environment.from_string(text).module


def render(macro: str, *arguments: str) -> str:
    """The SQL expression that `macro` makes of these SQL expressions."""
    return str(getattr(_module(), macro)(*arguments))
