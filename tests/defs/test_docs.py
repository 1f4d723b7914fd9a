"""The documents against the code: every key, command and link they name exists, and none is missing."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from crm_assets import cli, tenants
from crm_assets.campaigns import Arm, Audience, Campaign, Purchase, Step, Wines
from crm_assets.logic import landing, transformations
from crm_assets.settings import ROOT
from crm_assets.tenants import BrevoSettings, SendingDays, Source, Tenant, WebhookEndpoint

README = (ROOT / "README.md").read_text(encoding="utf-8")
TENANTS = (ROOT / "docs" / "tenants.md").read_text(encoding="utf-8")
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def commands() -> set[str]:
    """The command line's commands."""
    (action,) = (a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return set(action.choices)


def anchors(page: Path) -> set[str]:
    """The places of a page that a link may point at, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_names_every_command_and_no_other() -> None:
    section = README.partition("## Commands")[2].partition("\n## ")[0]
    assert set(re.findall(r"`crm ([a-z]+)", section)) == commands()


ESTATE = [Tenant, BrevoSettings, SendingDays, WebhookEndpoint, Source]
CAMPAIGN = [Campaign, Audience, Purchase, Wines, Arm, Step]


@pytest.mark.parametrize("model", [*ESTATE, *CAMPAIGN])
def test_every_key_of_an_estate_is_explained(model: type[BaseModel]) -> None:
    # A campaign's name is its file's; its audience and wines are explained key by key.
    derived = {"name", "audience", "wines"} if model is Campaign else set()
    for key in set(model.model_fields) - derived:
        assert re.search(rf"^\|[^|]*`(?:\w+\.)?{key}`", TENANTS, re.MULTILINE), key


def test_defaults_of_an_estate_are_the_codes() -> None:
    shown = {key: value for key, value in re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", TENANTS, re.MULTILINE)}
    for model in (Tenant, BrevoSettings):
        for key, info in model.model_fields.items():
            if key in shown and not isinstance(info.default, BaseModel):
                assert yaml.safe_load(shown[key]) == info.default, key


def test_datasets_and_transformations_are_listed() -> None:
    source = landing.load_source()
    for name in [
        *source.datasets,
        *transformations.PLAIN,
        "parse_phone",
        "parse_date",
        "empty_to_zero",
        "map_values",
        "split_name",
    ]:
        assert re.search(rf"[`{{]{name}[`:]", TENANTS), name


def test_the_example_of_an_estate_is_right(tmp_path: Path) -> None:
    example = re.search(r"## Example\n\n```yaml\n(.*?)```", TENANTS, re.DOTALL)
    assert example is not None
    path = tmp_path / "example.yaml"
    path.write_text(example[1], encoding="utf-8")
    tenant = tenants.load_tenant(path)
    assert tenant.business_rules.documents.types["FACTURE PRO"] == "count"
    source = landing.load_source().with_tenant(tenant.source.synonyms, tenant.source.transformations)
    assert "customers" in source.datasets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link
