"""The files for Slurm and Kubernetes: of the right form, and what they run is a launch that works."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

ROOT = Path(__file__).resolve().parents[1]
SBATCH = ROOT / "launch" / "slurm.sbatch"
K8S = ROOT / "launch" / "k8s.yaml"
OPTIONS = {"job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "exclusive", "time", "requeue"}
OPTIONS |= {"open-mode", "output"}
SRUN = """#!/bin/sh
[ "$SRUN_CPUS_PER_TASK" = 6 ] || { echo "a task would have one core"; exit 1; }
while [ "${1#--}" != "$1" ]; do shift; done
for rank in 0 1; do SLURM_PROCID=$rank SLURM_NTASKS=2 SLURM_LOCALID=$rank "$@" --dry-run || exit $?; done
"""
SCONTROL = "#!/bin/sh\necho node-a\necho node-b\n"
PYTHON = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
MPIRUN = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do
  case "$1" in
    -x) export "$2"; shift 2 ;;
    -n | --bind-to) shift 2 ;;
    --allow-run-as-root) shift ;;
    *) echo "unknown option $1"; exit 1 ;;
  esac
done
exec "$@" --dry-run
"""


@pytest.fixture
def commands(tmp_path: Path) -> Path:
    """Stand-ins for what a cluster has, first on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("mpirun", MPIRUN), ("python", PYTHON)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def recipe(recipe_data: dict, write_recipe) -> Path:
    """One that sixteen ranks can share."""
    recipe_data["stages"] = [{**stage, "batch_tokens": 2048} for stage in recipe_data["stages"]]
    return write_recipe(recipe_data)


def test_the_batch_script_asks_for_what_slurm_knows():
    lines = SBATCH.read_text(encoding="utf-8").splitlines()
    asked = [re.fullmatch(r"#SBATCH --([a-z-]+)(=\S+)?", line) for line in lines if line.startswith("#SBATCH")]
    assert asked
    assert None not in asked
    assert {found[1] for found in asked} <= OPTIONS
    tail = lines[next(n for n, line in enumerate(lines) if not line.startswith("#")) :]
    assert not [line for line in tail if line.startswith("#SBATCH")]  # Slurm reads none below the first command


def test_the_batch_script_launches_every_task(shell, commands: Path, recipe: Path):
    environment = {"PATH": f"{commands}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "4711"}
    environment |= {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_CPUS_PER_TASK": "6"}
    done = shell(["bash", str(SBATCH), str(recipe)], timeout=120, env=environment)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("stage mlm: mlm, 4 steps of 32 rows") == 1  # both tasks check, one speaks


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Container(Strict):
    name: str
    image: str
    workingDir: str
    command: list[str] = Field(default_factory=list)
    resources: Mapping[str, Any] = Field(default_factory=dict)
    volumeMounts: list[Mapping[str, str]]


class PodSpec(Strict):
    restartPolicy: Literal["Never", "OnFailure", "Always"] = "Never"
    containers: list[Container]
    volumes: list[Mapping[str, Any]]


class Template(Strict):
    spec: PodSpec


class Replica(Strict):
    replicas: int
    template: Template


class Replicas(Strict):
    Launcher: Replica
    Worker: Replica


class RunPolicy(Strict):
    cleanPodPolicy: Literal["None", "Running", "All"]
    backoffLimit: int


class JobSpec(Strict):
    slotsPerWorker: int
    mpiImplementation: Literal["OpenMPI", "Intel", "MPICH"]
    runPolicy: RunPolicy
    mpiReplicaSpecs: Replicas


class MPIJob(Strict):
    """The fields of the MPI Operator's v2beta1 that the file uses."""

    apiVersion: Literal["kubeflow.org/v2beta1"]
    kind: Literal["MPIJob"]
    metadata: Mapping[str, str]
    spec: JobSpec


@pytest.fixture
def job() -> MPIJob:
    return MPIJob.model_validate(yaml.safe_load(K8S.read_text(encoding="utf-8")))


def test_the_job_is_of_the_operator_s_form_and_its_numbers_agree(job: MPIJob):
    roles = job.spec.mpiReplicaSpecs
    (launcher,), (worker,) = (role.template.spec.containers for role in (roles.Launcher, roles.Worker))
    ranks = job.spec.slotsPerWorker * roles.Worker.replicas
    assert launcher.command[launcher.command.index("-n") + 1] == str(ranks)
    assert f"ranks={ranks}" in launcher.command
    assert worker.resources["limits"]["nvidia.com/gpu"] == job.spec.slotsPerWorker
    assert f"MASTER_ADDR={job.metadata['name']}-worker-0.{job.metadata['name']}" in launcher.command
    for role, container in ((roles.Launcher, launcher), (roles.Worker, worker)):
        volumes = {volume["name"] for volume in role.template.spec.volumes}
        assert {mount["name"] for mount in container.volumeMounts} == volumes


def test_the_job_s_command_launches(shell, commands: Path, recipe: Path, job: MPIJob):
    (launcher,) = job.spec.mpiReplicaSpecs.Launcher.template.spec.containers
    command = [str(recipe) if word.startswith("launch/recipes/") else word for word in launcher.command]
    environment = {"PATH": f"{commands}:/usr/bin:/bin"}
    place = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "16", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
    done = shell([str(commands / "mpirun"), *command[1:]], timeout=120, env=environment | place)
    assert done.returncode == 0, done.stdout
    assert "stage seq2seq: denoising, 4 steps of 32 rows" in done.stdout


def test_the_batch_script_is_a_shell_script():
    assert subprocess.run(["bash", "-n", SBATCH], check=False).returncode == 0
