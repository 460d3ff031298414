"""The page and pictures of an explanation: complete, escaped, offline, small, the same each time; odd prompts."""

import json
import re
import struct
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from report_helpers import ATTACK, browse, needs_chromium, outside_references
from smalllm.api.explain import MAX_MAP_BYTES
from smalllm.reporting.explain_draw import PICTURES
from smalllm.reporting.explain_page import page_of, write_explanation
from smalllm.reporting.explain_parts import bin_names, columns_for, shown
from smalllm.reporting.explanation import Explanation, Head, LensCell, Part, PromptToken, Repeated
from smalllm.reporting.markup import escaped
from smalllm.reporting.raster import png_of


def made_up(
    texts: list[str], *, n_layers: int = 2, n_heads: int = 4, n_mapped: int | None = None, patterns: bool = True
) -> Explanation:
    """An explanation of these tokens with numbers that are drawn."""
    draw, n = np.random.default_rng(0), len(texts)
    alternatives = (("·the", 0.5), (texts[-1], 0.25), ("\n", 0.05))
    n_mapped = min(n, n_mapped or n)
    maps = np.tril(draw.integers(0, 256, (n_layers, n_heads, n_mapped, n_mapped), dtype=np.uint8))
    score = float(draw.random()) if patterns else None
    names = ["embedding", *(f"{kind} {i + 1}" for i in range(n_layers) for kind in ("attention", "mlp"))]
    return Explanation(
        run="runs/A & <b>",
        recipe=ATTACK,
        checkpoint="step-00000100",
        step=100,
        parameters=2_400_000,
        vocab_size=4096,
        prompt="".join(texts),
        tokens=tuple(
            PromptToken(id=i, text=text, bits=float(20 * draw.random()) if i else None, alternatives=alternatives)
            for i, text in enumerate(texts)
        ),
        lens=tuple(
            tuple(
                LensCell(text=text, probability=0.3, entropy_bits=float(12 * draw.random()), is_right=i % 3 == 0)
                for i, text in enumerate(texts)
            )
            for _ in range(n_layers + 1)
        ),
        parts=tuple(
            Part(name=name, norm=float(draw.random()), effect=-0.5, effects=tuple(draw.standard_normal(n - 1).tolist()))
            for name in names
        ),
        stream_norm=3.0,
        n_layers=n_layers,
        n_heads=n_heads,
        heads=tuple(
            Head(
                layer=layer + 1, head=head + 1, distance=3.25, entropy_bits=1.5, first_share=0.1,
                histogram=(0.1, 0.2, 0.3, 0.4), previous=score, duplicate=score, induction=score,
            )
            for layer in range(n_layers)
            for head in range(n_heads)
        ),
        distance_bins=(0, 1, 2, 4),
        repeated=Repeated(
            n_tokens=50, n_texts=8, first_bits=12.0, second_bits=3.5, previous_chance=0.04, copy_chance=0.01
        )
        if patterns
        else None,
        loss_by_position=((1, 1, 3.0), (2, 2, 2.5), (3, 4, 2.0)),
        heads_measured_on="8 validation windows of 256 tokens",
        loss_measured_on="64 validation windows of 256 tokens",
        notices=(f"something was cut: {ATTACK}",),
        maps=maps,
    )  # fmt: skip


WORDS = ["Once", " upon", " a", " time", ",", " there", "\n", "\t", ATTACK, "\\xe2\\x82", "⟨end⟩", "猫"]


@pytest.fixture(scope="module")
def page() -> str:
    return page_of(made_up(WORDS))


# --- files


def test_page_pictures_and_numbers_are_written(tmp_path: Path) -> None:
    found = made_up(WORDS)
    assert write_explanation(found, tmp_path / "new" / "out") == tmp_path / "new" / "out" / "explain.html"
    names = {path.name for path in (tmp_path / "new" / "out").iterdir()}
    assert names == {"explain.html", "explain.json", *(f"{name}.png" for name in PICTURES)} and len(names) == 9
    for name in PICTURES:
        data = (tmp_path / "new/out" / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG") and 1000 <= int.from_bytes(data[16:20], "big") <= 6000
    stored = json.loads((tmp_path / "new/out/explain.json").read_text())
    assert stored == json.loads(json.dumps(found.as_dict()))
    assert "maps" not in stored and stored["mean_bits"] == pytest.approx(found.mean_bits)
    assert stored["tokens"][1]["text"] == " upon" and stored["heads"][0]["layer"] == 1


def test_a_picture_without_numbers_is_not_left_from_before(tmp_path: Path) -> None:
    write_explanation(made_up(WORDS), tmp_path)
    write_explanation(made_up(WORDS, patterns=False), tmp_path)
    assert not (tmp_path / "head_scores.png").exists() and (tmp_path / "attention.png").exists()
    assert "no test on repeated tokens" in (tmp_path / "explain.html").read_text()


def test_the_same_explanation_gives_the_same_page(page: str) -> None:
    assert page_of(made_up(WORDS)) == page


def test_a_deep_model_and_a_long_prompt_keep_the_page_small() -> None:
    texts = [f" word{i}" for i in range(512)]
    found = made_up(texts, n_layers=24, n_heads=16, n_mapped=int((MAX_MAP_BYTES / (24 * 16)) ** 0.5))
    page = page_of(found)
    assert len(page.encode()) < 3_000_000
    assert "The first 160 of 512 tokens" in page


def test_a_picture_holds_the_values_it_was_given() -> None:
    values = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5) * 8
    data = png_of(values)
    from matplotlib import image

    read = image.imread(BytesIO(data))
    assert read.shape == (6, 5, 4)
    assert np.array_equal((read[..., 3] * 255).round().astype(np.uint8), values)
    start = data.index(b"IHDR")
    (stored,) = struct.unpack(">I", data[start + 17 : start + 21])
    assert stored == zlib.crc32(data[start : start + 17])


# --- words


@pytest.mark.parametrize(
    "words",
    ["2.40M parameters", "bits to copy", "induction", "0, 1, 2–3, 4 or more", "8 validation windows", "Olsson", "⏎"],
)
def test_page_tells(words: str, page: str) -> None:
    assert words in page


@pytest.mark.parametrize(
    ("text", "expected"),
    [(" cat", "·cat"), ("  ", "··"), ("\n", "⏎"), ("a b ", "a b·"), ("\x1b[1m", "\\x1b[1m"), ("\t", "⇥"), ("", "")],
)
def test_tokens_are_shown_on_one_line(text: str, expected: str) -> None:
    assert shown(text) == expected


@given(st.text(alphabet=st.characters(codec=None)))
def test_any_text_can_be_shown(text: str) -> None:
    assert shown(text).isprintable()


def test_bins_and_rows() -> None:
    assert bin_names([0]) == "0" and bin_names([0, 1]) == "0, 1 or more"
    assert [columns_for(n, most=8) for n in (1, 4, 8, 9, 12, 16, 25)] == [1, 4, 8, 5, 6, 8, 7]


# --- safety


def test_nothing_from_a_run_or_prompt_becomes_markup(page: str) -> None:
    assert escaped(ATTACK) in page
    assert "<script" not in page and "<img src=x" not in page


def test_page_needs_no_network_and_no_other_file(page: str) -> None:
    assert outside_references(page.replace(escaped(ATTACK), "")) == []
    assert "http://" not in page and "https://" not in page


def test_page_has_the_look_of_the_report(page: str) -> None:
    assert "--plot-train" in page and "prefers-color-scheme: dark" in page and ".cards {" in page


def test_numbers_that_are_not_there_are_not_printed(page: str) -> None:
    text = re.sub(r"<style.*?</style>|<[^>]*>", "", page, flags=re.DOTALL)
    assert not re.search(r"\b(nan|inf|None)\b", text)


@pytest.mark.parametrize("texts", [["a", "b"], ["\x00", "\ud800", "\x1b"], ["<", "&", '"', "'"], [" " * 300, "\n" * 9]])
def test_odd_prompts_have_a_page_and_pictures(texts: list[str], tmp_path: Path) -> None:
    found = made_up(texts, n_layers=1, n_heads=1)
    write_explanation(replace(found, prompt="x"), tmp_path)
    (tmp_path / "explain.html").read_text(encoding="utf-8")


@pytest.mark.browser
@needs_chromium
def test_page_opens_in_a_browser_without_complaint(page: str, tmp_path: Path) -> None:
    first, copy = tmp_path / "explain.html", tmp_path / "copy.html"
    first.write_text(page, encoding="utf-8")
    # the page itself runs no script; a copy without its policy measures the layout, as wide as a phone
    probe = (
        "<script>const main = document.querySelector('main'); document.body.style.width = '390px';"
        "const loaded = [...document.images].filter(image => image.naturalWidth > 0).length;"
        "document.title = `wide=${main.scrollWidth > 391} images=${loaded} tokens=${"
        "document.querySelectorAll('.tok').length}`;</script></body>"
    )
    opened = re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</body>", probe)
    copy.write_text(opened, encoding="utf-8")
    elements, complaints = browse(first, tmp_path / "profile")
    assert complaints == "" and "<script" not in elements
    measured, _ = browse(copy, tmp_path / "profile")
    assert f"<title>wide=false images=8 tokens={len(WORDS)}</title>" in measured


@pytest.mark.browser
@needs_chromium
def test_a_script_in_the_page_would_be_refused_and_reported(page: str, tmp_path: Path) -> None:
    path = tmp_path / "explain.html"
    path.write_text(page.replace("</body>", "<script>alert(1)</script></body>"), encoding="utf-8")
    assert "Content Security Policy" in browse(path, tmp_path / "profile")[1]
