"""The page of an explanation: one HTML file that needs nothing else and runs no script, in the style of the report."""

from importlib import resources
from pathlib import Path
from string import Template

from smalllm.reporting import explain_parts as parts
from smalllm.reporting.explain_draw import position_svg, write_pictures
from smalllm.reporting.explanation import Explanation, Head
from smalllm.reporting.markup import escaped
from smalllm.reporting.raster import data_url, png_of
from smalllm.reporting.words import count, number, printable, share
from smalllm.rundir import write_json, write_text

WORDS = (
    ("Surprise", "−log₂ of the probability that the model gave a token [bits]. Source: Shannon 1948."),
    ("Entropy", "The surprise that a prediction expects of itself [bits]: 0 is sure, log₂ of the number of tokens "
     "is knowing nothing. Of attention: 0 looks at one token. Source: Shannon 1948; Vig and Belinkov 2019."),
    ("Logit lens", "The residual stream after a block, read with the final norm and the head, which were trained for "
     "the last block alone: early answers are hints. Source: nostalgebraist 2020."),
    ("Direct effect", "What a part's own vector does to the logit of the token that follows, above the mean of all "
     "logits, with the final norm's scale held as it was. What later parts make of it is not counted. Source: Elhage "
     "et al. 2021."),
    ("Share on the first token", "Attention that rests on the first token: many heads rest there when they find "
     "nothing to do. Source: Xiao et al. 2023."),
    ("Previous-token head", "Looks at the token before. Source: Elhage et al. 2021."),
    ("Duplicate-token head", "Looks at an earlier copy of the same token. Source: Elhage et al. 2021."),
    ("Induction head", "Looks at what followed an earlier copy of the same token, and so can copy what came next. "
     "Source: Elhage et al. 2021; Olsson et al. 2022."),
)  # fmt: skip


def write_explanation(found: Explanation, folder: Path) -> Path:
    """Write `explain.html`, `explain.json` and the pictures.

    Returns:
        The path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "explain.json", found.as_dict())
    write_pictures(found, folder)
    write_text(folder / "explain.html", page_of(found))
    return folder / "explain.html"


def page_of(found: Explanation) -> str:
    """The whole page; the same explanation gives the same characters."""
    files = resources.files("smalllm.reporting") / "web"
    template = Template((files / "explain.html").read_text(encoding="utf-8"))
    name = Path(found.run).name
    return template.substitute(
        style=(files / "page.css").read_text(encoding="utf-8"),  # one look for all pages
        title=escaped(f"Inside {name}"),
        name=escaped(name),
        summary=_summary(found),
        notices="".join(f'<p class="box notice">{escaped(printable(text))}</p>' for text in found.notices),
        cards="".join(_cards(found)),
        tokens=parts.tokens(found),
        lens=parts.lens(found),
        parts=parts.parts(found),
        maps=_maps(found),
        wide=max(4, parts.columns_for(found.n_heads, most=8)),
        narrow=max(2, parts.columns_for(found.n_heads, most=3)),
        grid=max(290, 72 + 36 * found.n_heads),
        highest=share(parts.highest_share(found)),
        bins=parts.bin_names(found.distance_bins),
        measured_on=escaped(found.heads_measured_on),
        spreads=parts.spreads(found),
        look_grids=_look_grids(found),
        repeated=_repeated(found),
        pattern_grids=_pattern_grids(found),
        position_text=escaped(found.loss_measured_on),
        position_plot=_position_plot(found),
        words=f"<dl>{''.join(f'<dt>{word}</dt><dd>{text}</dd>' for word, text in WORDS)}</dl>",
    )


def _summary(found: Explanation) -> str:
    shape = f"{found.n_layers} layers of {found.n_heads} heads, {count(found.parameters)} parameters"
    return escaped(
        f"Recipe {found.recipe}, checkpoint {found.checkpoint}: {shape}. The model reads a prompt of "
        f"{len(found.tokens):,} tokens, and this page shows what happens in it. All numbers are computed in FP32."
    )


def _card(figure: str, what: str, text: str) -> str:
    return f"<div class=card><p class=figure>{figure}<span>{what}</span></p><p>{escaped(text)}</p></div>"


def _cards(found: Explanation) -> list[str]:
    bits = found.mean_bits
    text = f"The mean surprise of this prompt: as unsure as among {number(2 ** min(bits, 99))} equally likely tokens."
    cards = [_card(number(bits), "bits per token", text)]
    repeated = found.repeated
    if repeated is not None:
        text = (
            f"What each random token costs when it comes again, after {number(repeated.first_bits)} the first time: "
            "the less, the better the model copies."
        )
        cards.append(_card(number(repeated.second_bits), "bits to copy", text))
        for name, what, chance in (
            ("induction", "induction", repeated.copy_chance),
            ("previous", "previous token", repeated.previous_chance),
        ):
            head = max(found.heads, key=lambda h: getattr(h, name) or 0.0)
            text = f"Head {head.layer}.{head.head} scores highest; even attention would score {number(chance)}."
            cards.append(_card(number(getattr(head, name)), what, text))
    return cards


def _maps(found: Explanation) -> str:
    rows = []
    for layer in range(found.n_layers):
        cells = []
        for head in range(found.n_heads):
            name = f"head {layer + 1}.{head + 1}"
            url = data_url(png_of(found.maps[layer, head]))
            cells.append(f'<div tabindex=0><img src="{url}" alt="attention of {name}">{name}</div>')
        rows.append(f"<h3>Layer {layer + 1}</h3><div class=maps>{''.join(cells)}</div>")
    return "".join(rows)


def _look_grids(found: Explanation) -> str:
    return "".join(
        (
            parts.grid(found, "Mean distance", "How far back a head looks [tokens].", lambda h: h.distance),
            parts.grid(found, "Entropy", "How spread its attention is [bits].", lambda h: h.entropy_bits),
            parts.grid(found, "On the first token", "Share of its attention.", lambda h: h.first_share, most=1.0),
        )
    )


def _repeated(found: Explanation) -> str:
    repeated = found.repeated
    if repeated is None:
        return "There is no test on repeated tokens: the context or the vocabulary is too small."
    return (
        f"On {repeated.n_tokens} random tokens that come twice in a row ({repeated.n_texts} such texts): nothing can "
        "be known of the first copy, and everything of the second. A score is the share of a head's attention in one "
        "place."
    )


def _pattern_grids(found: Explanation) -> str:
    repeated = found.repeated
    if repeated is None:
        return ""

    def one(title: str, where: str, name: str, chance: float) -> str:
        def value(head: Head) -> float | None:
            score: float | None = getattr(head, name)
            return score

        return parts.grid(found, title, f"On {where}. Even attention: {number(chance)}.", value, most=1.0)

    return "".join(
        (
            one("Previous token", "the token before", "previous", repeated.previous_chance),
            one("Duplicate token", "the earlier copy of the token", "duplicate", repeated.copy_chance),
            one("Induction", "what followed the earlier copy", "induction", repeated.copy_chance),
        )
    )


def _position_plot(found: Explanation) -> str:
    wide, narrow = position_svg(found, size_in=(10.2, 3.6)), position_svg(found, size_in=(4.8, 3.2))
    first, last = found.loss_by_position[0], found.loss_by_position[-1]
    text = f"From {number(first[2])} with one token to {number(last[2])} with {last[0]:,} or more."
    return f"<div class=wide>{wide}</div><div class=narrow>{narrow}</div><figcaption>{text}</figcaption>"
