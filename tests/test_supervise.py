"""A launch through launch/supervise.py: what hosts cannot be is refused before deepspeed could fall back to one."""

from __future__ import annotations

import pytest


@pytest.fixture
def supervise(script, write_recipe, make_recipe, tmp_path):
    """Call it for a recipe and a hostfile of these lines; None writes no file."""
    path = write_recipe(make_recipe(tmp_path / "run"))

    def call(lines, *arguments):
        hosts = tmp_path / "hosts"
        if lines is not None:
            hosts.write_text(lines)
        return script("launch/supervise.py", path, "--hostfile", hosts, *arguments)

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
    ],
)
def test_nothing_is_started_where_hosts_and_recipe_do_not_fit(supervise, tmp_path, lines, override, sentence):
    done = supervise(lines, override)
    assert done.returncode == 2
    assert sentence in done.stdout
    assert done.stdout.count("\n") == 1
    assert not (tmp_path / "run").exists()
