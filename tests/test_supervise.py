"""A launch through launch/supervise.py: what hosts cannot be is refused before deepspeed could fall back to one."""

from __future__ import annotations

import os

import pytest
from deepspeed.launcher.runner import fetch_hostfile

SSH = "#!/bin/sh\necho 'Permission denied (publickey).' >&2\nexit 255\n"
DEEPSPEED = '#!/bin/sh\necho "deepspeed $*"\n'


@pytest.fixture
def recipe(write_recipe, make_recipe, tmp_path):
    return write_recipe(make_recipe(tmp_path / "run"))


@pytest.fixture
def supervise(script, recipe, tmp_path):
    """Call it for a recipe and a hostfile of these lines, where ssh is turned away; None writes no file."""
    for name, text in (("ssh", SSH), ("deepspeed", DEEPSPEED)):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def call(lines, *arguments):
        hosts = tmp_path / "hosts"
        if lines is not None:
            hosts.write_text(lines)
        return script("launch/supervise.py", recipe, "--hostfile", hosts, *arguments, env=environment)

    return call


def test_a_dry_run_prints_the_command_with_the_ranks_that_were_counted(supervise, tmp_path):
    done = supervise("127.0.0.1 slots=2 # here\n", "--dry-run", "--deepspeed=--launcher openmpi", "seed=3")
    assert done.returncode == 0, done.stdout
    assert f"deepspeed --hostfile {tmp_path / 'hosts'} --launcher openmpi " in done.stdout
    assert "on 2 ranks" in done.stdout
    assert "seed=3 ranks=2" in done.stdout


@pytest.mark.parametrize(
    ("lines", "override", "sentence"),
    [
        (None, "seed=1", "no hostfile at"),
        ("127.0.0.1 slots=0\n", "seed=1", "line 1: host 127.0.0.1 has slots=0"),
        ("127.0.0.1 slots=4\n", "ranks=2", "the recipe says ranks: 2, but 4 were started"),
        ("127.0.0.1 slots=3\n", "seed=1", "are not divisible by 3 ranks"),
        ("127.0.0.1 slots=3\n", "stages.mlm.engine={name: pipe, stages: 2}", "3 ranks do not divide into pipelines"),
        (
            "127.0.0.1 slots=4\n",
            "stages.mlm.engine={name: pipe, stages: 4}",
            "stage 'mlm': 4 pipe stages for 3 units (layers and the head); take fewer stages",
        ),
    ],
)
def test_nothing_is_started_where_hosts_and_recipe_do_not_fit(supervise, tmp_path, lines, override, sentence):
    done = supervise(lines, override)
    assert done.returncode == 2
    assert sentence in done.stdout
    assert done.stdout.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_hosts_are_examined_and_what_fails_is_said_and_not_started(supervise, tmp_path):
    done = supervise("127.0.0.1 slots=2\n")
    assert done.returncode == 2
    assert done.stdout.splitlines() == [
        "error: 127.0.0.1: answers: no; Permission denied (publickey).; let `ssh 127.0.0.1 hostname` work without a "
        "password",
        "error: nothing was started; --unexamined starts all the same",
    ]
    assert not (tmp_path / "run").exists()


def test_hosts_are_not_asked_where_one_says_so(supervise, tmp_path):
    done = supervise("127.0.0.1 slots=2\n", "--unexamined", "seed=3")
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith(f"deepspeed --hostfile {tmp_path / 'hosts'} ")
    assert done.stdout.endswith("seed=3 ranks=2\n")


def test_without_a_hostfile_deepspeed_is_given_one_that_keeps_it_here(script, recipe):
    done = script("launch/supervise.py", recipe, "--dry-run")
    assert done.returncode == 0, done.stdout
    assert f"on this machine alone: deepspeed --hostfile {os.devnull} " in done.stdout
    assert fetch_hostfile(os.devnull) is None  # which is where deepspeed takes the local machine


def test_a_pipeline_that_no_number_of_ranks_can_hold_is_refused_without_a_hostfile_too(script, recipe):
    done = script("launch/supervise.py", recipe, "stages.mlm.engine={name: pipe, stages: 4}")
    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
    assert "4 pipe stages for 3 units" in done.stdout


@pytest.mark.parametrize("flags", ["--hostfile others", "--hostfile=others", "-H others", "-Hothers", "--host others"])
def test_a_hostfile_among_deepspeed_s_flags_is_refused(supervise, flags):
    done = supervise("127.0.0.1 slots=2\n", f"--deepspeed=--launcher openmpi {flags}")
    assert done.returncode == 2
    assert done.stdout == (
        "error: --deepspeed names the hostfile others; give it to --hostfile, which reads it first\n"
    )
