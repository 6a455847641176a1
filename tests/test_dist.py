import pytest
import torch

from megas2s import dist


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1, 0)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (3, 8, 1)),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}, (2, 4, 0)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "1"}, (5, 6, 1)),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "SLURM_PROCID": "7", "SLURM_NTASKS": "9"}, (0, 2, 0)),
    ],
)
def test_ranks_come_from_whichever_launcher_left_them(environment, expected):
    assert dist.place(environment) == expected


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (
            RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 15000ms for recv operation"),
            True,
        ),
        (RuntimeError("Application timeout caused pair closure"), True),
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("/gloo/"), False),
    ],
)
def test_a_rank_that_does_not_answer_is_told_from_other_trouble(error, lost):
    assert dist.lost_rank(error) is lost
