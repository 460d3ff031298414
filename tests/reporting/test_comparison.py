"""The report of several runs: what differs, what came of it, their curves together; report.json."""

import json
import re
from pathlib import Path

import pytest

from report_helpers import ATTACK, train_row, val_row, write_full_run, write_run
from smalllm.api import report
from smalllm.config import ModelConfig, OptimConfig, RunConfig
from smalllm.recipes import save_config
from smalllm.reporting.facts import read_facts
from smalllm.reporting.tables import comparison, differences
from smalllm.rundir import RunDir, read_json

DOCUMENTED = Path(__file__).parents[2] / "docs/formats.md"


def write_pair(path: Path) -> list[RunDir]:
    """A full run, and one that still trains, with another rate and shape."""
    first = write_full_run(path, "first")
    second = write_run(path / "second", [train_row(s) for s in range(1, 31)] + [val_row(30, loss=1.5)])
    save_config(RunConfig(optim=OptimConfig(lr=3e-4), model=ModelConfig(n_layers=3)), second.config)
    return [first, second]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[RunDir]:
    return write_pair(tmp_path_factory.mktemp("pair"))


def row_of(page: str, name: str) -> list[str]:
    found = re.search(rf"<th scope=row>{name}</th>(.*?)</tr>", page)
    assert found, name
    return re.findall(r"<td[^>]*>(.*?)</td>", found[1])


def test_only_what_differs_is_compared(pair: list[RunDir]) -> None:
    facts = [read_facts(run) for run in pair]
    found = differences(facts)
    assert found["optim.lr"] == [0.00123, 3e-4] and found["model.n_layers"] == [2, 3]
    assert "optim.beta1" not in found and "train.seed" not in found
    assert differences([facts[0], facts[0]]) == {}


def test_what_a_run_does_not_say_has_its_default(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, []) for name in "ab"]
    runs[0].config.write_text("[optim]\nbeta1 = 0.9\n")
    runs[1].config.write_text("[optim]\nlr = 7.0\n")
    assert list(differences([read_facts(run) for run in runs])) == ["optim.lr"]


def test_results_stand_side_by_side_and_the_best_is_bold(pair: list[RunDir]) -> None:
    page = comparison([read_facts(run) for run in pair])
    assert row_of(page, "Loss") == ["2.05", "1.50"] and row_of(page, "Parameters") == ["2.40M", "–"]
    assert "<td class=best>1.50</td>" in page and page.count("class=best") == page.count("<td class=best>")
    assert row_of(page, "hellaswag, acc") == ["0.285 ± 0.0320", "–"]
    assert "Not finished, with the numbers so far: second." in page


def test_the_page_and_its_twin_go_where_they_are_sent(pair: list[RunDir], tmp_path: Path) -> None:
    out = tmp_path / "deep/er"
    assert report(*(run.path for run in pair), out=out) == out / "report.html"
    assert sorted(path.name for path in out.rglob("*.*")) == [
        "bits_per_byte.png", "loss.png", "report.html", "report.json",
    ]  # fmt: skip
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<h1>2 runs</h1>" in page and "<summary>second</summary>" in page
    assert page.count("<script") == 2 and "<img" not in page
    assert not (pair[1].path / "report.html").exists()


def test_samples_of_one_prompt_stand_side_by_side(pair: list[RunDir], tmp_path: Path) -> None:
    report(pair[0].path, out=tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    (texts,) = re.findall(r"<div class=texts tabindex=0>.*?</blockquote></div></div>", page, flags=re.DOTALL)
    assert re.findall(r"after (\d+) steps", texts) == ["100", "50"]


def test_two_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [write_full_run(folder, "run") for folder in (tmp_path / "a", tmp_path / "b") if not folder.mkdir()]
    report(*(run.path for run in runs), out=tmp_path)
    assert [run["name"] for run in read_json(tmp_path / "report.json")["runs"]] == [str(run.path) for run in runs]


def test_names_longer_than_the_picture_leave_room_for_the_curves(tmp_path: Path) -> None:
    for folder in (tmp_path / ("a" * 120), tmp_path / ("b" * 120)):
        folder.mkdir()
    runs = [write_full_run(tmp_path / (letter * 120), "run") for letter in "ab"]
    report(*(run.path for run in runs), out=tmp_path)  # a warning of matplotlib would be an error
    assert (tmp_path / "plots" / "loss.png").stat().st_size > 10_000


def documented_keys(title: str) -> set[str]:
    table = DOCUMENTED.read_text(encoding="utf-8").split(f"| {title} |")[1].split("\n\n")[0]
    return set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?`) \|", table, flags=re.MULTILINE))))


def test_the_twin_says_what_is_documented(pair: list[RunDir], tmp_path: Path) -> None:
    (pair[1].path / "result.json").write_text('{"val": {"loss": NaN}}')
    report(*(run.path for run in pair), out=tmp_path)
    (pair[1].path / "result.json").unlink()
    twin = json.loads((tmp_path / "report.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert set(twin) == documented_keys("key in report.json")
    first, second = twin["runs"]
    assert set(first) == set(second) == documented_keys("key in report.json runs")
    assert second["result"] == {"val": {"loss": None}}
    assert first["result"]["val"]["bits_per_byte"] == 0.6834 and first["samples"][0]["prompt"] == ATTACK
    assert first["events"] == [{"step": 60, "tokens": 61_440, "elapsed_s": None, "event": f"update refused: {ATTACK}"}]
    assert first["commands"]["Repeat it from the start"].startswith("smalllm train ")
