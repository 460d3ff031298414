"""The parts of the report page as HTML text, each from the facts of one run; nothing here reads a file.

Whatever comes from a file goes through `escaped` on its way into HTML.
"""

import html
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from smalllm.config import RunConfig, as_dict
from smalllm.reporting.facts import RunFacts, dig
from smalllm.reporting.words import count, duration, finite, named, number, rate, share, size

MAX_EVALUATIONS = 15
MAX_SAMPLED_STEPS = 6
MAX_PROMPTS = 8
MAX_SAMPLE_CHARACTERS = 4_000

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


def escaped(value: object) -> str:
    """Text that is safe inside an HTML element or a quoted attribute, whatever it was.

    Characters that HTML or UTF-8 cannot hold (control characters, half surrogates) become U+FFFD.
    """
    text = "".join(c if c in "\n\t" or (c >= " " and not "\ud800" <= c <= "\udfff") else "\ufffd" for c in str(value))
    return html.escape(text)


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
    shown = _spread(len(rows), MAX_EVALUATIONS) | {best} - {-1}
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
    return _grid([name for name, _, _ in EVALUATION_COLUMNS], body) + f"<p class=note>{note}</p>"


def tasks(facts: RunFacts) -> str:
    """Scores on benchmark tasks, each with its standard error, or "" if none were run."""
    scores = facts.result.get("tasks")
    rows = []
    for task, found in scores.items() if isinstance(scores, Mapping) else ():
        for key, value in found.items() if isinstance(found, Mapping) else ():
            if key == "n" or key.endswith("_stderr") or isinstance(value, Mapping):
                continue
            error = finite(found.get(f"{key}_stderr"))
            score = named(key, value) + ("" if error is None else f" ± {number(error)}")
            cells = (task, key, score, count(found.get("n")))
            rows.append(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in cells)}</tr>")
    head = ["task", "measure", "score", "examples"]
    return f"<h3>Tasks</h3>{_grid(head, ''.join(rows))}" if rows else ""


def configuration(facts: RunFacts) -> str:
    """The stored configuration by section: what differs from the defaults, and the rest folded away."""
    if not facts.config:
        return "<p>No config.toml in this run.</p>"
    defaults = as_dict(RunConfig())
    parts = []
    for section, values in facts.config.items():
        if not isinstance(values, Mapping):
            continue
        usual = defaults.get(section, {})
        lines = [
            f"<div class={'same' if value == usual.get(key) else 'set'}>{escaped(key)} = "
            f"<b>{escaped(_toml(value))}</b></div>"
            for key, value in sorted(values.items(), key=lambda item: item[1] == usual.get(item[0]))
        ]
        parts.append(f"<section><h3>[{escaped(section)}]</h3>{''.join(lines)}</section>")
    return f"<div class=config>{''.join(parts)}</div>"


def environment(facts: RunFacts) -> str:
    """Everything environment.json says, in its order, with units."""
    rows = "".join(
        f"<tr><th scope=row>{escaped(_label(key))}</th><td>{escaped(named(key, value))}</td></tr>"
        for key, value in _flat(facts.environment)
    )
    return f"<table class=facts>{rows}</table>" if rows else "<p>No environment.json in this run.</p>"


def samples(facts: RunFacts) -> str:
    """What the model wrote: the latest open, the first and some between folded."""
    by_step: dict[float, list[dict[str, Any]]] = {}
    for row in facts.samples:
        by_step.setdefault(finite(row.get("step")) or 0.0, []).append(row)
    steps = sorted(by_step, reverse=True)
    if not steps:
        return "<p>No samples yet.</p>"
    return "".join(
        f"<details{' open' if i == 0 else ''}><summary>After {count(steps[i])} steps</summary>"
        + "".join(_sample(row) for row in by_step[steps[i]][:MAX_PROMPTS])
        + "</details>"
        for i in sorted(_spread(len(steps), MAX_SAMPLED_STEPS))
    )


def commands(facts: RunFacts, run_path: str) -> str:
    """What to type next, ready to copy."""
    run = shlex.quote(run_path)
    config = shlex.quote(f"{run_path}/config.toml")
    steps = finite(dig(facts.config, "train.max_steps"))
    longer = f" --train.max_steps {2 * steps:.0f}" if steps else ""
    prompts = [row.get("prompt") for row in facts.samples]
    prompt = shlex.quote(next((str(p) for p in prompts if p), "Once upon a time"))
    lines: Sequence[tuple[str, str]] = (
        ("Repeat it from the start", f"smalllm train {config} --out {shlex.quote(run_path + '-again')}"),
        ("Continue it after an interruption", f"smalllm train {config} --out {run} --resume"),
        *([("Train it for twice as long", f"smalllm train {config} --out {run} --resume{longer}")] if longer else []),
        ("Let it write", f"smalllm generate {run} --prompt {prompt}"),
        ("Measure it again", f"smalllm evaluate {run}"),
    )
    return "".join(f"<p class=note>{what}</p><pre>{escaped(line)}</pre>" for what, line in lines)


def _grid(names: Iterable[str], body: str) -> str:
    head = "".join(f"<th scope=col>{name}</th>" for name in names)
    return f"<div class=scroll><table class=grid><thead><tr>{head}</tr></thead>{body}</table></div>"


def _spread(n: int, n_chosen: int) -> set[int]:
    """At most `n_chosen` of the positions 0 to n-1, evenly spread, first and last among them."""
    return {round(i * (n - 1) / (n_chosen - 1)) for i in range(n_chosen)}


def _sample(row: Mapping[str, Any]) -> str:
    prompt, text = str(row.get("prompt") or ""), str(row.get("text") or "")
    text = text.removeprefix(prompt)
    cut = "" if len(text) <= MAX_SAMPLE_CHARACTERS else " … (cut here; the rest is in samples.jsonl)"
    lead = f"<b>{escaped(prompt)}</b>" if prompt else ""
    return f"<blockquote>{lead}{escaped(text[:MAX_SAMPLE_CHARACTERS])}{cut}</blockquote>"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(_toml(part) for part in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _label(key: str) -> str:
    for unit in ("_bytes", "_s"):
        key = key.removesuffix(unit)
    return key.replace("_", " ")


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        elif value is not None:
            yield f"{prefix}{key}", value
