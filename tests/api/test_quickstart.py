"""What `quickstart` takes a run directory for."""

from pathlib import Path

import pytest

from smalllm import cli
from smalllm.api.quickstart import check_minutes
from smalllm.errors import RunError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def begun(minutes: str, out: str = "run") -> Path:
    """A run directory that says so many minutes."""
    Path(out).mkdir()
    Path(out, "config.toml").write_text(f"[train]\n{minutes}\n")
    return Path(out)


def test_a_run_of_other_minutes_is_not_taken_for_this_one(capsys: pytest.CaptureFixture[str]) -> None:
    begun("max_minutes = 3.0", "my run")
    assert cli.main(["quickstart", "--minutes", "20", "--out", "my run"]) == 1
    said = capsys.readouterr().err
    assert "my run: holds a run of 3 minutes, which goes on with --minutes 3. For one of 20 minutes:" in said
    assert "smalllm quickstart --minutes 20 --out 'my run-20'" in said and not Path("data").exists()


def test_another_run_is_not_taken_for_this_one() -> None:
    with pytest.raises(RunError, match=r"run: holds another run\. For one of 2\.5 minutes"):
        check_minutes(begun("max_steps = 7"), 2.5)


def test_the_same_command_goes_on() -> None:
    check_minutes(begun("max_minutes = 2.5"), 2.5)
    check_minutes(Path("new"), 3.0)
