"""The environment, read and validated once. Nobody else reads os.environ.

Each variable is described in `.env.example`; a test compares the two.
"""

from __future__ import annotations

import os
import secrets
from functools import cache
from pathlib import Path
from typing import Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from crm_assets import standin

ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """The CRM_* variables. Relative folders are taken from the project root."""

    model_config = SettingsConfigDict(
        env_prefix="CRM_", env_file=ROOT / ".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    home: Path = Field(ROOT / "var", description="Folder of the state: embedded database, dbt targets, exports, logs.")
    data: Path = Field(ROOT / "data", description="Folder of the drop folders: <data>/<tenant>/raw/.")
    tenants: Path = Field(ROOT / "tenants", description="Folder of the tenant files: <slug>.yaml.")
    database_url: SecretStr | None = Field(
        None, description="URL of a PostgreSQL >= 14 whose role may create databases and roles; unset: embedded server."
    )
    database_prefix: str = Field("crm_", description="Prefix of tenant and control databases and roles.")
    dagster_database: str = Field("dagster", description="Name of the database (and role) of Dagster's storage.")
    secret: SecretStr | None = Field(
        None, description="Secret from which database passwords are derived; unset: made once, kept in CRM_HOME/secret."
    )
    port: int = Field(3000, description="Port of the Dagster UI.")
    host: str = Field("127.0.0.1", description="Address the Dagster UI listens on.")
    code_host: str = Field("127.0.0.1", description="Host of the code server that workspace.yaml points at.")
    code_port: int = Field(3030, description="Port of the code server that workspace.yaml points at.")
    embedded_idle_minutes: float = Field(
        30, description="Minutes without a connection after which an embedded server started by a command stops."
    )
    dagster_url: SecretStr | None = Field(
        None,
        description="URL of Dagster's storage, read by dagster.yaml: derived and set by ./crm, never by hand.",
    )
    smtp_host: str = Field("", description="Mail server that reports leave by; empty: reports are not mailed.")
    smtp_port: int = Field(587, description="Its port.")
    smtp_security: Literal["starttls", "tls", "none"] = Field(
        "starttls",
        description="How the connection is protected: starttls, tls from the start, or none (loopback only).",
    )
    smtp_user: str = Field("", description="User of the mail server; empty: no log-in.")
    smtp_password: SecretStr | None = Field(None, description="That user's password.")
    smtp_from: str = Field("", description="Sender of the reports, an e-mail address.")
    brevo_url: str = Field(
        "https://api.brevo.com/v3",
        description="Base address of Brevo's API; the stand-in of --with-brevo-standin sets it.",
    )
    receiver_host: str = Field("127.0.0.1", description="Address that the receiver of Brevo's webhooks listens on.")
    receiver_port: int = Field(3020, description="Its port.")
    standin_port: int | None = Field(
        None, description="Port of the stand-in of --with-brevo-standin, on this machine; unset: a free one."
    )
    live: bool = Field(
        False, description="1 allows live sending where the tenant's file does too; else all is a dry run."
    )

    @field_validator("home", "data", "tenants")
    @classmethod
    def _from_root(cls, value: Path) -> Path:
        return value if value.is_absolute() else ROOT / value

    @field_validator("database_prefix", "dagster_database")
    @classmethod
    def _is_identifier(cls, value: str) -> str:
        if not value.replace("_", "a").isalnum() or not value.islower() or not value[0].isalpha():
            raise ValueError("lower-case letters, digits and underscores only, starting with a letter")
        return value

    def secret_bytes(self) -> bytes:
        """The deployment's secret; made once where CRM_SECRET is not set."""
        if self.secret is not None:
            return self.secret.get_secret_value().encode()
        path = self.home / "secret"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            self.home.mkdir(parents=True, exist_ok=True)
            scratch = path.with_name(f".secret-{secrets.token_hex(4)}")
            scratch.touch(mode=0o600)
            scratch.write_text(secrets.token_hex(32))
            try:
                path.hardlink_to(scratch)  # two first commands at once: the first secret stays
            except FileExistsError:
                pass
            finally:
                scratch.unlink()
            return path.read_bytes()


def secret(name: str) -> SecretStr | None:
    """The secret in a variable that a tenant's file names, from the environment or .env; None when it is not set."""
    value = os.environ.get(name) or dotenv_values(ROOT / ".env").get(name)  # noqa: TID251 - the one reader
    return SecretStr(value) if value else None


def brevo_key(config: Settings, variable: str) -> SecretStr | None:
    """The key of Brevo's API that belongs to `config.brevo_url`; None when there is none that may go there."""
    value = secret(variable)
    found = standin.key_for(config.brevo_url, value.get_secret_value() if value else None, variable, config.home)
    return SecretStr(found) if found else None


@cache
def settings() -> Settings:
    """The settings of this process: Brevo's stand-in in Brevo's place while one runs beside `crm up`."""
    made = Settings()
    mark = standin.running(made.home)
    if mark is None or "brevo_url" in made.model_fields_set:
        return made
    return made.model_copy(update={"brevo_url": mark.url, "live": True})
