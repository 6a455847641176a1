"""Hostfiles: what is read, and which line is refused for what."""

from __future__ import annotations

from pathlib import Path

import pytest

from megas2s.errors import BadConfig
from megas2s.hosts import Host, read_hosts


def test_comments_blank_lines_and_line_ends_of_windows_are_fine(tmp_path: Path):
    path = tmp_path / "hosts"
    path.write_bytes(b"# two hosts\r\n\r\n127.0.0.1   slots=8\r\nlocalhost\tslots=4 # the other\r\n")
    assert read_hosts(path) == [Host("127.0.0.1", 8), Host("localhost", 4)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("127.0.0.1 slots=2\nno-such-host.invalid slots=2\n", "line 2: host no-such-host.invalid is unknown here"),
        ("127.0.0.1 slots=2\n\n127.0.0.1 slots=2\n", "line 3: host 127.0.0.1 is named a second time"),
        ("127.0.0.1 slots=0\n", "line 1: host 127.0.0.1 has slots=0; give it the number of its GPUs, at least 1"),
        ("127.0.0.1 slots=two\n", "line 1: host 127.0.0.1 has slots=two"),
        ("127.0.0.1 slots=²\n", "line 1: host 127.0.0.1 has slots=²"),
        ("127.0.0.1 slots=٣\n", "line 1: host 127.0.0.1 has slots=٣"),
        ("127.0.0.1\n", "line 1: '127.0.0.1' is not of the form NAME slots=8"),
        ("# nobody\n", "names no host; write one line per host"),
        ("\ufeff127.0.0.1 slots=2\n", "line 1 begins with a byte order mark, .* save the file as UTF-8 without one"),
        ("\ufeff# all hosts\n127.0.0.1 slots=2\n", "line 1 begins with a byte order mark"),
    ],
)
def test_a_line_that_cannot_be_is_named(tmp_path: Path, text: str, said: str):
    path = tmp_path / "hosts"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadConfig, match=said):
        read_hosts(path)


def test_no_file_is_never_this_machine(tmp_path: Path):
    with pytest.raises(BadConfig, match=r"no hostfile at .*; deepspeed would run on this machine alone"):
        read_hosts(tmp_path / "hosts")
    with pytest.raises(BadConfig, match="cannot be read"):
        read_hosts(tmp_path)
