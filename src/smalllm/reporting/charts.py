"""Which charts the page has and what each shows; `chart.js` draws them in the browser from the page's own data."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from smalllm.reporting.curves import levels
from smalllm.reporting.facts import RunFacts, labels

_HEADLINE_MEASURES = ("acc_norm", "acc", "bits_per_byte")  # of a task, in this order; the table has all of them


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Attributes:
        title: over it.
        label: of the vertical axis, with the unit.
        caption: under it.
        key: the metric.
        rows: where it is found: in train rows, val rows, both or the rows of a task.
        task: its name, for rows of a task.
        smooth: whether the slider applies to it.
        form: how its values are written, a function of `words.js`.
        scale: its vertical axis until the reader chooses another: `spread` leaves out single spikes and the first
            steps, `zero` begins at 0, `wide` is logarithmic where the values spread far.
        is_exponential: draws exp of the metric.
    """

    title: str
    label: str
    caption: str
    key: str
    rows: Literal["train", "val", "both", "task"]
    task: str = ""
    smooth: bool = False
    form: Literal["number", "rate", "scientific", "share"] = "number"
    scale: Literal["spread", "zero", "wide"] = "spread"
    is_exponential: bool = False


CHARTS = (
    Chart("Loss", "nats per token",
          "How surprised the model is by the next token: lower is better. Training loss is of single batches; "
          "validation loss is of text it never trains on.", "loss", "both", smooth=True),
    Chart("Bits per byte", "bits per byte",
          "The same of validation text, per byte instead of per token: it compares across tokenizers.",
          "bits_per_byte", "val"),
    Chart("Perplexity", "tokens",
          "The loss as a number of equally likely tokens.", "loss", "both", smooth=True, scale="wide",
          is_exponential=True),
    Chart("Learning rate", "learning rate", "How far each update may move the weights.", "lr", "train",
          form="scientific", scale="zero"),
    Chart("Gradient norm", "norm before clipping",
          "The length of the whole gradient; what is above the clipping norm is scaled down to it.",
          "grad_norm", "train", smooth=True, scale="wide"),
    Chart("Training speed", "tokens per second", "Without compilation, evaluation and saving.",
          "tokens_per_second", "train", smooth=True, form="rate", scale="zero"),
)  # fmt: skip


def page_data(runs: Sequence[RunFacts], curves: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All that the scripts of the page need: the curves of every run, and the charts that have something to show."""
    drawn = [
        {"name": name, "levels": levels(facts), **found}
        for name, facts, found in zip(labels(runs), runs, curves, strict=True)
    ]
    charts = [chart for chart in [*CHARTS, *_task_charts(drawn)] if any(_has_values(run, chart) for run in drawn)]
    return {"runs": drawn, "charts": [asdict(chart) for chart in charts]}


def embedded(data: object) -> str:
    """JSON that can stand in a script element of any page: no character of it can end the element."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _task_charts(drawn: Sequence[dict[str, Any]]) -> list[Chart]:
    """One chart for each task that was scored while training, of the measure that says most."""
    found: dict[str, list[str]] = {}
    for run in drawn:
        for task, table in run["tasks"].items():
            found.setdefault(task, []).extend(table)
    charts = []
    for task, keys in found.items():
        measures = [key for key in keys if key not in ("step", "tokens", "elapsed_s") and not key.endswith("_stderr")]
        key = next((key for key in _HEADLINE_MEASURES if key in measures), measures[0] if measures else None)
        if key is not None:
            caption = "On a sample of its questions, with standard errors: less than about two of them may be luck."
            charts.append(Chart(task, key, caption, key, "task", task=task))
    return charts


def _has_values(run: dict[str, Any], chart: Chart) -> bool:
    if chart.rows == "task":
        tables = [run["tasks"].get(chart.task, {})]
    else:
        tables = [run[split] for split in ("train", "val") if chart.rows in (split, "both")]
    return any(value is not None for table in tables for value in table.get(chart.key, ()))
