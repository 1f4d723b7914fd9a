"""The wrapper ./crm, with Pythons that only write down how they were called: nothing is installed here."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from crm_assets.settings import ROOT

SHELL = "/bin/sh"
TOOLS = ("cat", "cksum", "dirname", "ln", "mkdir", "mv", "readlink", "rm", "sleep", "tr")

# Says which Python it is, and makes a .venv in which the same script stands as bin/python.
FAKE_PYTHON = """\
#!/bin/sh
echo "$0 $*" >>"{log}"
case "$1 ${{2:-}}" in
    "--version "*) echo "Python {version}" ;;
    "-c "*) exit {too_old} ;;
    "-m venv") mkdir -p "$3/bin" && cat "$0" >"$3/bin/python" && chmod +x "$3/bin/python" ;;
    "-m pip") exit {pip_exit} ;;
    "-m crm_assets.cli") echo "PYTHONPATH=$PYTHONPATH" >>"{log}" ;;
esac
"""


class Project:
    """A folder with the wrapper and a lock, and a PATH with one fake Python."""

    def __init__(self, folder: Path, version: str = "3.11.9", pip_exit: int = 0) -> None:
        self.root = folder / "project"
        self.tools = folder / "bin"
        self.log = folder / "calls"
        self.root.mkdir(parents=True)
        self.tools.mkdir()
        shutil.copy(ROOT / "crm", self.root / "crm")
        (self.root / "requirements.lock").write_text("nothing==1.0 --hash=sha256:00\n")
        for tool in (*TOOLS, "chmod"):
            found = shutil.which(tool)
            assert found is not None
            (self.tools / tool).symlink_to(found)
        self.python(version, pip_exit)

    def python(self, version: str, pip_exit: int = 0) -> None:
        """The Python that PATH leads to."""
        too_old = int(tuple(map(int, version.split("."))) < (3, 11))
        path = self.tools / "python3"
        path.write_text(FAKE_PYTHON.format(log=self.log, version=version, too_old=too_old, pip_exit=pip_exit))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`./crm ARGUMENTS` in an environment that holds nothing else."""
        return subprocess.run(
            [SHELL, str(self.root / "crm"), *arguments],
            env={"PATH": str(self.tools), **variables},
            capture_output=True,
            text=True,
            timeout=30,
        )

    def calls(self) -> list[str]:
        """What was asked of the Pythons, with the project's folder left out; forgets it."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [line.replace(f"{self.root}/", "").replace(f"{self.tools}/", "") for line in lines]

    def installs(self) -> int:
        """How many installations there were since the calls were last read."""
        return sum(" -m pip " in call and " install " in call for call in self.calls())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_the_wrapper_is_plain_shell() -> None:
    assert (ROOT / "crm").read_text().startswith("#!/bin/sh\n")
    assert os.access(ROOT / "crm", os.X_OK)
    checked = subprocess.run([SHELL, "-n", str(ROOT / "crm")], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_an_older_python_gets_a_sentence(tmp_path: Path) -> None:
    done = Project(tmp_path, version="3.9.2").run("up")
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("crm: Python 3.11 or newer is needed; found: Python 3.9.2.")
    assert "CRM_PYTHON=" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_python_at_all_gets_the_same_sentence(project: Project) -> None:
    (project.tools / "python3").unlink()
    done = project.run("up")
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed; found: none." in done.stderr


def test_nothing_is_left_behind_when_there_is_no_python(tmp_path: Path) -> None:
    project = Project(tmp_path, version="3.10.14")
    project.run("up")
    assert sorted(path.name for path in project.root.iterdir()) == ["crm", "requirements.lock"]


def test_the_first_call_installs_the_lock_and_hands_the_arguments_over(project: Project) -> None:
    done = project.run("tenant", "add", "a name with spaces")
    assert done.returncode == 0, done.stderr
    calls = project.calls()
    (install,) = (call for call in calls if " -m pip " in call)
    assert install.startswith(".venv/bin/python -m pip install ")
    assert "--require-hashes -r requirements.lock" in install
    assert ".venv/bin/python -m crm_assets.cli tenant add a name with spaces" in calls
    assert calls[-1] == f"PYTHONPATH={project.root}"


def test_a_current_venv_is_used_as_it_is(project: Project) -> None:
    project.run("up")
    project.calls()
    assert project.run("status").returncode == 0
    # Not even the system's Python is asked for.
    assert project.calls()[:-1] == [".venv/bin/python -m crm_assets.cli status"]


def test_changed_requirements_are_installed_once(project: Project) -> None:
    project.run("up")
    with (project.root / "requirements.lock").open("a") as lock:
        lock.write("more==2.0 --hash=sha256:11\n")
    project.calls()
    project.run("up")
    assert project.installs() == 1
    project.run("up")
    assert project.installs() == 0


def test_an_installation_that_failed_is_done_again(tmp_path: Path) -> None:
    project = Project(tmp_path, pip_exit=1)
    assert project.run("up").returncode != 0
    assert not any("crm_assets.cli" in call for call in project.calls())
    project.python("3.11.9")
    assert project.run("up").returncode == 0
    assert project.installs() == 1


def test_a_lock_whose_owner_was_killed_is_taken_over(project: Project) -> None:
    ended = subprocess.Popen([SHELL, "-c", ":"])
    ended.wait()
    mutex = project.root / ".venv.lock"
    mutex.symlink_to(str(ended.pid))
    assert project.run("up").returncode == 0
    assert not mutex.is_symlink()


def test_crm_python_is_preferred(project: Project, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text((project.tools / "python3").read_text())
    mine.chmod(0o755)
    project.run("up", CRM_PYTHON=str(mine))
    assert f"{mine} -m venv .venv" in project.calls()
