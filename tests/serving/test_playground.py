"""The playground in a browser: what is typed, clicked and copied there does what it says, against the real server."""

import ast
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from page_helpers import CTRL, Page, browser

from report_helpers import ATTACK, needs_chromium
from serving_helpers import Running, running

pytestmark = [pytest.mark.browser, needs_chromium]

TOKEN = "a-secret"
EOS_ID = 256
IDLE = "document.querySelector('#stop').disabled && !document.querySelector('#generate').disabled"
TEXT = "document.querySelector('#prompt').value + document.querySelector('.tokens')?.textContent"
N_TOKENS = "document.querySelectorAll('.tokens .tok').length"


@pytest.fixture(scope="module")
def both(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of a run on bytes, which writes what is not always Unicode, and of the same under another name."""
    other = tmp_path_factory.mktemp("runs") / "other"
    shutil.copytree(tiny_run, other)
    with running([tiny_run, other]) as server:
        yield server


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(tab: Page, both: Running) -> Iterator[Page]:
    """The page as at a first visit; it must have complained of nothing when the test is over."""
    tab.renew()
    settings = {"max_tokens": 60, "logit_bias": [[EOS_ID, "", -100]]}  # a text that does not end by itself
    start = {"prompt": "The old cat", "sides": [{"model": "tiny", "settings": settings}], "seed": 5, "isSeedKept": True}
    tab.open(f"{both.server.address}/#s={quote(json.dumps(start))}")
    tab.until(IDLE)
    yield tab
    assert tab.said == []


def generate(page: Page) -> None:
    page.press("Enter", CTRL)
    page.until(f"{IDLE} && {N_TOKENS} > 0")


def asked(page: Page, path: str = "/v1/completions") -> list[dict[str, Any]]:
    """The requests but those that score the prompt."""
    bodies = [request["body"] for request in page.requests if request["url"].endswith(path)]
    return [body for body in bodies if "echo" not in body]


def test_what_is_typed_goes_on(page: Page, both: Running) -> None:
    page.type("#prompt", "The old cat é🙂")
    page.type("#max_tokens", "100")
    generate(page)
    (body,) = asked(page)
    assert body["prompt"] == "The old cat é🙂" and body["max_tokens"] == 100 and body["top_p"] == 0.9
    assert page.ask(N_TOKENS) == 100 and re.search(
        r"100 tokens · [\d,.]+ tokens/s · .* max tokens", page.text("#status")
    )
    # the pieces of the stream are put together to the very text of an answer that came at once
    whole = both.complete(**{**body, "stream": False})["choices"][0]
    assert page.ask(TEXT) == body["prompt"] + whole["text"]
    assert page.text("#said").startswith("Done. 100 tokens") and page.text("#generate") == "Continue"
    page.press("Enter", CTRL)
    page.until(f"{IDLE} && {N_TOKENS} === 200")
    assert asked(page)[1]["prompt"][-100:] == whole["token_ids"]


def test_a_long_text_grows_without_being_drawn_again_and_stops(page: Page) -> None:
    page.type("#max_tokens", "30000")
    page.press("Enter", CTRL)
    page.until(f"{N_TOKENS} > 20")
    assert page.ask("document.querySelector('#stop').disabled") is False
    page.ask("document.querySelector('.tokens .tok').isFirst = true")
    page.until(f"{N_TOKENS} > 500")
    page.press("Escape")
    page.until(IDLE)
    assert page.ask("document.querySelector('.tokens .tok').isFirst") is True
    n = page.ask(N_TOKENS)
    assert 500 < n < 30000 and page.text("#generate") == "Continue"
    page.ask("new Promise((resolve) => setTimeout(resolve, 100))")
    assert page.ask(N_TOKENS) == n


def test_a_token_shows_what_else_was_likely(page: Page) -> None:
    generate(page)
    assert page.ask("document.querySelector('#card').hidden") is True
    page.hover(".tokens [data-i='2']")
    page.until("!document.querySelector('#card').hidden")
    rows = page.ask(
        "[...document.querySelectorAll('#card li')].map((row) => parseFloat(row.querySelector('span').textContent))"
    )
    assert len(rows) == 10 and rows == sorted(rows, reverse=True) and sum(rows) <= 100.1
    assert re.search(r"\d% · [\d.]+ bits · (beyond )?rank \d+", page.text("#card"))
    page.hover("h1")
    page.until("document.querySelector('#card').hidden")
    page.ask("document.querySelector('.tokens').focus({ focusVisible: true })")
    page.press("Home"), page.press("ArrowRight")
    assert page.ask("document.querySelector('.tokens .at').dataset.i") == "1"
    page.press("ArrowDown"), page.press("ArrowDown")
    assert page.ask("document.activeElement.closest('#card li:nth-child(2)') !== null")
    page.press("Escape")
    assert page.ask("document.activeElement.className") == "tokens"


def test_the_prompt_is_coloured_under_what_is_typed(page: Page, both: Running) -> None:
    prompt = "The old cat é\tmet <b>\n\n" + "the old hen " * 3
    page.type("#prompt", prompt)
    page.until("document.querySelectorAll('#mirror .tok').length > 1")
    assert page.text("#mirror") == prompt + "\u200b"
    ids = both.complete(model="tiny", prompt=prompt, max_tokens=0, return_token_ids=True)["prompt_token_ids"]
    assert page.ask("document.querySelectorAll('#mirror .tok').length") == len(ids)
    # both lie alike: the text area needs no scrolling, and the text goes on where the prompt ends
    assert (
        page.ask("(({ scrollHeight, clientHeight }) => scrollHeight - clientHeight)(document.querySelector('#prompt'))")
        <= 1
    )
    page.hover("#mirror [data-i='9']")
    page.until("!document.querySelector('#card').hidden")
    assert "“a”" in page.text("#card") and page.ask("document.querySelectorAll('#card .row').length") == 0
    page.type("#prompt", "The old cat " * 30)  # more than the model sees: it stays plain, and nothing complains
    page.ask("new Promise((resolve) => setTimeout(resolve, 600))")
    assert page.ask("document.querySelectorAll('#mirror .tok').length") == 0


def test_a_click_on_another_token_branches(page: Page) -> None:
    page.type("#max_tokens", "40")
    generate(page)
    before = page.ask(TEXT)
    page.click(".tokens [data-i='9']")
    another = page.ask(
        "[...document.querySelectorAll('#card li')].findIndex((row) => !row.querySelector('[aria-current]'))"
    )
    page.click(f"#card li:nth-child({another + 1}) button")
    page.until(f"{IDLE} && document.querySelectorAll('#history li').length === 2")
    assert page.ask(N_TOKENS) == 50 and page.ask(TEXT) != before and page.ask(TEXT)[:19] == before[:19]
    assert page.ask("[...document.querySelectorAll('.tokens .tok')].findIndex((one) => one.matches('.chosen'))") == 9
    first, second = asked(page)
    ids = second["prompt"]
    assert isinstance(ids, list) and len(ids) == len(first["prompt"]) + 10  # one token is one byte here
    page.click("#history li:nth-child(1) button")
    assert page.ask(TEXT) == before
    page.click(".tokens [data-i='4']")
    page.click("#card .row button:nth-child(2)")
    assert page.ask(N_TOKENS) == 4 and len(asked(page)) == 2


def test_the_next_token_shows_what_the_settings_keep(page: Page) -> None:
    page.until("document.querySelectorAll('.next li:not([hidden])').length === 50")
    page.type("#top_k", "3")
    page.until("document.querySelector('.next .note').textContent.startsWith('3 tokens kept')")
    assert page.ask("document.querySelectorAll('.next li.cut').length") == 47
    names = page.ask("[...document.querySelectorAll('.next li code')].map((one) => one.textContent)")
    row, name = next((i, name) for i, name in enumerate(names, start=1) if re.fullmatch("[a-z]", name))
    page.click(f".next li:nth-child({row}) .bar")
    assert (
        page.ask("document.activeElement.closest('#biases') !== null")
        and page.text("#biases li:last-child code") == name
    )
    page.send("Input.insertText", text="50")
    page.until(f"document.querySelector('.next li:first-child .bar').textContent === {json.dumps(name + '100%')}")
    assert list(asked(page, "/distribution")[-1]["logit_bias"].values()) == [50, -100]
    page.click(".next li:nth-child(1) .write")
    page.until(f"{N_TOKENS} === 1")
    assert page.text(".tokens .tok") == name and asked(page) == []


def test_two_runs_side_by_side_draw_with_the_same_seed(page: Page) -> None:
    page.click("#compare")
    page.click(".presets button")
    generate(page)
    a, b = asked(page)
    assert (a["model"], b["model"]) == ("tiny", "other") and a["seed"] == b["seed"] and a["prompt"] == b["prompt"]
    assert a["temperature"] == 0.8 and b["temperature"] == 0
    boxes = page.ask("[...document.querySelectorAll('.column')].map((one) => one.getBoundingClientRect().left)")
    assert len(boxes) == 2 and boxes[0] < boxes[1]
    assert page.text(".column h2") == "A · tiny" and "greedy: temperature 0" in page.text(".column:nth-child(2) .note")
    page.type("#n", "3")
    page.click("#again")
    page.until(f"{IDLE} && document.querySelectorAll('.column:nth-child(2) .sample').length === 3")
    assert asked(page)[-1]["n"] == 3
    page.type("#temperature", "")
    page.click(".tabs button")
    page.press("Enter", CTRL)  # side B cannot be asked for: it is shown, with what is wrong
    page.until("!document.querySelector('#error-temperature').hidden")
    assert page.ask("document.querySelector('.tabs button:nth-child(2)').ariaPressed") == "true"


def test_what_is_copied_is_what_was_sent(page: Page) -> None:
    page.type("#prompt", 'It\'s "a" $HOME \\n `cat`\n\té🙂 %s')
    page.type("#stop-texts", "\\n\\n\nThe end")
    page.type("#min_p", "0.05")
    page.click("#copy-curl")
    generate(page)
    (sent,) = asked(page)
    assert sent["stop"] == ["\n\n", "The end"] and sent["min_p"] == 0.05
    page.click("#copy-curl")
    words = shlex.split(page.ask("document.querySelector('#clipboard').value"))
    assert words[0] == "curl" and words[2].endswith("/v1/completions") and json.loads(words[-1]) == sent
    page.click("#copy-python")
    program = ast.parse(page.ask("document.querySelector('#clipboard').value"))
    calls = [
        node for node in ast.walk(program) if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("create")
    ]
    given = {word.arg: ast.literal_eval(word.value) for word in calls[0].keywords}
    assert {**{k: v for k, v in given.items() if k != "extra_body"}, **given["extra_body"]} == sent


def test_a_wrong_value_is_said_at_its_control(page: Page) -> None:
    page.type("#top_p", "2")
    page.until("!document.querySelector('#error-top_p').hidden")
    assert "top_p" in page.text("#error-top_p") and page.ask("document.querySelector('#top_p').ariaInvalid") == "true"
    page.type("#top_p", "0.5")
    page.until("document.querySelector('#error-top_p').hidden")
    page.type("#temperature", "")
    page.press("Enter", CTRL)
    page.until("!document.querySelector('#error-temperature').hidden")
    assert asked(page) == []
    assert [text for text in page.said if "400" not in text] == []
    page.said.clear()  # a browser tells of each refused request


def test_the_state_survives_a_reload_and_goes_into_a_link(page: Page, both: Running) -> None:
    page.type("#prompt", ATTACK)
    page.type("#top_k", "7")
    page.type("#seed", "11")
    generate(page)
    text = page.ask(TEXT)
    page.click("#share")
    link = page.ask("document.querySelector('#clipboard').value")
    page.open(both.server.address)
    page.until(IDLE)
    assert page.ask(TEXT) == text and page.ask("document.querySelector('#top_k').value") == "7"
    page.type("#prompt", "another")
    page.open("about:blank")
    page.open(link)
    page.until(IDLE)
    assert page.ask("document.querySelector('#prompt').value") == ATTACK and page.ask("location.hash") == ""
    assert page.ask("document.querySelectorAll('#history li').length") == 1  # what was there is still to be had
    generate(page)
    assert page.ask(TEXT) == text  # the seed is in the link
    assert page.ask("document.images.length + document.querySelectorAll('main script').length") == 0


def test_a_token_is_asked_for_and_kept_for_the_tab_alone(tab: Page, tiny_run: Path) -> None:
    with running([tiny_run], token=TOKEN) as server:
        tab.renew()
        tab.open(server.server.address)
        tab.until("document.querySelector('#ask').open")
        for word in ("wrong", TOKEN):
            tab.type("#token", word)
            tab.press("Enter")
            tab.until(f"{IDLE} || !document.querySelector('#ask-error').hidden")
        tab.until(IDLE)
        generate(tab)
        tab.click("#copy-curl")
        copied = tab.ask("document.querySelector('#clipboard').value")
        assert TOKEN not in copied and '-H "Authorization: Bearer $SMALLLM_TOKEN"' in copied
        tab.ask("dispatchEvent(new Event('pagehide'))")
        assert tab.ask("Object.values(sessionStorage)") == [TOKEN] and TOKEN not in tab.ask(
            "JSON.stringify(localStorage)"
        )
    assert [text for text in tab.said if "401" not in text] == []


@pytest.mark.parametrize("width", [360, 800])
def test_no_width_scrolls_sideways(page: Page, width: int) -> None:
    page.resize(width, 800)
    page.type("#prompt", "w" * 300)
    generate(page)
    assert page.ask("document.documentElement.scrollWidth <= innerWidth")
    page.click(".tokens .tok")
    box = page.ask(
        "(({ left, right, bottom }) => [left, right, bottom])(document.querySelector('#card').getBoundingClientRect())"
    )
    assert box[0] >= 0 and box[1] <= width and box[2] <= 800
    page.click("#card .row button:nth-child(2)")
    page.click("#compare")
    generate(page)
    assert page.ask("document.documentElement.scrollWidth <= innerWidth")


def test_every_control_has_a_name(page: Page) -> None:
    generate(page)
    nameless = page.ask(
        "[...document.querySelectorAll('button, input, select, textarea, [role=listbox]')].filter((one) => "
        "!(one.ariaLabel || one.labels?.length || one.textContent.trim())).map((one) => one.outerHTML)"
    )
    assert nameless == []


PIECES = """
(async () => {
  const { addChoice, makeSample, textOf } = await import("./samples.js");
  const text = "aé🙂 bЖ\\ufffdc";
  const bytes = new TextEncoder().encode(text);
  const wrong = [];
  for (let cuts = 0; cuts < 512; cuts++) {
    const [sample, decoder, ends] = [makeSample(), new TextDecoder(), new TextDecoder()];
    let [ids, at] = [[], 0];
    const offsets = [], labels = [];
    let late = "";
    bytes.forEach((byte, i) => {
      ids.push(byte);
      offsets.push(at);
      at += [...ends.decode(bytes.slice(i, i + 1), { stream: true })].length;
      labels.push(new TextDecoder().decode(bytes.slice(i, i + 1)));
      late += decoder.decode(bytes.slice(i, i + 1), { stream: true });
      if (i < bytes.length - 1 && !(cuts & (1 << i % 9))) return;
      const logprobs = { tokens: labels.splice(0), token_logprobs: ids.map(() => -1), text_offset: offsets.splice(0) };
      addChoice(sample, { token_ids: ids, text: late, logprobs, finish_reason: null }, 0);
      [ids, late] = [[], ""];
    });
    const stray = sample.tokens.filter((token) => token.text === "" && !token.isJoined);
    const isWhole = sample.tokens.length === bytes.length && !stray.length;
    if (textOf(sample) !== text || !isWhole) wrong.push([cuts, textOf(sample)]);
  }
  return wrong;
})()
"""


def test_characters_split_over_tokens_and_chunks_come_out_whole(page: Page) -> None:
    assert page.ask(PIECES) == []
    broken = PIECES.replace("text_offset: offsets.splice(0)", "text_offset: offsets.splice(0).map(() => 0)")
    assert page.ask(broken) != []  # the offsets are needed


def test_nothing_becomes_markup_and_a_foreign_script_is_refused(page: Page) -> None:
    folder = resources.files("smalllm.serving") / "web"
    files = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}
    assert len(files) == 10
    for name, text in files.items():
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            name
        )
        assert not re.search(r"""\s(style|on[a-z]+)=["']|https?://(?!www\.w3\.org/2000/svg)""", text), name
    page.ask("document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.ran = 1' }))")
    assert page.ask("window.ran") is None and any("Content Security Policy" in text for text in page.said)
    page.said.clear()
