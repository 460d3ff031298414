"""The report of a run: one HTML file that needs nothing else, on light and dark screens, wide and narrow.

The frame and its style are in `template.html`, the tables in `tables`, the curves in `plots`.
"""

from importlib import resources
from pathlib import Path
from string import Template

from smalllm.reporting import tables
from smalllm.reporting.draw import PLOTS
from smalllm.reporting.facts import RunFacts, curve, dig, loss_limits, perplexity_of, read_facts
from smalllm.reporting.plots import svg_of, write_plots
from smalllm.reporting.tables import escaped
from smalllm.reporting.words import count, duration, finite, number, rate, share
from smalllm.rundir import RunDir, write_text

WIDE_IN = (10.2, 4.5)
NARROW_IN = (4.8, 3.2)
CAPTIONS = {
    "loss": "How surprised the model is by the next token: lower is better. Training loss is of single "
    "batches; validation loss is of text it never trains on.",
    "perplexity": "The same, as a number of equally likely tokens, on a logarithmic scale.",
    "learning_rate": "How far each update may move the weights.",
    "grad_norm": "The length of the whole gradient; what is above the clipping norm is scaled down to it.",
    "tokens_per_second": "Training speed, without compilation, evaluation and saving.",
}


def write_report(run: RunDir) -> Path:
    """Draw the plots, then write `report.html`: the same files in the run give the same bytes.

    Returns:
        The path of the page.

    Raises:
        RunError: there is no such run directory, or its files are damaged.
    """
    write_plots(run)
    facts = read_facts(run)
    template = Template((resources.files("smalllm.reporting") / "template.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title=escaped(f"{facts.name} · {facts.recipe}"),
        name=escaped(facts.name),
        summary=_summary(facts),
        cards="".join(_card(*card) for card in _headline(facts)),
        plots=_plots(facts),
        measures=tables.measures(facts),
        evaluations=tables.evaluations(facts),
        tasks=tables.tasks(facts),
        samples=tables.samples(facts),
        commands=tables.commands(facts, str(run.path)),
        configuration=tables.configuration(facts),
        environment=tables.environment(facts),
    )
    write_text(run.report, page)
    return run.report


def _summary(facts: RunFacts) -> str:
    """One paragraph: what was trained, how long, and whether it is over."""
    result = facts.result
    last = facts.train[-1] if facts.train else facts.last_val
    steps, tokens = (result.get(key, last.get(key)) for key in ("steps", "tokens"))
    steps = steps if steps is not None else last.get("step")
    seconds = result.get("train_time_s", last.get("elapsed_s"))
    parameters = finite(result.get("parameters"))
    model = f"A GPT with {count(parameters)} parameters" if parameters else "A GPT"
    text = f"{model}, recipe {facts.recipe}"
    if finite(steps) is not None:
        text += f": {count(steps)} steps, {count(tokens)} tokens, {duration(seconds)}"
    device = result.get("device") or facts.environment.get("device")
    text += f" on {device}." if device else "."
    if not result:
        text += " The run has no result.json yet: these are the numbers so far."
    return escaped(text)


def _headline(facts: RunFacts) -> list[tuple[str, str, str]]:
    """The numbers that matter, each with what it is and what to compare it with."""
    val, result = facts.last_val, facts.result
    cards = []
    bits, unigram_bits = finite(val.get("bits_per_byte")), finite(dig(result, "unigram.bits_per_byte"))
    if bits is not None:
        text = "What the model needs, on average, to write down each byte of text it has never seen."
        if unigram_bits is not None:
            text += f" A model that only knows how often each token occurs needs {number(unigram_bits)}."
        cards.append((number(bits), "bits per byte", text))
    perplexity = finite(val.get("perplexity"))
    if perplexity is not None:
        text = f"At each token it is as unsure as among {number(perplexity)} equally likely ones."
        unigram_loss = finite(dig(result, "unigram.loss"))
        if unigram_loss is not None:
            text += f" From token counts alone: {number(perplexity_of(unigram_loss))}."
        cards.append((number(perplexity), "perplexity", text))
    return cards + _headline_of_stories(facts, bits) or [
        ("–", "no evaluation yet", "The first numbers appear here after the first evaluation.")
    ]


def _headline_of_stories(facts: RunFacts, bits: float | None) -> list[tuple[str, str, str]]:
    """How near the model came to the known entropy of its text; without one, accuracy and speed."""
    result = facts.result
    cards = []
    ratio, floor_bits = finite(dig(result, "floor.ratio")), finite(dig(result, "floor.bits_per_byte"))
    if ratio is not None:
        text = "1 is perfect: these stories come from a grammar whose true randomness is known"
        text += f", {number(floor_bits)} bits per byte." if floor_bits is not None else "."
        unigram_bits = finite(dig(result, "unigram.bits_per_byte"))
        if bits is not None and floor_bits is not None and unigram_bits is not None:
            learned = (unigram_bits - bits) / ((unigram_bits - floor_bits) or 1)
            text += f" It learned {share(learned)} of what there is to learn beyond token counts."
        cards.append((f"{number(ratio)}×", "the floor", text))
    valid, n = finite(dig(result, "generated.valid_share")), finite(dig(result, "generated.n"))
    if valid is not None:
        stories = f"{count(n)} stories" if n is not None else "the stories"
        cards.append((share(valid), "valid stories", f"The share of {stories} it wrote that obey the grammar."))
    accuracy, speed = finite(facts.last_val.get("accuracy")), finite(result.get("tokens_per_second"))
    if ratio is None and accuracy is not None:
        cards.append((share(accuracy), "accuracy", "How often its first choice is the token that follows."))
    if valid is None and speed is not None:
        cards.append((rate(speed), "tokens per second", "How fast it trained."))
    return cards


def _card(figure: str, what: str, text: str) -> str:
    return f"<div class=card><p class=figure>{figure}<span>{what}</span></p><p>{escaped(text)}</p></div>"


def _plots(facts: RunFacts) -> str:
    """Every curve, the first across the page (with a narrow twin for phones), the others in two columns."""
    figures = []
    for i, plot in enumerate(PLOTS):
        narrow = svg_of(plot.name, facts, size_in=NARROW_IN)
        if not narrow:
            continue
        picture = f"<div class=narrow>{narrow}</div>" if i == 0 else narrow
        if i == 0:
            picture = f"<div class=wide>{svg_of(plot.name, facts, size_in=WIDE_IN)}</div>{picture}"
        caption = CAPTIONS[plot.name] + (_above_frame(facts) if plot.name == "loss" else "")
        figures.append(
            f"<figure class={'first' if i == 0 else 'other'}><h3>{plot.title}</h3>{picture}"
            f"<figcaption>{escaped(caption)}</figcaption></figure>"
        )
    return "".join(figures) or "<p>Nothing to draw yet.</p>"


def _above_frame(facts: RunFacts) -> str:
    limits, losses = loss_limits(facts), curve(facts.train, "loss")
    if limits is None or not len(losses) or losses.values.max() <= limits[1]:
        return ""
    highest = int(losses.values.argmax())
    return f" Above the frame: {number(losses.values[highest])} at step {count(losses.steps[highest])}."
