import logging
import platform
from pathlib import Path

import pytest
import torch

from megas2s import files
from megas2s.errors import BadCheckpoint, DiskTrouble
from megas2s.train import record


@pytest.fixture
def loggers():
    """Give the project's logger back as it was."""
    log = logging.getLogger("megas2s")
    handlers, propagate = log.handlers[:], log.propagate
    yield log
    log.handlers, log.propagate = handlers, propagate


def test_secrets_do_not_reach_the_record():
    environment = {
        "HF_TOKEN": "hf_abc",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "DB_PASSWORD": "pw",
        "MYSQL_PWD": "pw",
        "GITHUB_PAT": "ghp_abc",
        "PROXY": "http://user:pass@proxy:8080/",
        "ODD_PROXY": "http://user:pass@word@proxy/",
        "PIP_INDEX_URL": "https://ghp_abc@host/simple",
        "HOME": "/home/me",
        "PWD": "/home/me",
        "PATH": "/bin",
        "URL": "https://host/@me",
    }
    kept = record.redacted(environment)
    assert {kept["HOME"], kept["PWD"]} == {"/home/me"}
    assert (kept["PATH"], kept["URL"]) == ("/bin", "https://host/@me")
    assert kept["PROXY"] == "http://(redacted)@proxy:8080/"
    assert kept["PIP_INDEX_URL"] == "https://(redacted)@host/simple"
    secrets = ("hf_abc", "s3cret", "pw", "user", "pass@", "word@", "ghp_abc")
    assert not any(secret in " ".join(kept.values()) for secret in secrets)


def test_every_launch_is_added_to_the_record(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "visible")
    record.append(tmp_path, 3, ["here"])
    record.append(tmp_path, 3, ["here"])
    launches = files.read_json(tmp_path / "run.json")
    assert len(launches) == 2
    assert launches[0]["seed"] == 3
    assert launches[0]["packages"]["torch"].startswith("2.")
    assert "visible" not in (tmp_path / "run.json").read_text()


def test_ranks_are_compared_by_their_python_torch_and_deepspeed():
    assert record.versions().startswith(f"Python {platform.python_version()}, torch {torch.__version__}, deepspeed 0.")


def test_a_damaged_record_is_named_before_another_launch_is_added(tmp_path):
    (tmp_path / "run.json").write_text('[{"git":')
    with pytest.raises(BadCheckpoint, match=r"run\.json is damaged; restore it from a copy, or remove it"):
        record.append(tmp_path, 1, ["here"])
    assert (tmp_path / "run.json").read_text() == '[{"git":'


def test_a_rank_writes_its_own_log(tmp_path, loggers, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "3")
    record.log_to(tmp_path)
    loggers.info("one line")
    assert "one line" in (tmp_path / "logs" / "rank_3.log").read_text()
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_that_cannot_be_written_is_a_sentence_and_no_traceback(tmp_path, loggers, capsys):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "rank_0.log").symlink_to("/dev/full")
    record.log_to(tmp_path)
    with pytest.raises(DiskTrouble, match=r"no room to write .*rank_0\.log"):
        loggers.info("one line")
    assert capsys.readouterr().err == ""
