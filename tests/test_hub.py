"""megas2s.hub: a name that is no folder is a repository of the hub, and only the files that are asked for."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest

from megas2s import hub
from megas2s.errors import BadConfig


def test_a_folder_that_is_there_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "facebook" / "bart-base").mkdir(parents=True)
    assert hub.folder_of("facebook/bart-base", hub.TOKENIZER) == Path("facebook/bart-base")


def test_a_path_that_is_no_name_is_left_to_whoever_reads_it(tmp_path: Path):
    assert hub.folder_of(str(tmp_path / "nothing"), hub.WEIGHTS) == tmp_path / "nothing"
    assert hub.folder_of("a/b/c", hub.WEIGHTS) == Path("a/b/c")


def test_a_name_is_fetched_without_code_and_without_what_was_not_asked_for(tmp_path: Path, monkeypatch):
    asked = {}

    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        asked[name] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert hub.folder_of("facebook/bart-base", [*hub.WEIGHTS, *hub.TOKENIZER]) == tmp_path
    assert "pytorch_model*.bin" not in asked["facebook/bart-base"]
    assert not [pattern for pattern in asked["facebook/bart-base"] if pattern.endswith((".py", "*"))]


def test_a_tokenizer_comes_with_what_says_whose_it_is(tmp_path: Path, monkeypatch):
    asked = []

    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    hub.folder_of("FacebookAI/xlm-roberta-base", hub.TOKENIZER)
    assert {"tokenizer_config.json", "config.json", "*.model"} < set(asked)


def test_without_a_network_a_name_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadConfig, match="there is no folder no/such-model, and the hub gave no repository") as caught:
        hub.folder_of("no/such-model", hub.TOKENIZER)
    assert "\n" not in str(caught.value)
