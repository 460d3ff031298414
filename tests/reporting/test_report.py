"""The plots and the page of a run: complete, escaped, offline, repeatable; odd and missing files."""

import json
import math
import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from smalllm.config import OptimConfig, RunConfig
from smalllm.errors import RunError
from smalllm.recipes import save_config
from smalllm.reporting import write_plots, write_report
from smalllm.reporting.facts import curve, loss_limits, read_facts
from smalllm.reporting.plots import svg_of
from smalllm.reporting.tables import escaped, samples
from smalllm.rundir import RunDir, append_jsonl, write_json

PLOT_NAMES = ["loss", "perplexity", "learning_rate", "grad_norm", "tokens_per_second"]
ATTACK = '<script>alert("x")</script><img src=x onerror=alert(1)>'
CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)


def train_row(step: int, **changes: object) -> dict[str, object]:
    row = {
        "split": "train",
        "step": step,
        "tokens": step * 1024,
        "elapsed_s": step * 0.5,
        "loss": 2 + 5 * math.exp(-step / 20),
        "loss_ema": 2 + 5 * math.exp(-step / 30),
        "lr": 3e-4,
        "grad_norm": 0.5,
        "tokens_per_second": 2048.0,
    }
    return row | changes


def val_row(step: int, **changes: object) -> dict[str, object]:
    loss = 2 + 5 * math.exp(-step / 20)
    row = {"split": "val", "step": step, "tokens": step * 1024, "elapsed_s": step * 0.5, "loss": loss}
    row |= {
        "perplexity": math.exp(loss),
        "bits_per_token": loss / math.log(2),
        "bits_per_byte": loss / 3,
        "accuracy": 0.5,
    }
    return row | changes


def write_run(path: Path, rows: list[dict[str, object]]) -> RunDir:
    path.mkdir()
    run = RunDir(path)
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def write_full_run(path: Path) -> RunDir:
    """A finished stories run with all a run can hold, and samples that try to break out of the page."""
    run = write_run(path / "full", [train_row(s) for s in range(1, 101)] + [val_row(s) for s in (50, 100)])
    save_config(RunConfig(recipe="stories", optim=OptimConfig(lr=0.00123)), run.config)
    write_json(
        run.environment,
        {"device": "cpu", "cpu": "A & B <chip>", "peak_flops": 1.24e12, "versions": {"torch": "2.13"}},
    )
    write_json(
        run.result,
        {
            "recipe": "stories",
            "parameters": 2_400_000,
            "steps": 100,
            "tokens": 102_400,
            "train_time_s": 725.0,
            "tokens_per_second": 45_230.0,
            "mfu": 0.31,
            "peak_memory_bytes": 1.331e9,
            "device": "cpu",
            "val": {
                "loss": 2.05,
                "perplexity": 7.77,
                "bits_per_token": 2.96,
                "bits_per_byte": 0.6834,
                "accuracy": 0.51,
            },
            "unigram": {"loss": 5.1, "bits_per_byte": 2.1},
            "floor": {"loss": 1.9, "bits_per_byte": 0.65, "ratio": 1.05},
            "generated": {"valid_share": 0.874, "n": 200},
            "tasks": {"hellaswag": {"n": 200, "acc": 0.285, "acc_stderr": 0.032}},
        },
    )
    for step in (50, 100):
        append_jsonl(run.samples, {"step": step, "prompt": ATTACK, "text": f"{ATTACK} once & for all"})
    return run


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return write_full_run(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the full run, written once for all tests that only read it."""
    return write_report(write_full_run(tmp_path_factory.mktemp("page"))).read_text(encoding="utf-8")


# --- files --------------------------------------------------------------------------------


def test_all_plots_are_written_as_png(run: RunDir) -> None:
    paths = write_plots(run)
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
    assert page.startswith("<!doctype html>")
    assert page.count("<svg") == 6  # the first curve has a narrow twin
    assert len(page) < 1_500_000


def test_the_way_from_token_counts_to_the_floor(page: str) -> None:
    # (2.1 - 0.6834) / (2.1 - 0.65)
    assert "It learned 97.7% of what there is to learn" in page


def test_page_is_the_same_for_the_same_run(run: RunDir) -> None:
    first = write_report(run).read_bytes()
    images = {path: path.read_bytes() for path in run.plots.iterdir()}
    assert write_report(run).read_bytes() == first
    assert len(images) == 5 and all(path.read_bytes() == data for path, data in images.items())


def test_matplotlib_alone_would_write_another_file_each_time() -> None:
    def draw() -> str:
        figure = Figure()
        figure.add_subplot().plot([1, 2])
        buffer = StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        return buffer.getvalue()

    assert draw() != draw()


def test_settings_of_matplotlib_do_not_leak_either_way(run: RunDir) -> None:
    facts = read_facts(run)
    before = svg_of("loss", facts, size_in=(5.0, 3.0))
    with matplotlib.rc_context({"lines.linewidth": 9.0, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert svg_of("loss", facts, size_in=(5.0, 3.0)) == before
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
    assert "<script" not in page and "<img" not in page


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
    assert "<b>\ufffd</b>a\ufffdb\ufffd<" in samples(read_facts(run))


def outside_references(page: str) -> list[str]:
    """What a browser would fetch: src and href that are not part of the page, url() outside it, imports."""
    found = re.findall(r"""\b(?:src|href|srcset|action)\s*=\s*["']?([^"'\s>]+)|url\(["']?([^"')]+)|(@import)""", page)
    return [link for links in found for link in links if link and not link.startswith(("#", "data:"))]


def test_page_needs_no_network_and_no_other_file(page: str) -> None:
    markup = page.replace(escaped(ATTACK), "")  # as text it says src=x, harmlessly
    assert outside_references(markup) == []
    assert "http://" not in page and "https://" not in page


def test_an_outside_reference_would_be_found() -> None:
    for bad in ('<img src="https://a.b/c.png">', "<link href=style.css>", "p { background: url('x.png') }"):
        assert outside_references(bad), bad
    assert outside_references('<use xlink:href="#a"/><g clip-path="url(#b)"/><img src="data:,">') == []


def test_ids_are_unique_and_every_reference_has_one(page: str) -> None:
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([\w-]+)', page)) == set(ids)


def test_curves_take_their_colours_from_the_page(page: str) -> None:
    svgs = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert all("var(--plot-train)" in svg for svg in svgs)
    assert not any(re.search(r"#[0-9a-f]{6}\b", svg) for svg in svgs)


# --- odd runs -----------------------------------------------------------------------------


def test_an_empty_run_directory_has_a_page_and_no_plots(tmp_path: Path) -> None:
    run = write_run(tmp_path / "empty", [])
    assert write_plots(run) == []
    page = write_report(run).read_text(encoding="utf-8")
    assert "no evaluation yet" in page and "Nothing to draw yet." in page


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
    facts = read_facts(write_run(tmp_path / "odd", rows))
    drawn = [name for name in PLOT_NAMES if svg_of(name, facts, size_in=(5.0, 3.0))]
    has_numbers = any(isinstance(row["loss"], float) for row in rows)
    assert ("loss" in drawn) == ("perplexity" in drawn) == has_numbers


@pytest.mark.parametrize("odd", ["one val row at step 0", "nulls", "all null", "words for numbers"])
def test_odd_runs_with_odd_names_have_a_page(odd: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "実験 $x_1$ <b>", ODD_RUNS[odd])
    page = write_report(run).read_text(encoding="utf-8")
    assert "$x_1$ &lt;b&gt;" in page
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"<style.*?</style>|<[^>]*>", "", page, flags=re.DOTALL))


def test_thousands_of_rows_make_a_small_picture(tmp_path: Path) -> None:
    facts = read_facts(write_run(tmp_path / "long", [train_row(s, loss=2.0 + s % 2) for s in range(1, 9001)]))
    assert len(svg_of("loss", facts, size_in=(9.0, 4.0))) < 200_000


def test_a_nan_literal_is_a_hole_not_a_number(tmp_path: Path) -> None:
    run = write_run(tmp_path / "nan", [train_row(1), train_row(2)])
    run.metrics.write_text(run.metrics.read_text() + '{"split": "train", "step": 3, "loss": NaN, "lr": Infinity}\n')
    rows = read_facts(run).train
    assert len(rows) == 3
    assert curve(rows, "loss").steps.tolist() == curve(rows, "lr").steps.tolist() == [1, 2]


def test_a_plot_of_an_earlier_run_does_not_stay(tmp_path: Path) -> None:
    run = write_run(tmp_path / "again", [train_row(1)])
    assert (run.plots / "loss.png") in write_plots(run)
    run.metrics.write_text("")
    assert write_plots(run) == [] and not list(run.plots.iterdir())


def test_first_steps_and_spikes_do_not_squash_the_rest(tmp_path: Path) -> None:
    rows = [train_row(s, loss=1000.0 if s < 15 or s == 500 else 2.0 + s / 1000) for s in range(1, 1001)]
    limits = loss_limits(read_facts(write_run(tmp_path / "spiky", rows)))
    assert limits is not None and 1.8 < limits[0] < 2.1 and 3.0 < limits[1] < 3.2


# --- in a browser -------------------------------------------------------------------------


def browse(page: Path, profile: Path) -> tuple[str, str]:
    """The page's elements after loading in headless Chromium, and what the console said."""
    assert CHROMIUM is not None
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-component-update",
        "--disable-background-networking",
        "--disable-sync",
        "--disable-dev-shm-usage",
        f"--user-data-dir={profile}",
        "--enable-logging=stderr",
        "--window-size=390,2000",
        "--virtual-time-budget=2000",
        "--dump-dom",
    ]
    done = subprocess.run([CHROMIUM, *options, page.as_uri()], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install chromium to open the page in a browser")
def test_page_opens_in_a_browser_without_complaint(page: str, tmp_path: Path) -> None:
    report, copy = tmp_path / "report.html", tmp_path / "copy.html"
    report.write_text(page, encoding="utf-8")
    # the page itself runs no script; a copy without its policy measures the layout and runs what got through
    probe = (
        "<script>const wide = document.documentElement.scrollWidth > innerWidth + 1;"
        "const seen = svg => svg.getBoundingClientRect().height > 100;"
        "const curves = [...document.querySelectorAll('svg')].filter(seen).length;"
        "document.title = `wide=${wide} curves=${curves} images=${document.images.length}`;</script></body>"
    )
    opened = re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</body>", probe)
    copy.write_text(opened, encoding="utf-8")
    elements, complaints = browse(report, tmp_path / "profile")
    assert complaints == "" and "<script" not in elements
    measured, _ = browse(copy, tmp_path / "profile")
    assert "<title>wide=false curves=5 images=0</title>" in measured


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install chromium to open the page in a browser")
def test_a_script_in_the_page_would_be_refused_and_reported(page: str, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text(page.replace("</body>", f"{ATTACK}</body>"), encoding="utf-8")
    _, complaints = browse(report, tmp_path / "profile")
    assert "Content Security Policy" in complaints
