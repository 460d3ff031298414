"""The tables of the report page as HTML text, each from the facts of runs; nothing here reads a file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from smalllm.config import RunConfig, as_dict
from smalllm.reporting.facts import RunFacts, dig, labels
from smalllm.reporting.markup import escaped, grid, spread
from smalllm.reporting.words import UNKNOWN, count, duration, finite, named, number, rate, share, size, toml

MAX_EVALUATIONS = 15

# name, where in result.json, how it is written, what it means
MEASURES: tuple[tuple[str, str, Callable[[object], str], str], ...] = (
    ("Bits per byte", "val.bits_per_byte", number,
     "Loss of the scored text tokens [nats] / (ln 2 × their UTF-8 bytes); compares across tokenizers."),
    ("Loss", "val.loss", number, "Mean of −ln p(next token) over the validation tokens [nats per token]."),
    ("Perplexity", "val.perplexity", number, "The exponential of the loss: 1 is certainty."),
    ("Bits per token", "val.bits_per_token", number, "Loss / ln 2."),
    ("Accuracy", "val.accuracy", share, "Share of validation tokens that the model ranked first."),
    ("Unigram, bits per byte", "unigram.bits_per_byte", number,
     "The same text scored by how often each token occurs, blind to context."),
    ("Floor, bits per byte", "floor.bits_per_byte", number,
     "Entropy of the grammar that wrote the text: on average no model can need less."),
    ("Times the floor", "floor.ratio", number, "The model's loss / the floor; 1 is perfect."),
    ("Valid stories", "generated.valid_share", share, "Share of its own stories that the grammar accepts."),
    ("Parameters", "parameters", count, "Trained numbers in the model."),
    ("Steps", "steps", count, "Updates of the weights."),
    ("Tokens", "tokens", count, "Tokens trained on; a text seen twice counts twice."),
    ("Training time", "train_time_s", duration, "Wall-clock time of training."),
    ("Tokens per second", "tokens_per_second", rate, "Without compilation, evaluation and saving."),
    ("FLOPs utilisation", "mfu", share, "Arithmetic the model needs per second / peak of the device (MFU)."),
    ("Peak memory", "peak_memory_bytes", size, "Most memory held at one time while training."),
    ("Device", "device", str, "What it was trained on."),
)  # fmt: skip
EVALUATION_COLUMNS: tuple[tuple[str, str, Callable[[object], str]], ...] = (
    ("step", "step", count),
    ("tokens", "tokens", count),
    ("time", "elapsed_s", duration),
    ("loss", "loss", number),
    ("perplexity", "perplexity", number),
    ("bits per byte", "bits_per_byte", number),
    ("accuracy", "accuracy", share),
)
_LOWER_IS_BETTER = {"val.bits_per_byte", "val.loss", "val.perplexity", "val.bits_per_token", "floor.ratio"}
_HIGHER_IS_BETTER = {"val.accuracy", "generated.valid_share"}


def measures(facts: RunFacts) -> str:
    """Every number of result.json with its definition; the last evaluation stands in while there is none."""
    table = {**facts.result, "val": facts.last_val}
    rows = [
        f"<tr><th scope=row>{name}<small>{meaning}</small></th><td>{escaped(form(dig(table, key)))}</td></tr>"
        for name, key, form, meaning in MEASURES
        if dig(table, key) is not None
    ]
    return f"<table class=measures>{''.join(rows)}</table>" if rows else "<p>Nothing measured yet.</p>"


def evaluations(facts: RunFacts) -> str:
    """The validation rows: first, best, last and some between."""
    rows = facts.val
    if not rows:
        return "<p>No evaluation yet.</p>"
    losses = {i: loss for i, row in enumerate(rows) if (loss := finite(row.get("loss"))) is not None}
    best = min(losses, key=lambda i: losses[i], default=-1)
    shown = spread(len(rows), MAX_EVALUATIONS) | {best} - {-1}
    body = "".join(
        f"<tr{' class=best' if i == best else ''}>"
        + "".join(f"<td>{escaped(form(row.get(key)))}</td>" for _, key, form in EVALUATION_COLUMNS)
        + "</tr>"
        for i, row in enumerate(rows)
        if i in shown
    )
    note = "The lowest loss is in bold."
    if len(rows) > len(shown):
        note += f" {len(shown)} of {len(rows)} evaluations are shown; all are in metrics.jsonl."
    return grid([name for name, _, _ in EVALUATION_COLUMNS], body) + f"<p class=note>{note}</p>"


def tasks(facts: RunFacts) -> str:
    """Scores on benchmark tasks, each with its standard error, or "" if none were run."""
    scores = facts.result.get("tasks")
    rows = []
    for task, found in scores.items() if isinstance(scores, Mapping) else ():
        for key, value in found.items() if isinstance(found, Mapping) else ():
            if key == "n" or key.endswith("_stderr") or isinstance(value, Mapping):
                continue
            cells = (task, key, _score(found, key), count(found.get("n")))
            rows.append(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in cells)}</tr>")
    head = ["task", "measure", "score", "examples"]
    return f"<h3>Tasks</h3>{grid(head, ''.join(rows))}" if rows else ""


def comparison(runs: Sequence[RunFacts]) -> str:
    """One column per run: what they were set to, where it differs, and what came of it."""
    body = _part("Results", len(runs))
    for name, key, form, _ in MEASURES:
        values = [dig({**facts.result, "val": facts.last_val}, key) for facts in runs]
        if any(value is not None for value in values):
            body += _row(name, [UNKNOWN if v is None else form(v) for v in values], best=_best(key, values))
    body += "".join(_task_rows(runs)) + _part("Configuration, where it differs", len(runs))
    differing = differences(runs)
    for field, values in differing.items():
        body += _row(field, [_setting(value) for value in values])
    if not differing:
        body += f"<tr><td colspan={len(runs) + 1}>Nothing: the same configuration.</td></tr>"
    head = "".join(f"<th scope=col>{escaped(name)}</th>" for name in labels(runs))
    table = f"<table class='grid compare'><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class=scroll>{table}</div>{_caution(differing, runs)}"


def differences(runs: Sequence[RunFacts]) -> dict[str, list[Any]]:
    """The dotted fields of config.toml that the runs do not share, with the value of each run.

    What a run does not say has its default, or is None.
    """
    defaults = dict(_fields(as_dict(RunConfig())))
    flat = [defaults | dict(_fields(facts.config)) if facts.config else {} for facts in runs]
    names = {name: None for fields in flat for name in fields}
    values = {name: [fields.get(name) for fields in flat] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def _fields(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _fields(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _caution(differing: Mapping[str, Any], runs: Sequence[RunFacts]) -> str:
    """What the numbers do not allow one to conclude."""
    note = (
        "The best of each line is in bold, by validation text; a small difference may be luck: repeat with other seeds."
    )
    if any(field.startswith("tokenizer.") for field in differing):
        note += " The tokenizers differ: only bits per byte compare, and only on the same text."
    elif any(field in ("data.path", "data.val_files", "data.files", "data.source") for field in differing):
        note += " The data differ: their validation text may, too."
    unfinished = [name for name, facts in zip(labels(runs), runs, strict=True) if not facts.result]
    if unfinished:
        note += f" Not finished, with the numbers so far: {', '.join(unfinished)}."
    return f"<p class=note>{escaped(note)}</p>"


def _task_rows(runs: Sequence[RunFacts]) -> Iterator[str]:
    scores = [found if isinstance(found := facts.result.get("tasks"), Mapping) else {} for facts in runs]
    measures: dict[tuple[str, str], None] = {}
    for found in scores:
        for task, values in found.items():
            for key, value in values.items() if isinstance(values, Mapping) else ():
                if finite(value) is not None and key not in ("n", "chance") and not key.endswith("_stderr"):
                    measures[task, key] = None
    for task, key in measures:
        per_run = [values if isinstance(values := found.get(task), Mapping) else {} for found in scores]
        yield _row(f"{task}, {key}", [_score(values, key) for values in per_run])


def _score(found: Mapping[str, Any], key: str) -> str:
    """A task's measure with its standard error."""
    error = finite(found.get(f"{key}_stderr"))
    return named(key, found.get(key)) + ("" if error is None else f" ± {number(error)}")


def _best(key: str, values: Sequence[object]) -> set[int]:
    """The runs with the best value, where one is better than the others."""
    known = {i: value for i, found in enumerate(values) if (value := finite(found)) is not None}
    if len(known) < 2 or key not in _LOWER_IS_BETTER | _HIGHER_IS_BETTER or len(set(known.values())) == 1:
        return set()
    best = (min if key in _LOWER_IS_BETTER else max)(known.values())
    return {i for i, value in known.items() if value == best}


def _setting(value: object) -> str:
    return UNKNOWN if value is None else (value or '""') if isinstance(value, str) else toml(value)


def _row(name: str, cells: Sequence[str], best: set[int] | frozenset[int] = frozenset()) -> str:
    written = "".join(f"<td{' class=best' if i in best else ''}>{escaped(cell)}</td>" for i, cell in enumerate(cells))
    return f"<tr><th scope=row>{escaped(name)}</th>{written}</tr>"


def _part(title: str, n: int) -> str:
    return f"<tr class=part><th scope=rowgroup colspan={n + 1}>{escaped(title)}</th></tr>"
