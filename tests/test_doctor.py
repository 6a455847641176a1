"""What the doctor says of hosts: one line of advice for each thing that is wrong, and none where all is well."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import pytest

from megas2s import doctor, probe
from megas2s.doctor import Asking, judge
from megas2s.errors import BadConfig
from megas2s.hosts import Host

from .processes import free_port

HOSTS = [Host("alpha", 8), Host("beta", 8)]
WELL = {
    "name": "node",
    "python": "3.11.7",
    "torch": "2.13.0",
    "deepspeed": "0.19.8",
    "transformers": "5.23.0",
    "megas2s": "0.1.0",
    "revision": "0123456-dirty",
    "code": "dddd",
    "gpus": ["NVIDIA H100"] * 8,
    "driver": "550.54",
    "compiler": ["g++", "ninja"],
    "disk": 1 << 40,
    "shared_memory": 64 << 30,
    "interface": "eth0 10.0.0.1",
    "reaches": "reached",
    "recipe": "aaaa",
    "corpus": "bbbb",
}


def advice(late: float = 0.0, needed: int | None = 100 << 30, **of_beta: object) -> list[str]:
    facts = {"alpha": WELL | {"name": "node-a"}, "beta": WELL | {"name": "node-b"} | of_beta}
    found = judge(HOSTS, facts, late={"alpha": 0.0, "beta": late}, needed=needed)
    return [f"{one.host}: {one.check}: {one.advice}" for one in found if one.advice]


def test_hosts_that_are_well_get_no_advice():
    assert advice() == []
    assert advice(needed=None, disk=0) == []  # without a corpus nobody knows what is needed


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"torch": "2.11.0"}, "beta: torch: alpha has 2.13.0; install the same version on every host"),
        ({"driver": "535.1"}, "beta: driver: alpha has 550.54; install the same GPU driver on every host"),
        ({"code": "cccc"}, "beta: code: alpha has dddd; check out one revision on every host, or copy the project"),
        ({"recipe": "cccc"}, "beta: recipe: alpha has aaaa; let every host see the same recipe, and pass the same"),
        ({"corpus": "cccc"}, "beta: corpus: alpha has bbbb; let every host see the same corpus, or copy it again"),
        ({"gpus": ["NVIDIA H100"] * 7}, "beta: GPUs: slots=8 are more; lower them or see to the GPUs"),
        ({"gpus": []}, "beta: GPUs: slots=8 are more; lower them or see to the GPUs"),
        ({"gpus": ["NVIDIA A100"] * 8}, "beta: GPUs: alpha has NVIDIA H100; let all hosts have the same GPUs"),
        ({"name": "node-a"}, "beta: answers: so does alpha; name each machine once, with all its slots"),
        ({"compiler": ["g++"]}, "beta: compiler: DeepSpeed compiles with g++ and ninja; install both"),
        ({"disk": 50 << 30}, "beta: free disk: checkpoints take 100.0 GiB; make room for the run"),
        ({"shared_memory": 64 << 20}, "beta: shared memory: 2.0 GiB are needed in /dev/shm; in a container raise"),
        ({"interface": ""}, "beta: network: no way leads to the first host; see `ip route`"),
        ({"reaches": "port 29500 of alpha: timed out"}, "beta: rendezvous: a firewall may close the port; open it"),
        (
            {"reaches": "port 29500: Address already in use"},
            "beta: rendezvous: another run may hold the port; take another",
        ),
        ({"late": 9.0}, "beta: clock: let the hosts keep time by one server (chrony, NTP)"),
    ],
)
def test_what_is_wrong_with_a_host_is_one_line(found: dict, said: str):
    (line,) = advice(**found)
    assert line.startswith(said)


def test_a_host_that_does_not_answer_is_said_and_not_compared_with():
    facts = {"alpha": {"error": "Connection timed out; let `ssh alpha hostname` work"}, "beta": WELL}
    found = judge(HOSTS, facts, late={"alpha": 0.0, "beta": 0.0}, needed=None)
    assert [one.host for one in found if one.advice] == ["alpha"]
    assert len([one for one in found if one.host == "alpha"]) == 1


def advice_of_both(**changes: object) -> list[str]:
    facts = {host.name: WELL | changes | {"name": host.name} for host in HOSTS}
    found = judge(HOSTS, facts, late=dict.fromkeys(facts, 0.0), needed=None)
    return [f"{one.host}: {one.check}: {one.advice}" for one in found if one.advice]


def test_ranks_on_the_cpu_need_no_gpus():
    assert advice_of_both(gpus=[], driver="none") == []
    assert advice(revision="unknown") == []  # git may be missing there; the code is compared by itself


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"deepspeed": "absent"}, "deepspeed: install the same version on every host"),
        (
            {"corpus": "unreadable: corpora/a is missing"},
            "corpus: let every host see the same corpus, or copy it again",
        ),
        ({"gpus": ["NVIDIA H100"] * 4}, "GPUs: slots=8 are more; lower them or see to the GPUs"),
        (
            {"gpus": []},
            "GPUs: a driver is there, but torch sees no GPU; install torch for CUDA, or see to CUDA_VISIBLE_DEVICES",
        ),
    ],
)
def test_what_is_wrong_with_all_hosts_alike_is_said_of_each(found: dict, said: str):
    assert advice_of_both(**found) == [f"alpha: {said}", f"beta: {said}"]


def test_older_code_that_does_not_know_the_question_is_other_code():
    older = {key: value for key, value in WELL.items() if key not in ("code", "revision")}
    facts = {"alpha": WELL | {"name": "node-a"}, "beta": older | {"name": "node-b"}}
    found = judge(HOSTS, facts, late={"alpha": 0.0, "beta": 0.0}, needed=None)
    assert [(one.host, one.check) for one in found if one.advice] == [("beta", "code")]


def test_one_machine_alone_is_judged_too():
    facts = {"alpha": WELL | {"corpus": "unreadable: corpora/a is missing"}}
    found = judge(HOSTS[:1], facts, late={"alpha": 0.0}, needed=None)
    assert [one.check for one in found if one.advice] == ["corpus"]


def answer(program: str) -> tuple[dict, float]:
    asking = Asking([sys.executable, "-c", f"import json, sys, time\n{program}"], Path.cwd(), 29500, remote=False)
    return doctor._ask(HOSTS[0], HOSTS[0], asking)


def test_a_clock_is_compared_when_it_is_told_and_not_when_all_is_done():
    program = "print('welcome'); print(json.dumps({'time': time.time() + AHEAD}), flush=True); time.sleep(1.2)"
    program += "\nprint(json.dumps({'name': 'alpha'}))"
    facts, late = answer(program.replace("AHEAD", "1"))
    assert facts["name"] == "alpha"
    assert 0.2 < late <= 1
    assert answer(program.replace("AHEAD", "0"))[1] == 0


def test_a_host_that_fails_or_hangs_is_said(monkeypatch: pytest.MonkeyPatch):
    assert answer("sys.exit('no torch')")[0]["error"].startswith("the doctor fails there: no torch; the same folder")
    monkeypatch.setattr(doctor, "ANSWER_SECONDS", 0.5)
    began = time.monotonic()
    assert answer("time.sleep(60)")[0]["error"].startswith("no answer within 0.5 s; try `ssh alpha hostname`")
    asking = Asking([sys.executable, "-c", "import time; time.sleep(60)"], Path.cwd(), 29500, remote=False)
    with doctor._rendezvous(HOSTS[0], asking) as trouble:
        assert trouble == ""
    assert time.monotonic() - began < 20


def test_what_listens_and_does_not_hear_the_end_is_ended(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "END_SECONDS", 0.2)
    program = "import time; print('listening', flush=True); time.sleep(60)"
    began = time.monotonic()
    with doctor._rendezvous(HOSTS[0], Asking([sys.executable, "-c", program], Path.cwd(), 29500, remote=False)):
        pass
    assert time.monotonic() - began < 20


def test_the_code_is_told_apart_by_what_is_in_its_files(tmp_path: Path):
    for name, text in (("alpha", "a = 1"), ("beta", "a = 1"), ("gamma", "a = 2")):
        (tmp_path / name / "megas2s").mkdir(parents=True)
        (tmp_path / name / "megas2s" / "a.py").write_text(text)
    alpha, beta, gamma = (probe.code_digest(tmp_path / name) for name in ("alpha", "beta", "gamma"))
    assert alpha == beta != gamma
    (tmp_path / "beta" / "ds_configs").mkdir()
    (tmp_path / "beta" / "ds_configs" / "zero1.json").write_text("{}")
    assert probe.code_digest(tmp_path / "beta") != alpha


@pytest.mark.parametrize(("said", "driver"), [("echo 550.54", "550.54"), ("echo No devices found; exit 6", "none")])
def test_a_driver_is_one_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, driver: str):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{said}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probe._driver() == driver


def test_a_corpus_that_was_half_copied_is_seen_on_the_host(script, write_recipe, recipe_data, corpus_folder, tmp_path):
    corpus = Path(shutil.copytree(corpus_folder, tmp_path / "corpus"))
    shard = min((corpus / "train").rglob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-1])
    done = script("tools/doctor.py", write_recipe(recipe_data), f"corpus={corpus}", "--json", "--port", free_port())
    findings = json.loads(done.stdout[done.stdout.index("{") :])["findings"]
    (found,) = [one for one in findings if one["check"] == "corpus"]
    assert done.returncode == 2
    assert found["found"].startswith(f"unreadable: {shard}")
    assert found["advice"] == "let every host see the same corpus, or copy it again"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stages.mlm.engine={name: pipe, stages: 4}", "stage 'mlm': 4 pipe stages for 3 units (layers and the head)"),
        ("ranks=2", "the recipe says ranks: 2, but 4 were started"),
    ],
)
def test_no_host_is_asked_where_the_ranks_do_not_suit_the_recipe(
    script, write_recipe, recipe_data, tmp_path, override: str, sentence: str
):
    (tmp_path / "hosts").write_text("127.0.0.1 slots=4\n")
    done = script("tools/doctor.py", write_recipe(recipe_data), "--hostfile", tmp_path / "hosts", override)
    assert done.returncode == 2
    assert done.stdout.startswith("error: ")
    assert sentence in done.stdout


def test_without_ssh_hosts_cannot_be_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadConfig, match="there is no ssh here; install its client"):
        doctor.examine(None, HOSTS, Asking(["doctor"], tmp_path, 29500, remote=True))
