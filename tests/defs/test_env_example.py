""".env.example against the code: every variable that is read stands there, explained, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from crm_assets import up
from crm_assets.logic.contacts import ATTRIBUTES
from crm_assets.settings import ROOT, Settings
from crm_assets.tenants import BrevoSettings, Registry

# Read outside the settings: by the wrapper before there is a Python, and by the tests.
OUTSIDE = {"CRM_PYTHON", "CRM_TEST_DATABASE_URL"}
# Only the files of estates name these: no file of ours does, since none of our estates has its folder elsewhere.
DROP_FOLDERS = {"CRM_DROP_PASSWORD", "CRM_DROP_KEY", "CRM_DROP_SECRET"}
# The estates that come with the product; one that is added here may name what it likes.
ESTATES = ("demo", "vieux_lavoir")
NAME = re.compile(r"\bCRM_[A-Z0-9_]*[A-Z0-9]\b")


def example() -> dict[str, tuple[str, str]]:
    """Variable -> (its comment, its value), in the file's order; a second mention is an error."""
    found: dict[str, tuple[str, str]] = {}
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if match := re.fullmatch(r"# ([A-Z][A-Z0-9_]*)=(.*)", line):
            assert match[1] not in found, f"{match[1]} stands twice"
            found[match[1]] = (before.removeprefix("# "), match[2])
    return found


def brevo_variables() -> set[str]:
    """The variables that hold a Brevo key or webhook token: the default ones and those the estates' files name."""
    registry = Registry(ROOT / "tenants")
    known = [BrevoSettings(), *(registry.get(slug).brevo for slug in ESTATES)]
    return {name for each in known for name in (each.api_key_variable, each.webhook_token_variable)}


def set_by_the_code() -> set[str]:
    """Variables that we set for our own child processes: nobody else should."""
    readers = (ROOT / "dbt_project" / name for name in ("profiles.yml", "macros/generate_schema_name.sql"))
    text = "".join(path.read_text(encoding="utf-8") for path in readers)
    return {up.MARK, *re.findall(r"env_var\('(CRM_\w+)'", text)}


def sources() -> list[Path]:
    """The files in which a variable could be read."""
    files = [ROOT / "crm", ROOT / "dagster.yaml", ROOT / "workspace.yaml", ROOT / ".ci" / "run"]
    for folder in ("crm_assets", "benchmarks", "tests", "docker", "dbt_project/models", "dbt_project/macros"):
        files += [p for p in (ROOT / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    return [path for path in files if path != Path(__file__)]


def test_the_example_lists_exactly_what_is_read() -> None:
    settings = {f"CRM_{name.upper()}" for name in Settings.model_fields}
    in_example = {name for name in example() if name.startswith("CRM_")}
    assert in_example == settings | OUTSIDE | DROP_FOLDERS | brevo_variables()


def test_every_variable_that_the_code_names_is_listed() -> None:
    known = set(example()) | set_by_the_code() | set(ATTRIBUTES)
    unknown = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources()
        for name in NAME.findall(path.read_text(encoding="utf-8", errors="ignore"))
        # No variable by itself: what estates made by tests name for their own keys; a prefix, as in "CRM_DBT_*" or
        # f"CRM_BREVO_KEY_{slug}".
        if name not in known
        and not name.startswith("CRM_TEST_")
        and not any(other.startswith(f"{name}_") for other in known)
    }
    assert not unknown


def test_every_variable_has_its_comment_and_nothing_is_switched_on() -> None:
    for name, (comment, _) in example().items():
        assert comment.endswith("."), name
    switched_on = [
        line
        for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert not switched_on


def test_the_defaults_shown_are_the_codes() -> None:
    shown = {name: value for name, (_, value) in example().items()}
    for field, info in Settings.model_fields.items():
        value, default = shown[f"CRM_{field.upper()}"], info.default
        if field in {"home", "data", "tenants"}:
            assert ROOT / value == default
        elif default is None:
            assert not value or field == "database_url"  # an address that shows the form
        else:
            assert (yaml.safe_load(value) if value else "") == default, field


@pytest.mark.parametrize("secret", ["CRM_SECRET", "POSTGRES_PASSWORD", "CRM_BREVO_KEY", *sorted(DROP_FOLDERS)])
def test_no_secret_has_a_value(secret: str) -> None:
    assert not example()[secret][1]
