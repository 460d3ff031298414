"""The texts of the report page as HTML: samples, events, how to repeat a run, its configuration and machine."""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from smalllm.config import RunConfig, as_dict
from smalllm.reporting.facts import RunFacts, dig, labels
from smalllm.reporting.markup import escaped, spread
from smalllm.reporting.words import count, finite, named, toml

MAX_SAMPLED_STEPS = 6
MAX_PROMPTS = 8
MAX_SAMPLE_CHARACTERS = 3_000
MAX_EVENTS = 100


def per_run(runs: Sequence[RunFacts], part: Callable[[RunFacts], str]) -> str:
    """A part of the page for each run: of several, each folded away under its name."""
    if len(runs) == 1:
        return part(runs[0])
    return "".join(
        f"<details data-key='{part.__name__} {i}'><summary>{escaped(name)}</summary>{part(facts)}</details>"
        for i, (name, facts) in enumerate(zip(labels(runs), runs, strict=True))
    )


def samples(runs: Sequence[RunFacts]) -> str:
    """What the models wrote after each prompt, through training side by side, the latest first."""
    parts = []
    for prompt in chosen_prompts(runs):
        lead = escaped(prompt) if prompt else "(no prompt)"
        rows = []
        for name, facts in zip(labels(runs), runs, strict=True):
            texts = chosen_samples(facts, prompt)
            if texts:
                owner = f"<h3>{escaped(name)}</h3>" if len(runs) > 1 else ""
                rows.append(
                    f"{owner}<div class=texts tabindex=0>{''.join(_sample(row, prompt) for row in texts)}</div>"
                )
        parts.append(f"<p class=prompt>{lead}</p>{''.join(rows)}")
    return "".join(parts) or "<p>No samples yet.</p>"


def chosen_prompts(runs: Sequence[RunFacts]) -> list[str]:
    """The first prompts that the runs were given, in their order."""
    return list(dict.fromkeys(str(row.get("prompt") or "") for facts in runs for row in facts.samples))[:MAX_PROMPTS]


def chosen_samples(facts: RunFacts, prompt: str) -> list[dict[str, Any]]:
    """The samples of one prompt at the last step, the first and some between, one for each step; the latest first."""
    by_step: dict[float, dict[str, Any]] = {}
    for row in facts.samples:
        if str(row.get("prompt") or "") == prompt:
            by_step.setdefault(finite(row.get("step")) or 0.0, row)
    steps = sorted(by_step)
    return [by_step[steps[i]] for i in sorted(spread(len(steps), MAX_SAMPLED_STEPS), reverse=True)] if steps else []


def _sample(row: Mapping[str, Any], prompt: str) -> str:
    text = str(row.get("text") or "").removeprefix(prompt)
    cut = "" if len(text) <= MAX_SAMPLE_CHARACTERS else " … (cut here; the rest is in samples.jsonl)"
    step = count(row.get("step"))
    return (
        f"<div><h4>after {step} steps</h4><blockquote>{escaped(text[:MAX_SAMPLE_CHARACTERS])}{cut}</blockquote></div>"
    )


def events(runs: Sequence[RunFacts]) -> str:
    """What happened while the runs trained, the latest last; "" if nothing did."""
    rows = [
        (name if len(runs) > 1 else "", row)
        for name, facts in zip(labels(runs), runs, strict=True)
        for row in facts.events
    ]
    if not rows:
        return ""
    lines = "".join(
        f"<li>{escaped(name + ', ' if name else '')}step {count(row.get('step'))}: {escaped(row.get('event', ''))}</li>"
        for name, row in rows[-MAX_EVENTS:]
    )
    more = f"<p class=note>The last {MAX_EVENTS} of {len(rows)}; all are in metrics.jsonl.</p>"
    return f"<h2>Events</h2><div class=box><ul>{lines}</ul>{more if len(rows) > MAX_EVENTS else ''}</div>"


def commands(facts: RunFacts) -> str:
    """What to type to repeat a run, continue it or use it, and the configuration that it needs."""
    lines = "".join(f"<p class=note>{what}</p><pre>{escaped(line)}</pre>" for what, line in command_lines(facts))
    if facts.config_text:
        lines += (
            f"<details data-key='config {escaped(facts.path)}'><summary>config.toml</summary>"
            f"<pre>{escaped(facts.config_text)}</pre></details>"
        )
    return lines


def command_lines(facts: RunFacts) -> list[tuple[str, str]]:
    """What a command is for, and the command."""
    run, again = shlex.quote(facts.path), shlex.quote(facts.path + "-again")
    config = shlex.quote(f"{facts.path}/config.toml")
    steps = finite(dig(facts.config, "train.max_steps"))
    longer = f" --train.max_steps {2 * steps:.0f}" if steps else ""
    prompts = [row.get("prompt") for row in facts.samples]
    prompt = shlex.quote(next((str(p) for p in prompts if p), "Once upon a time"))
    lines = [
        ("Prepare its data, if they are not there", f"smalllm prepare {config}"),
        ("Repeat it from the start", f"smalllm train {config} --out {again}"),
        ("Continue it after an interruption", f"smalllm train {config} --out {run} --resume"),
        ("Train it for twice as long", f"smalllm train {config} --out {run} --resume{longer}"),
        ("Let it write", f"smalllm generate {run} --prompt {prompt}"),
        ("Measure it again", f"smalllm evaluate {run}"),
    ]
    return [line for line in lines if longer or "twice" not in line[0]]


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
            f"<b>{escaped(toml(value))}</b></div>"
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
