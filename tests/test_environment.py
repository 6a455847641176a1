"""launch/environment.sh: an installation counts as done when it was done."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACES = ("MEGAS2S_VENV", "TORCH_EXTENSIONS_DIR")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What environment.sh reads, and an environment whose pip writes down its calls and ends with what `code` says."""
    (tmp_path / "launch").mkdir()
    shutil.copy(ROOT / "launch" / "environment.sh", tmp_path / "launch")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    scripts = tmp_path / ".venv" / "bin"
    scripts.mkdir(parents=True)
    (scripts / "activate").write_text(f'VIRTUAL_ENV="{scripts.parent}"\nPATH="{scripts}:$PATH"\n')
    executable(scripts / "pip", f'echo "$@" >> "{tmp_path}/calls"\nexit $(cat "{tmp_path}/code")\n')
    return tmp_path


def executable(path: Path, commands: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{commands}")
    path.chmod(0o755)


def source(checkout: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """A script that needs the environment, and says so when it has it."""
    around = {name: value for name, value in os.environ.items() if name != "MEGAS2S_VENV"}
    return subprocess.run(
        ["bash", "-euc", ". launch/environment.sh; echo goes on"],
        cwd=checkout,
        env=around | settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def installed(checkout: Path, *, code: int) -> tuple[int, bool, int]:
    """(exit code, whether the script went on, calls of pip so far) where pip ends with `code`."""
    (checkout / "code").write_text(str(code))
    result = source(checkout)
    return result.returncode, "goes on" in result.stdout, len((checkout / "calls").read_text().splitlines())


def test_a_failed_installation_stops_the_caller_and_is_tried_again(checkout: Path):
    assert installed(checkout, code=1) == (1, False, 1)
    assert installed(checkout, code=1) == (1, False, 2)


def test_an_environment_that_was_never_finished_is_made_again(checkout: Path):
    (checkout / ".venv" / "bin" / "activate").unlink()
    maker = f'mkdir -p "$3/bin" && echo PATH="{checkout}/.venv/bin:$PATH" > "$3/bin/activate"\n'
    executable(checkout / "maker" / "python3", f'case "$1 $2" in "-m venv") {maker};; esac\n')
    (checkout / "code").write_text("0")
    result = source(checkout, PATH=f"{checkout}/maker:{os.environ['PATH']}")
    assert "making the environment in .venv" in result.stdout
    assert "goes on" in result.stdout


def test_a_finished_installation_is_taken_as_it_is_until_pyproject_changes(checkout: Path):
    assert installed(checkout, code=0) == (0, True, 2)
    assert installed(checkout, code=0) == (0, True, 2)
    with (checkout / "pyproject.toml").open("a") as project:
        project.write("\n# changed\n")
    assert installed(checkout, code=0) == (0, True, 4)


def test_an_active_environment_without_the_package_is_refused(checkout: Path):
    executable(checkout / ".venv" / "bin" / "python", "exit 1\n")
    result = source(checkout, MEGAS2S_VENV="active", PATH=f"{checkout}/.venv/bin:{os.environ['PATH']}")
    assert result.returncode == 2
    assert "error: megas2s is not installed in the active environment" in result.stderr
    assert "goes on" not in result.stdout


def test_each_environment_compiles_into_a_folder_of_its_own_unless_told_where(checkout: Path):
    (checkout / "code").write_text("0")
    script = ". launch/environment.sh; echo $TORCH_EXTENSIONS_DIR"
    for given, expected in ((None, str(checkout / ".venv" / "torch_extensions")), ("elsewhere", "elsewhere")):
        around = {name: value for name, value in os.environ.items() if name not in PLACES}
        around |= {} if given is None else {"TORCH_EXTENSIONS_DIR": given}
        done = subprocess.run(
            ["bash", "-euc", script], cwd=checkout, env=around, capture_output=True, text=True, timeout=60
        )
        assert done.stdout.strip() == expected, done.stderr
