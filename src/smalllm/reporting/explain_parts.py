"""The parts of an explanation's page as HTML text. Whatever comes from a run or a prompt goes through `escaped`."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from smalllm.reporting.explanation import Explanation, Head, LensCell, PromptToken
from smalllm.reporting.markup import escaped
from smalllm.reporting.words import number, printable, share

FULL_BITS = 10.0  # surprise at which a token has its deepest colour: one in a thousand
MAX_CELLS = 4_000  # of one table on the page


def shown(text: str) -> str:
    """A token on one line: spaces at its ends as dots, newlines and the like as their signs or escapes."""
    bare = text.strip(" ")
    n_before = len(text) - len(text.lstrip(" "))
    n_after = len(text) - n_before - len(bare)
    return "·" * n_before + printable(bare.replace("\n", "⏎").replace("\t", "⇥")) + "·" * n_after


def quoted(text: str) -> str:
    """A token within a sentence."""
    return f"“{shown(text)}”"


def tokens(found: Explanation) -> str:
    """The prompt, each token coloured by its surprise and with the alternatives behind it."""
    text = "".join(map(_token, found.tokens))
    return (
        f"<p class=tokens>{text}</p><p class=legend>0 bits <i class=bits></i> {FULL_BITS:.0f} bits and more; "
        "the first token follows nothing, and is not scored</p>"
    )


def _token(token: PromptToken) -> str:
    visible = escaped(token.text).replace("\n", "⏎\n")
    if token.bits is None:
        return (
            f'<span class="tok none" tabindex=0>{visible}<span class=tip><b>{escaped(quoted(token.text))}</b> '
            "stands first: the model had nothing to expect it from.</span></span>"
        )
    lines = "".join(
        f'<span class=line style="--p:{100 * p:.0f}%"><code>{escaped(shown(text))}</code>{share(p)}</span>'
        for text, p in token.alternatives
    )
    depth = min(1.0, token.bits / FULL_BITS)
    return (
        f'<span class=tok tabindex=0 style="--s:{depth:.2f}">{visible}<span class=tip>'
        f"<b>{escaped(quoted(token.text))}</b> {number(token.bits)} bits: the model gave it "
        f"{share(2**-token.bits)}. It expected:{lines}</span></span>"
    )


def lens(found: Explanation) -> str:
    """Answers by depth (rows) and position (columns)."""
    n = min(len(found.tokens), max(8, MAX_CELLS // len(found.lens)))
    head = "".join(f"<th scope=col>{escaped(shown(t.text))}</th>" for t in found.tokens[:n])
    most = math.log2(found.vocab_size)
    rows = []
    for depth, row in enumerate(found.lens):
        name = f"block {depth}" if depth else "embedding"
        cells = "".join(_lens_cell(cell, most) for cell in row[:n])
        rows.append(f"<tr><th scope=row>{name}</th>{cells}</tr>")
    cut = f" The first {n:,} of {len(found.tokens):,} tokens." if n < len(found.tokens) else ""
    return (
        f"<div class=scroll><table class=lens><tr><th scope=row>after</th>{head}</tr>{''.join(rows)}</table></div>"
        f"<p class=legend>unsure: {number(most)} bits <i class=sure></i> sure: 0 bits.{cut}</p>"
    )


def _lens_cell(cell: LensCell, most: float) -> str:
    sure = max(0.0, 1 - cell.entropy_bits / most) if most else 1.0
    tip = f"{quoted(cell.text)} {share(cell.probability)}; entropy {number(cell.entropy_bits)} bits"
    kind = '"blue right"' if cell.is_right else "blue"
    text = escaped(shown(cell.text))
    return f'<td class={kind} tabindex=-1 style="--s:{sure:.2f}" data-tip="{escaped(tip)}">{text}</td>'


def parts(found: Explanation) -> str:
    """Bars of what each part adds and of its effect, and the effects token by token."""
    longest = max(part.norm for part in found.parts) or 1.0
    strongest = max(abs(part.effect) for part in found.parts) or 1.0
    rows = ["<b>part</b><b>length of what it adds</b><b class=second>effect on the right logit</b>"]
    for part in found.parts:
        less = " less" if part.effect < 0 else ""
        norm = f'<i style="--s:{part.norm / longest:.3f}"></i>{number(part.norm)}'
        effect = f'<i style="--s:{abs(part.effect) / strongest:.3f}"></i>{part.effect:+.2f}'
        name = f"<span>{part.name}</span>"
        rows.append(f'{name}<span class=bar>{norm}</span><span class="bar second{less}">{effect}</span>')
    total = sum(part.effect for part in found.parts)
    sums = (
        f"<p class=note>Together {total:+.2f} on average. The stream after the last block is "
        f"{number(found.stream_norm)} long; lengths do not add up, as vectors may point in different directions.</p>"
    )
    return f"<div class=bars>{''.join(rows)}</div><br>{sums}{_effects(found)}"


def _effects(found: Explanation) -> str:
    n = min(len(found.tokens) - 1, max(8, MAX_CELLS // len(found.parts)))
    most = max((abs(e) for part in found.parts for e in part.effects[:n]), default=0.0) or 1.0
    head = "".join(f"<th scope=col>{escaped(shown(token.text))}</th>" for token in found.tokens[1 : n + 1])
    rows = []
    for part in found.parts:
        cells = "".join(
            f'<td class={"orange" if e < 0 else "blue"} style="--s:{abs(e) / most:.2f}">{e:+.1f}</td>'
            for e in part.effects[:n]
        )
        rows.append(f"<tr><th scope=row>{part.name}</th>{cells}</tr>")
    cut = f" The first {n:,} of {len(found.tokens) - 1:,} tokens." if n < len(found.tokens) - 1 else ""
    return (
        "<details><summary>Token by token</summary><p class=note>Each column is a token that was to be predicted; blue "
        f"helped it, orange worked against it.{cut}</p><div class=scroll><table class=lens>"
        f"<tr><th scope=row>part</th>{head}</tr>{''.join(rows)}</table></div></details>"
    )


def spreads(found: Explanation) -> str:
    """A histogram of distances for every head, by layer; all have the same scale."""
    rows, highest = [], highest_share(found)
    for layer in range(1, found.n_layers + 1):
        cells = "".join(_spread(head, highest) for head in found.heads if head.layer == layer)
        rows.append(f"<h3>Layer {layer}</h3><div class=spreads>{cells}</div>")
    return "".join(rows)


def highest_share(found: Explanation) -> float:
    """The largest share of attention that any head has in one bin of distances."""
    return max(share for head in found.heads for share in head.histogram)


def columns_for(n_heads: int, *, most: int) -> int:
    """How many heads to show in a row so that rows are full, or nearly."""
    return -(-n_heads // -(-n_heads // most))


def _spread(head: Head, highest: float) -> str:
    n = len(head.histogram)
    bars = "".join(
        f'<rect x="{10 * i + 1}" y="{60 - height:.1f}" width="8" height="{height:.1f}"/>'
        for i, height in enumerate(60 * v / highest for v in head.histogram)
    )
    return (
        f'<div><svg viewBox="0 0 {10 * n} 60" preserveAspectRatio="none" role="img" aria-label="distances of head '
        f'{head.layer}.{head.head}">{bars}</svg>head {head.layer}.{head.head}: {number(head.distance)} back</div>'
    )


def bin_names(bins: Sequence[int]) -> str:
    """`0, 1, 2–3, 4–7, 8 or more`."""
    names = [f"{first}" if first + 1 == then else f"{first}–{then - 1}" for first, then in pairwise(bins)]
    return ", ".join([*names, f"{bins[-1]} or more" if len(bins) > 1 else f"{bins[-1]}"])


def grid(
    found: Explanation, title: str, meaning: str, value: Callable[[Head], float | None], *, most: float | None = None
) -> str:
    """One measure of all heads: a row per layer, a column per head.

    Args:
        found: with the heads.
        title: of the table.
        meaning: one sentence below it.
        value: the measure of a head.
        most: the value with the deepest colour; absent: the largest there is.
    """
    values = [value(head) or 0.0 for head in found.heads]
    deepest = most or max(values) or 1.0
    columns = "".join(f"<th scope=col>{head}</th>" for head in range(1, found.n_heads + 1))
    rows = []
    for layer in range(found.n_layers):
        row = values[layer * found.n_heads : (layer + 1) * found.n_heads]
        cells = "".join(f'<td class=blue style="--s:{min(1.0, v / deepest):.2f}">{_short(v)}</td>' for v in row)
        rows.append(f"<tr><th scope=row>layer {layer + 1}</th>{cells}</tr>")
    return (
        f"<div><h3>{title}</h3><div class=scroll><table class=heat><tr><th scope=row>head</th>{columns}</tr>"
        f"{''.join(rows)}</table></div><p class=note>{meaning}</p></div>"
    )


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.0f}"
