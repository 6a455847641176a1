"""megas2s.hub: a name that is no folder is a repository of the hub, and only the files that are asked for."""

from __future__ import annotations

import errno
import fnmatch
import http.server
import threading
from pathlib import Path

import huggingface_hub
import pytest

from megas2s import hub
from megas2s.errors import BadConfig, BadData, DiskTrouble
from megas2s.tokenizer.load import Tokenizer


def test_a_folder_that_is_there_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "facebook" / "bart-base").mkdir(parents=True)
    assert hub.folder_of("facebook/bart-base", hub.TOKENIZER) == Path("facebook/bart-base")


def test_a_path_that_is_no_name_is_left_to_whoever_reads_it(tmp_path: Path):
    assert hub.folder_of(str(tmp_path / "nothing"), hub.WEIGHTS) == tmp_path / "nothing"
    assert hub.folder_of("a/b/c", hub.WEIGHTS) == Path("a/b/c")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`repository("a.json", ...)` makes the hub have a repository of these files; gives where they are fetched to."""

    def make(*names: str) -> Path:
        def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
            for file in names:
                if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns):
                    (tmp_path / file).touch()
            return str(tmp_path)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return tmp_path

    return make


def fetched(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_name_is_fetched_without_code_and_without_what_was_not_asked_for(repository):
    folder = repository(
        "config.json", "modeling_x.py", "model.safetensors", "tf_model.h5", "pytorch_model.bin", "a.txt"
    )
    assert hub.folder_of("facebook/bart-base", [*hub.WEIGHTS, *hub.TOKENIZER]) == folder
    assert fetched(folder) == {"config.json", "model.safetensors"}


def test_a_tokenizer_comes_with_what_says_whose_it_is(repository):
    folder = repository("config.json", "tokenizer_config.json", "sentencepiece.bpe.model", "model.safetensors")
    hub.folder_of("FacebookAI/xlm-roberta-base", hub.TOKENIZER)
    assert fetched(folder) == {"config.json", "tokenizer_config.json", "sentencepiece.bpe.model"}


def test_pickled_weights_are_fetched_only_where_there_are_no_others(repository):
    folder = repository("config.json", "model.safetensors", "pytorch_model.bin")
    hub.folder_of("facebook/bart-base", [*hub.WEIGHTS, *hub.PICKLED])
    assert fetched(folder) == {"config.json", "model.safetensors"}
    (folder / "model.safetensors").unlink()
    repository("config.json", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json")
    hub.folder_of("facebook/bart-base", [*hub.WEIGHTS, *hub.PICKLED])
    assert fetched(folder) == {"config.json", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"}


def test_a_repository_of_a_slow_tokenizer_alone_is_told_so(repository):
    folder = repository("config.json", "vocab.json", "merges.txt")
    with pytest.raises(BadData, match=r"has vocab\.json and no tokenizer\.json; load the tokenizer with transformers"):
        Tokenizer.load(hub.folder_of("facebook/old", hub.TOKENIZER))
    for name in fetched(folder):
        (folder / name).unlink()
    repository("config.json", "vocab.json", "merges.txt", "tokenizer.json")
    hub.folder_of("facebook/new", hub.TOKENIZER)
    assert fetched(folder) == {"config.json", "tokenizer.json"}


def test_without_a_network_a_name_is_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BadConfig, match="there is no folder no/such-model, and the hub gave no repository") as caught:
        hub.folder_of("no/such-model", hub.TOKENIZER)
    assert "\n" not in str(caught.value)


class Refusing(http.server.BaseHTTPRequestHandler):
    """A proxy that lets no one through."""

    def do_CONNECT(self) -> None:
        self.send_error(403)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def refusing_proxy():
    server = http.server.HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


NO_PROXY = dict.fromkeys(("ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"), "")


def test_a_proxy_that_refuses_is_one_sentence_and_no_traceback(script, refusing_proxy, tmp_path: Path):
    online = {**NO_PROXY, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "https://hub.invalid", "HF_HOME": str(tmp_path)}
    env = {**online, "HTTPS_PROXY": refusing_proxy, "https_proxy": refusing_proxy}
    done = script("tools/convert_from_hf.py", "no/such-model", tmp_path / "out", env=env)
    assert done.returncode == BadConfig.exit_code
    assert (
        "error: there is no folder no/such-model, and the hub gave no repository of that name (ProxyError"
        in done.stdout
    )
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    "error", [TimeoutError(), RuntimeError("the connection broke\nhalfway. More."), ImportError("x")]
)
def test_whatever_the_network_raises_is_one_sentence(monkeypatch: pytest.MonkeyPatch, error: Exception):
    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(BadConfig, match=rf"there is no folder a/b, .*\({type(error).__name__}[^\n]*\); name a folder"):
        hub.folder_of("a/b", hub.TOKENIZER)


def test_a_full_disk_is_trouble_of_the_disk(monkeypatch: pytest.MonkeyPatch):
    def snapshot_download(name: str, *, allow_patterns: list[str]) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(DiskTrouble, match=r"no room to write .*hub: No space left on device; free some space"):
        hub.folder_of("a/b", hub.TOKENIZER)
