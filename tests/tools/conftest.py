"""What the tests of more than one tool call."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def call(monkeypatch, capsys):
    """Call a tool's `main` with arguments, in this process; gives what it printed."""

    def run_main(tool, *arguments):
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        runpy.run_path(str(ROOT / tool))["main"]()
        return capsys.readouterr().out

    return run_main
