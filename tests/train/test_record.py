from megas2s import files
from megas2s.train import record


def test_secrets_do_not_reach_the_record():
    environment = {
        "HF_TOKEN": "hf_abc",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "DB_PASSWORD": "pw",
        "PROXY": "http://user:pass@proxy:8080/",
        "HOME": "/home/me",
    }
    kept = record.redacted(environment)
    assert kept["HOME"] == "/home/me"
    assert kept["PROXY"] == "http://(redacted)@proxy:8080/"
    assert not any(secret in " ".join(kept.values()) for secret in ("hf_abc", "s3cret", "pw", "user", "pass@"))


def test_every_launch_is_added_to_the_record(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "visible")
    record.append(tmp_path, seed=3)
    record.append(tmp_path, seed=3)
    launches = files.read_json(tmp_path / "run.json")
    assert len(launches) == 2
    assert launches[0]["seed"] == 3
    assert launches[0]["packages"]["torch"].startswith("2.")
    assert "visible" not in (tmp_path / "run.json").read_text()
