"""What a resume makes of a configuration that was resolved for other processes."""

from dataclasses import replace
from pathlib import Path

import pytest

from smalllm.api.together import fit_to_ranks
from smalllm.config import ModelConfig, RunConfig, TrainConfig
from smalllm.rundir import RunDir, write_json
from smalllm.training.distributed import Ranks

CONFIG = RunConfig(
    model=ModelConfig(context_length=64),
    train=TrainConfig(tokens_per_step=8 * 64, micro_batch_size=4, threads=1, tensor_parallel=2),
)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path)
    write_json(run.environment, {"processes": 4})
    return run


def test_another_division_among_as_many_processes_has_another_micro_batch(run: RunDir) -> None:
    """8 windows a step: 4 for each of 2 data ranks, 2 for each of 4."""
    config, notices = fit_to_ranks(run, CONFIG, Ranks(n=4), stored=True, changes={})
    assert (config, notices) == (CONFIG, [])
    divided = replace(CONFIG, train=replace(CONFIG.train, tensor_parallel=1))
    config, notices = fit_to_ranks(run, divided, Ranks(n=4), stored=True, changes={"train.tensor_parallel": 1})
    assert config.train == replace(divided.train, micro_batch_size=2)
    assert len(notices) == 1 and "from 4 to 2 sequences at a time" in notices[0]


def test_other_processes_have_another_micro_batch_and_threads(run: RunDir) -> None:
    config, (notice,) = fit_to_ranks(run, CONFIG, Ranks(n=16), stored=True, changes={})
    assert (config.train.micro_batch_size, config.train.threads) == (1, None)
    assert "was trained by 4 processes and goes on with 16 processes" in notice


def test_a_new_run_is_left_alone(run: RunDir) -> None:
    assert fit_to_ranks(run, CONFIG, Ranks(n=16), stored=False, changes={}) == (CONFIG, [])
