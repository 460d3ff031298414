"""The page in a browser: no complaint, nothing from a run becomes markup, controls do what they say, long runs open."""

import html
import json
import re
import time
from pathlib import Path

import pytest

from report_helpers import ATTACK, browse, needs_chromium, train_row, val_row, write_full_run, write_run
from smalllm.recipes import load_recipe, save_config
from smalllm.reporting import write_report
from smalllm.reporting.curves import all_curves
from smalllm.reporting.facts import read_facts
from smalllm.reporting.page import page_of
from smalllm.rundir import RunDir

pytestmark = [pytest.mark.browser, needs_chromium]

# what a reader does, and what the page then shows; run in a copy of the page without its policy
PROBE = """
const shown = {};
const $ = (id) => document.getElementById(id);
const texts = () => [...document.querySelectorAll("svg")[0].querySelectorAll("text")].map((t) => t.textContent);
const set = (id, value, key = "value") => { $(id)[key] = value; $(id).dispatchEvent(new Event("input")); };
const act = (event) => document.querySelector("svg").dispatchEvent(event);
const press = (key) => act(new KeyboardEvent("keydown", { key, bubbles: true }));
const pointer = (kind, x, y) => {
  const box = document.querySelector("svg").getBoundingClientRect();
  const at = { clientX: box.left + x * box.width, clientY: box.top + y * box.height };
  act(new PointerEvent(kind, { ...at, button: 0, pointerId: 1 }));
};
const tip = () => document.querySelector(".tip").textContent;
const curve = () => document.querySelector("svg path.train").getAttribute("d");
const range = () => page.view.range;
Element.prototype.setPointerCapture = () => {};
shown.wide = document.documentElement.scrollWidth > innerWidth + 1;
shown.charts = [...document.querySelectorAll("svg")].filter((one) => one.getBoundingClientRect().height > 100).length;
shown.images = document.images.length;
shown.marks = document.querySelectorAll("svg path.mark").length;
const [before, x] = [curve(), {}];
for (const radio of document.querySelectorAll("input[name=x]")) { radio.click(); x[radio.value] = texts().join(" "); }
document.querySelector("input[value=step]").click();
shown.x = x;
pointer("pointermove", 0.7, 0.5);
shown.tip = tip();
pointer("pointerdown", 0.4, 0.5); pointer("pointermove", 0.6, 0.5); pointer("pointerup", 0.6, 0.5);
shown.zoomed = range();
press("Escape");
shown.whole = range();
press("ArrowRight"); const first = tip(); press("ArrowRight");
shown.keys = [first, tip()];
for (let i = 0; i < 300 && !shown.event; i++) {
  press(i < 100 ? "ArrowLeft" : "ArrowRight");
  if (tip().includes("update refused")) shown.event = tip();
}
press("+"); shown.closer = range(); press("0");
set("smoothing", 90); shown.smoother = curve() !== before;
set("smoothing", 0); shown.raw = document.querySelectorAll("svg")[0].querySelectorAll("path.raw").length;
set("log-x", true, "checked"); shown.log = texts().join(" "); set("log-x", false, "checked");
set("everything", true, "checked"); shown.everything = texts().join(" ");
document.title = "done";
document.body.dataset.shown = JSON.stringify(shown);
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(write_full_run(tmp_path_factory.mktemp("page"))).read_text(encoding="utf-8")


def probed(page: str, folder: Path, script: str = PROBE) -> dict[str, object]:
    """What a script saw in a copy of the page."""
    (folder / "copy.html").write_text(
        re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</script>\n</body>", f"{script}</script></body>"),
        encoding="utf-8",
    )
    elements, complaints = browse(folder / "copy.html", folder / "profile")
    found = re.search(r'data-shown="([^"]*)"', elements)
    assert found, complaints
    shown: dict[str, object] = json.loads(html.unescape(found[1]))
    return shown


def test_page_opens_without_complaint(page: str, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text(page, encoding="utf-8")
    elements, complaints = browse(report, tmp_path / "profile")
    assert complaints == ""
    assert elements.count("<figure") == 7 and elements.count("<script") == 2 and "<img" not in elements


def test_the_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    shown = probed(page, tmp_path)
    assert shown["wide"] is False and shown["charts"] == 7 and shown["images"] == 0 and shown["marks"] == 7
    x = shown["x"]
    assert isinstance(x, dict)
    ends = {"step": "steps", "tokens": "tokens", "time": r"time \[s\]", "flops": "FLOPs"}
    assert all(re.search(end, x[kind]) for kind, end in ends.items()) and len(set(x.values())) == 4
    assert "100,000 tokens" in x["tokens"] and re.search(r"\de10 ", x["flops"])
    assert re.match(r"step \d+ · [\d,]+ tokens · [\d.]+ s", str(shown["tip"]))
    assert "validation" in str(shown["tip"]) and "smoothed" in str(shown["tip"])
    low, high = shown["zoomed"]  # type: ignore[misc]
    assert 30 < low < high < 70 and shown["whole"] is None
    keys = shown["keys"]
    assert isinstance(keys, list) and keys[0] != keys[1] and all(key.startswith("step ") for key in keys)
    assert ATTACK in str(shown["event"])
    assert shown["closer"] is not None and shown["smoother"] is True and shown["raw"] == 0
    assert "1 " in str(shown["log"]) and shown["log"] != x["step"]


def test_a_script_from_a_run_would_be_refused_and_reported(page: str, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text(page.replace("</main>", "<script>alert(1)</script></main>"), encoding="utf-8")
    _, complaints = browse(report, tmp_path / "profile")
    assert "Content Security Policy" in complaints


def test_a_run_of_100_000_rows_opens_at_once(tmp_path: Path) -> None:
    rows = [train_row(s, loss=3 + (s * 7919 % 1000) / 1000 + (9.5 if s == 77_777 else 0)) for s in range(1, 100_001)]
    run = write_run(tmp_path / "long", rows + [val_row(s) for s in range(100, 100_001, 100)])
    save_config(load_recipe("shakespeare"), run.config)
    facts = [read_facts(run)]
    report = tmp_path / "report.html"
    report.write_text(page_of(facts, all_curves(facts)), encoding="utf-8")
    assert report.stat().st_size < 1_500_000
    data = json.loads(re.findall(r"id=data>(.*?)</script>", report.read_text(encoding="utf-8"))[0])
    (drawn,) = data["runs"]
    assert 77_777 in drawn["train"]["step"] and max(drawn["train"]["loss"]) > 12
    assert max(drawn["trend"]["loss"]) < 3.7  # what is smoothed knows nothing of the spike's height
    start = time.monotonic()
    elements, complaints = browse(report, tmp_path / "profile")
    assert complaints == "" and elements.count("<figure") == 6
    assert time.monotonic() - start < 10  # the browser's start included; about 1 s of it is the page


def test_the_page_of_a_run_that_has_just_begun(tmp_path: Path) -> None:
    run = write_run(tmp_path / "new", [])
    _, complaints = browse(write_report(run), tmp_path / "profile")
    assert complaints == ""


def test_several_runs_have_a_button_each(tmp_path: Path) -> None:
    runs: list[RunDir] = [write_full_run(tmp_path, name) for name in ("one", "<b>two")]
    report = write_report(*runs, out=tmp_path / "out")
    elements, complaints = browse(report, tmp_path / "profile")
    assert complaints == "" and elements.count('aria-pressed="true"') == 2 and "&lt;b&gt;two" in elements
    shown = probed(report.read_text(encoding="utf-8"), tmp_path, HIDE_ONE)
    assert shown["wide"] is False and shown["curves"] == [2, 1]


HIDE_ONE = """
const curves = () => document.querySelector("svg").querySelectorAll("path.train").length;
const shown = { wide: document.documentElement.scrollWidth > innerWidth + 1, curves: [curves()] };
document.querySelector("#runs button").click();
shown.curves.push(curves());
document.body.dataset.shown = JSON.stringify(shown);
"""
