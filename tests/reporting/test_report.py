"""The plots and the page of a run: complete, escaped, offline, repeatable; odd and missing files."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from report_helpers import ATTACK, outside_references, train_row, val_row, write_full_run, write_run
from smalllm.errors import ConfigError, RunError
from smalllm.reporting import write_report
from smalllm.reporting.charts import embedded
from smalllm.reporting.facts import curve, loss_limits, read_facts
from smalllm.reporting.markup import escaped
from smalllm.reporting.plots import write_plots
from smalllm.reporting.texts import samples
from smalllm.rundir import RunDir, write_json

PLOT_NAMES = ["loss", "perplexity", "learning_rate", "grad_norm", "tokens_per_second"]


def data_of(page: str) -> dict[str, Any]:
    """What the page's scripts draw from."""
    found = re.search(r'<script type="application/json" id=data>(.*?)</script>', page, flags=re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def without_scripts(page: str) -> str:
    return re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return write_full_run(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the full run, written once for all tests that only read it."""
    return write_report(write_full_run(tmp_path_factory.mktemp("page"))).read_text(encoding="utf-8")


# --- files --------------------------------------------------------------------------------


def test_all_plots_are_written_as_png(run: RunDir) -> None:
    paths = write_plots(read_facts(run), run.plots)
    assert paths == [run.plots / f"{name}.png" for name in PLOT_NAMES]
    for path in paths:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        assert int.from_bytes(data[16:20], "big") == 1800
    assert sorted(p.name for p in run.plots.iterdir()) == sorted(f"{name}.png" for name in PLOT_NAMES)


@pytest.mark.parametrize(
    "words",
    [
        "0.683",
        "7.77",
        "1.05×",
        "87.4%",
        "2.40M",
        "12 min 5 s",
        "1.24 GiB",
        "45,200",
        "31.0%",
        "0.285 ± 0.0320",
    ],
)
def test_page_tells_the_numbers(words: str, page: str) -> None:
    assert words in page


def test_page_is_one_small_file_with_every_curve(run: RunDir) -> None:
    assert write_report(run) == run.report
    page = run.report.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and len(page) < 100_000
    data = data_of(page)
    titles = ["Loss", "Bits per byte", "Perplexity", "Learning rate", "Gradient norm", "Training speed", "hellaswag"]
    assert [chart["title"] for chart in data["charts"]] == titles
    (drawn,) = data["runs"]
    assert drawn["train"]["step"] == list(range(1, 101)) and drawn["trend"] is None
    assert drawn["val"]["tokens"] == [51_200, 102_400] and drawn["tasks"]["hellaswag"]["acc"] == [0.3, 0.35]
    assert drawn["events"][0]["event"].startswith("update refused") and drawn["flops_per_token"] > 6 * 64 * 64


def test_the_way_from_token_counts_to_the_floor(page: str) -> None:
    # (2.1 - 0.6834) / (2.1 - 0.65)
    assert "It learned 97.7% of what there is to learn" in page


def test_page_is_the_same_for_the_same_run(run: RunDir) -> None:
    first = write_report(run).read_bytes()
    images = {path: path.read_bytes() for path in run.plots.iterdir()}
    assert write_report(run).read_bytes() == first
    assert len(images) == 5 and all(path.read_bytes() == data for path, data in images.items())


def test_settings_of_matplotlib_do_not_leak_either_way(run: RunDir) -> None:
    facts = read_facts(run)
    before = [path.read_bytes() for path in write_plots(facts, run.plots)]
    with matplotlib.rc_context({"lines.linewidth": 9.0, "axes.facecolor": "red"}):
        assert [path.read_bytes() for path in write_plots(facts, run.plots)] == before
        assert matplotlib.rcParams["lines.linewidth"] == 9.0


def test_only_what_differs_from_the_defaults_is_emphasised(page: str) -> None:
    assert "<div class=set>lr = <b>0.00123</b></div>" in page
    assert "<div class=same>beta1 = <b>0.9</b></div>" in page


def test_reporting_imports_neither_torch_nor_pyplot(run: RunDir) -> None:
    code = (
        "import sys; from pathlib import Path; from smalllm.rundir import RunDir\n"
        "import smalllm.reporting as r\n"
        "assert 'matplotlib' not in sys.modules\n"
        "r.write_report(RunDir(Path(sys.argv[1])))\n"
        "print('torch' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


# --- safety -------------------------------------------------------------------------------


def test_nothing_from_a_file_becomes_markup(run: RunDir) -> None:
    result = json.loads(run.result.read_text())
    result |= {"device": ATTACK, "recipe": ATTACK, "tasks": {ATTACK: {ATTACK: 1.0, "word": ATTACK}}}
    write_json(run.result, result)
    write_json(run.environment, {ATTACK: ATTACK})
    run.config.write_text(f"recipe = '{ATTACK}'\n['{ATTACK}']\n'{ATTACK}' = ['{ATTACK}']\n")
    page = write_report(run).read_text(encoding="utf-8")
    assert escaped(ATTACK) in page
    assert page.count("<script") == page.count("</script") == 2  # the page's data, and its own scripts
    assert "<img" not in page and "<!--" not in page
    assert data_of(page)["runs"][0]["events"][0]["event"] == f"update refused: {ATTACK}"


def test_only_the_scripts_of_the_page_itself_may_run(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    script = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    assert policy and len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert policy[1].startswith("default-src 'none'") and f"script-src 'sha256-{digest}'" in policy[1]
    assert "connect-src" not in policy[1] and "unsafe-eval" not in policy[1]
    assert not re.search(r"innerHTML\s*\+?=(?!=)|insertAdjacentHTML|document\.write|eval\(", script[0])


@given(st.text(alphabet=st.characters(codec=None)))
def test_any_text_can_be_embedded_as_data(text: str) -> None:
    written = embedded({"text": text})
    written.encode("utf-8")
    assert json.loads(written) == {"text": text} and not re.search("[<>&]", written)


def test_the_attack_is_one() -> None:
    assert "<script" in ATTACK and "<img" in ATTACK
    assert "<" not in escaped(ATTACK) and '"' not in escaped(ATTACK)


@given(st.text(alphabet=st.characters(codec=None)))
def test_any_text_can_be_escaped_and_written(text: str) -> None:
    safe = escaped(text)
    safe.encode("utf-8")
    assert not re.search(r"[<>\"'\x00-\x08\x0b-\x1f]", safe)


def test_half_surrogates_and_control_characters_in_samples(run: RunDir) -> None:
    run.samples.write_text('{"step": 1, "prompt": "\\u0000", "text": "a\\ud800b\\u0007"}\n')
    shown = samples([read_facts(run)])
    assert "<p class=prompt>\ufffd</p>" in shown and "<blockquote>a\ufffdb\ufffd<" in shown


def test_page_needs_no_network_and_no_other_file(page: str) -> None:
    markup = without_scripts(page).replace(escaped(ATTACK), "")  # as text it says src=x, harmlessly
    assert outside_references(markup) == []
    allowed = page.replace("http://www.w3.org/2000/svg", "")  # a name, which is not fetched
    assert "http://" not in allowed and "https://" not in allowed


def test_an_outside_reference_would_be_found() -> None:
    for bad in ('<img src="https://a.b/c.png">', "<link href=style.css>", "p { background: url('x.png') }"):
        assert outside_references(bad), bad
    assert outside_references('<use xlink:href="#a"/><g clip-path="url(#b)"/><img src="data:,">') == []


def test_ids_are_unique(page: str) -> None:
    ids = re.findall(r" id=\"?([\w-]+)", without_scripts(page))
    assert len(ids) > 8 and len(ids) == len(set(ids))


# --- odd runs -----------------------------------------------------------------------------


def test_an_empty_run_directory_has_a_page_and_no_plots(tmp_path: Path) -> None:
    run = write_run(tmp_path / "empty", [])
    assert write_plots(read_facts(run), run.plots) == []
    page = write_report(run).read_text(encoding="utf-8")
    assert "no evaluation yet" in page and data_of(page)["charts"] == []


def test_no_directory_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run directory"):
        write_report(RunDir(tmp_path / "nowhere"))


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "broken", [train_row(1)])
    run.config.write_text("[model\n")
    with pytest.raises(RunError, match=r"config\.toml: not valid TOML"):
        write_report(run)


ODD_RUNS: dict[str, list[dict[str, object]]] = {
    "one train row": [train_row(1)],
    "one val row at step 0": [val_row(0)],
    "no val rows": [train_row(s) for s in range(1, 30)],
    "nulls": [train_row(s, loss=None if s % 3 else 2.0, grad_norm=None, lr=None) for s in range(1, 30)]
    + [val_row(9, loss=None)],
    "all null": [train_row(s, loss=None, lr=None, grad_norm=None, tokens_per_second=None) for s in (1, 2)],
    "zeros": [train_row(s, loss=0.0, lr=0.0, grad_norm=0.0, tokens_per_second=0.0) for s in (1, 2, 3)],
    "diverged": [train_row(s, loss=1e30, grad_norm=1e30) for s in range(1, 9)]
    + [val_row(8, loss=1e30, perplexity=None)],
    "the same loss": [train_row(s, loss=3.0) for s in range(1, 9)],
    "a stopped val before any train": [val_row(0), train_row(100), train_row(200)],
    "words for numbers": [{**train_row(1), "loss": "low", "step": "first"}, train_row(2, loss=True)],
}


@pytest.mark.parametrize("rows", ODD_RUNS.values(), ids=ODD_RUNS)
def test_odd_runs_are_drawn_without_a_warning(rows: list[dict[str, object]], tmp_path: Path) -> None:
    run = write_run(tmp_path / "odd", rows)
    drawn = [path.stem for path in write_plots(read_facts(run), run.plots)]
    has_numbers = any(isinstance(row["loss"], float) for row in rows)
    assert ("loss" in drawn) == ("perplexity" in drawn) == has_numbers
    titles = [chart["title"] for chart in data_of(write_report(run).read_text(encoding="utf-8"))["charts"]]
    assert ("Loss" in titles) == ("Perplexity" in titles) == has_numbers


@pytest.mark.parametrize("odd", ["one val row at step 0", "nulls", "all null", "words for numbers"])
def test_odd_runs_with_odd_names_have_a_page(odd: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "実験 $x_1$ <b>", ODD_RUNS[odd])
    page = write_report(run).read_text(encoding="utf-8")
    assert "$x_1$ &lt;b&gt;" in page
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"<[^>]*>", "", without_scripts(page)))


def test_a_nan_literal_is_a_hole_not_a_number(tmp_path: Path) -> None:
    run = write_run(tmp_path / "nan", [train_row(1), train_row(2)])
    run.metrics.write_text(run.metrics.read_text() + '{"split": "train", "step": 3, "loss": NaN, "lr": Infinity}\n')
    rows = read_facts(run).train
    assert len(rows) == 3
    assert curve(rows, "loss").steps.tolist() == curve(rows, "lr").steps.tolist() == [1, 2]


def test_a_plot_of_an_earlier_run_does_not_stay(tmp_path: Path) -> None:
    run = write_run(tmp_path / "again", [train_row(1)])
    assert (run.plots / "loss.png") in write_plots(read_facts(run), run.plots)
    run.metrics.write_text("")
    assert write_plots(read_facts(run), run.plots) == [] and not list(run.plots.iterdir())


def test_a_date_in_a_configuration_mended_by_hand(run: RunDir) -> None:
    run.config.write_text("[model]\nd_model = 1979-05-27\n")
    assert "d_model = <b>&quot;1979-05-27&quot;</b>" in write_report(run).read_text(encoding="utf-8")


def test_a_run_that_trains_says_how_far_it_is(run: RunDir) -> None:
    run.result.unlink()
    run.config.write_text("[train]\nmax_steps = 4000\n")
    assert ": 100 of 4,000 steps, 102,400 tokens, 50.0 s on cpu." in write_report(run).read_text(encoding="utf-8")


def test_no_run_is_an_error() -> None:
    with pytest.raises(ConfigError, match="at least one run"):
        write_report()


def test_first_steps_and_spikes_do_not_squash_the_rest(tmp_path: Path) -> None:
    rows = [train_row(s, loss=1000.0 if s < 15 or s == 500 else 2.0 + s / 1000) for s in range(1, 1001)]
    limits = loss_limits(read_facts(write_run(tmp_path / "spiky", rows)))
    assert limits is not None and 1.8 < limits[0] < 2.1 and 3.0 < limits[1] < 3.2
