from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `byte_tokenizer`: worker processes inherit it


@pytest.fixture
def inputs(tmp_path):
    """Four files of three languages, with duplicates inside and between them."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name, count in [("de.txt", 40), ("en-1.txt", 60), ("en-2.txt", 50), ("fr.txt", 2)]:
        (folder / name).write_text("".join(f"{name[:2]} text number {number % 45}\n" for number in range(count)))
    return folder
