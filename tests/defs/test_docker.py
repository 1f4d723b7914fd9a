"""docker/ against the code: the containers run what `./crm up` runs, with variables and folders that exist.

Nothing is built or started here: the files are read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from crm_assets import dbt_manifest, local, up
from crm_assets.settings import ROOT, Settings

DOCKER = ROOT / "docker"
PROGRAMS = ("code-server", "webserver", "daemon", "receiver")
# What a container must not take from the host's .env: where it listens, and which folders it sees.
FIXED_INSIDE = {"home", "data", "tenants", "host", "port", "code_host", "code_port", "database_url"}
FIXED_INSIDE |= {"receiver_host", "receiver_port"}

Compose = dict[str, Any]


@pytest.fixture(scope="module")
def compose() -> Compose:
    """The compose file with its anchors resolved."""
    loaded: Compose = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    return loaded


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, its text), continued lines joined, comments left out."""
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines())]


def inside(service: Compose) -> Settings:
    """The settings a service's program sees; what .env provides does not matter here."""
    given = {name.removeprefix("CRM_").lower(): value for name, value in service["environment"].items()}
    return Settings(_env_file=None, **{name: value for name, value in given.items() if "$" not in str(value)})


def ours(compose: Compose) -> dict[str, Compose]:
    """The services that run our image."""
    services: dict[str, Compose] = compose["services"]
    return {name: service for name, service in services.items() if service["image"] == "crm-assets"}


def mounts(service: Compose) -> dict[str, Compose]:
    """The mounted volumes and folders by their place in the container."""
    return {mount["target"]: mount for mount in service["volumes"]}


def copied(instructions: list[tuple[str, str]]) -> set[str]:
    """What the Dockerfile copies from the project."""
    copies = [rest.split() for name, rest in instructions if name == "COPY" and "--from" not in rest]
    return {source for words in copies for source in words[:-1]}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_service_runs_the_command_of_crm_up(compose: Compose, name: str) -> None:
    service = compose["services"][name]
    assert service["command"] == ["exec", *up.processes(inside(service), receives=True)[name]]


def test_every_program_of_crm_up_is_a_service(compose: Compose) -> None:
    assert set(up.processes(Settings(_env_file=None), receives=True)) == set(PROGRAMS)
    assert set(ours(compose)) == {*PROGRAMS, "init", "crm"}


def test_others_reach_the_code_server_under_its_name_and_port(compose: Compose) -> None:
    port = inside(compose["services"]["code-server"]).code_port
    for name in ("webserver", "daemon"):
        seen = inside(compose["services"][name])
        assert (seen.code_host, seen.code_port) == ("code-server", port)


def test_databases_are_prepared_once_before_the_programs_start(compose: Compose) -> None:
    services = compose["services"]
    assert services["init"]["command"][0] == "exec"  # `crm exec` prepares, whatever it runs then
    assert services["init"]["restart"] == "no"
    assert services["init"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in PROGRAMS:
        assert services[name]["depends_on"] == {"init": {"condition": "service_completed_successfully"}}


def test_every_variable_is_one_that_the_code_reads(compose: Compose) -> None:
    for name, service in ours(compose).items():
        variables = {variable.removeprefix("CRM_").lower() for variable in service["environment"]}
        assert variables <= set(Settings.model_fields), name
        assert variables >= FIXED_INSIDE, name
        # Derived by `crm exec`: a second home for it could only be wrong.
        assert "dagster_url" not in variables, name


def test_interpolated_variables_stand_in_the_example() -> None:
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    for variable in set(re.findall(r"\$\{([A-Z_]+)", text)):
        assert re.search(rf"^#? ?{variable}=", example, re.MULTILINE), variable


def test_no_secret_has_a_value_in_the_files(compose: Compose, instructions: list[tuple[str, str]]) -> None:
    for name, service in compose["services"].items():
        for variable, value in service.get("environment", {}).items():
            if re.search("SECRET|PASSWORD|KEY|URL", variable):
                assert str(value).startswith("${"), f"{name}: {variable}"
    for name, rest in instructions:
        if name in {"ARG", "ENV"}:
            assert not re.search("SECRET|PASSWORD|KEY|TOKEN|URL", rest), rest


def test_folders_of_the_code_are_mounted(compose: Compose) -> None:
    for name, service in ours(compose).items():
        config, mounted = inside(service), mounts(service)
        assert set(mounted) == {str(config.home), str(config.data), str(config.tenants)}, name
        assert mounted[str(config.home)] == {"type": "volume", "source": "state", "target": str(config.home)}
        for folder, host in ((config.data, "data"), (config.tenants, "tenants")):
            assert mounted[str(folder)]["source"].endswith(f":-../{host}}}"), name
            assert (ROOT / host).is_dir()
            # Only the command line adds estates and drops files.
            assert mounted[str(folder)].get("read_only", False) is (name != "crm"), name


def test_named_volumes_are_declared(compose: Compose) -> None:
    used = {
        mount["source"]
        for service in compose["services"].values()
        for mount in service["volumes"]
        if mount["type"] == "volume"
    }
    assert used == set(compose["volumes"])


def test_the_receiver_runs_only_where_webhooks_are_wanted(compose: Compose) -> None:
    assert compose["services"]["receiver"]["profiles"] == ["webhooks"]
    assert "receiver" not in up.processes(Settings(_env_file=None))


def test_what_listens_is_published_to_this_machine_only(compose: Compose) -> None:
    services: dict[str, Compose] = compose["services"]
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {
        "webserver": ["127.0.0.1:${CRM_PORT:-3000}:3000"],
        "receiver": ["127.0.0.1:${CRM_RECEIVER_PORT:-3020}:3020"],
    }
    assert inside(compose["services"]["receiver"]).receiver_port == 3020
    assert Settings(_env_file=None).receiver_port == 3020
    assert inside(compose["services"]["webserver"]).port == 3000
    assert Settings(_env_file=None).port == 3000


def test_postgres_is_the_major_release_that_the_tests_run_on(compose: Compose) -> None:
    postgres = compose["services"]["postgres"]
    embedded = re.search(r"pginstall(\d+)", Path(local.__file__).read_text(encoding="utf-8"))
    assert embedded is not None
    assert postgres["image"].startswith(f"postgres:{embedded[1]}-")
    assert f"max_connections={local.SERVER_SETTINGS['max_connections']}" in postgres["command"]
    # From 18 on the image keeps its data in a subfolder of this one, named after the release.
    assert mounts(postgres).keys() == {"/var/lib/postgresql"}


def test_what_the_dockerfile_copies_is_there(instructions: list[tuple[str, str]]) -> None:
    sources = copied(instructions)
    for source in sources:
        assert (ROOT / source).exists(), source
    needed = [up.ROOT / "workspace.yaml", up.ROOT / "dagster.yaml", dbt_manifest.PROJECT]
    needed += [ROOT / "crm_assets", ROOT / "data" / "samples", ROOT / "requirements.lock"]
    assert sources == {path.relative_to(ROOT).as_posix() for path in needed}


def test_the_builder_gets_exactly_what_is_copied(instructions: list[tuple[str, str]]) -> None:
    lines = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied(instructions)


def test_the_image_installs_from_the_lock_and_parses_dbt_itself(instructions: list[tuple[str, str]]) -> None:
    ran = [rest for name, rest in instructions if name == "RUN"]
    assert any("pip install" in text and "--require-hashes -r /tmp/requirements.lock" in text for text in ran)
    assert sum("pip install" in text for text in ran) == 1
    parse = "from crm_assets.dbt_manifest import ensure_manifest; ensure_manifest()"
    assert any(parse in text for text in ran)
    assert callable(dbt_manifest.ensure_manifest)


def test_the_image_runs_the_command_line_as_an_ordinary_user(instructions: list[tuple[str, str]]) -> None:
    last, order = dict(instructions), [name for name, _ in instructions]
    assert last["USER"] == "crm"
    assert max(i for i, name in enumerate(order) if name == "RUN") < order.index("USER")
    assert json.loads(last["ENTRYPOINT"]) == ["python", "-m", "crm_assets.cli"]
    assert last["WORKDIR"] == "/app"
    assert "PYTHONPATH=/app" in last["ENV"]


def test_the_images_python_is_new_enough(instructions: list[tuple[str, str]]) -> None:
    versions = [re.search(r"python:3\.(\d+)-slim", rest) for name, rest in instructions if name == "FROM"]
    assert versions
    assert all(found and int(found[1]) >= 11 for found in versions)
