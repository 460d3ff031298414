"""One run, and one server of it, for all tests that leave it as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving_helpers import Running, running, train_tiny
from smalllm import load_run
from smalllm.run import Run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="session")
def loaded(tiny_run: Path) -> Run:
    return load_run(tiny_run, precision="fp32")


@pytest.fixture(scope="session")
def web(tiny_run: Path) -> Iterator[Running]:
    with running([tiny_run]) as server:
        yield server
