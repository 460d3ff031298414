"""What `quickstart` takes a run directory for."""

from pathlib import Path

import pytest

from smalllm import cli
from smalllm.api.quickstart import check_minutes
from smalllm.errors import RunError
from smalllm.recipes import load_recipe, override, save_config


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def begun(recipe: str, out: str = "run", **changes: object) -> Path:
    """A run directory with the configuration that a run leaves: steps, and no minutes."""
    config = override(load_recipe(recipe), {"train.max_steps": 7, **changes})
    Path(out).mkdir()
    save_config(config, Path(out, "config.toml"))
    return Path(out)


def test_a_run_of_other_minutes_is_not_taken_for_this_one(capsys: pytest.CaptureFixture[str]) -> None:
    begun("stories", "my run", **{"data.stories": 60_000})
    assert cli.main(["quickstart", "--minutes", "20", "--out", "my run"]) == 1
    said = capsys.readouterr().err
    assert "my run: holds a run on 60,000 stories; 20 minutes take 400,000 stories. For a run of them:" in said
    assert "smalllm quickstart --minutes 20 --out 'my run-20'" in said and not Path("data").exists()


def test_another_run_is_not_taken_for_this_one() -> None:
    with pytest.raises(RunError, match=r'run: holds a run of "shakespeare"'):
        check_minutes(begun("shakespeare", **{"data.stories": 60_000}), 3.0)


def test_the_same_command_goes_on() -> None:
    check_minutes(begun("stories", **{"data.stories": 60_000}), 3.0)
    check_minutes(Path("new"), 3.0)
