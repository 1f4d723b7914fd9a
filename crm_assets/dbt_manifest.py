"""The dbt manifest: made by `dbt parse` when the project changed, never at import and never twice.

Dagster reads the models from it. Parsing needs no database.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from crm_assets.settings import ROOT

PROJECT = ROOT / "dbt_project"
MANIFEST = PROJECT / "target" / "manifest.json"
_STAMP = PROJECT / "target" / "crm-stamp"
_PARTS = ("models", "macros", "tests", "dbt_project.yml", "profiles.yml")


class ManifestError(Exception):
    """The dbt project does not parse; the message is dbt's."""


def dbt_executable() -> str:
    """The dbt beside the running Python: never another one from PATH."""
    return str(Path(sys.executable).parent / "dbt")


def _fingerprint() -> str:
    digest = hashlib.sha256()
    files = [ROOT / "requirements.lock"]
    for part in _PARTS:
        path = PROJECT / part
        files += sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for path in files:
        digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_current() -> bool:
    """Whether the manifest was made from the project as it is."""
    return MANIFEST.exists() and _STAMP.exists() and _STAMP.read_text() == _fingerprint()


def parse_for(target: Path, environment: dict[str, str]) -> None:
    """Parse the project for one estate's connection, ahead of its first run: dbt keeps a parse per connection."""
    if not (target / "partial_parse.msgpack").exists():
        _parse({**os.environ, **environment, "DBT_TARGET_PATH": str(target), "DBT_LOG_PATH": str(target)})  # noqa: TID251


def _parse(environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        [dbt_executable(), "parse", "--quiet", "--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT)],
        capture_output=True,
        text=True,
        cwd=PROJECT,
        env=environment,
    )
    if done.returncode:
        raise ManifestError(f"dbt parse failed:\n{done.stdout}{done.stderr}".strip())


def ensure_manifest() -> Path:
    """The manifest, parsed anew only when the project changed since."""
    if is_current():
        return MANIFEST
    MANIFEST.parent.mkdir(parents=True, exist_ok=True)
    with (MANIFEST.parent / ".parse.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_current():
            return MANIFEST
        fingerprint = _fingerprint()
        _parse()
        _STAMP.write_text(fingerprint)
    return MANIFEST
