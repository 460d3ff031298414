"""`report.json`: what the page tells, for programs."""

import json
from collections.abc import Sequence
from typing import Any

from smalllm.reporting.facts import RunFacts, labels
from smalllm.reporting.tables import differences
from smalllm.reporting.texts import chosen_prompts, chosen_samples, command_lines


def twin_of(runs: Sequence[RunFacts], curves: Sequence[dict[str, Any]]) -> str:
    """The text of `report.json`, as docs/formats.md describes it; numbers that JSON cannot hold become null.

    Args:
        runs: what it tells of.
        curves: of each, as `all_curves` makes them.
    """
    facts = {
        "format": "smalllm-report",
        "version": 1,
        "differences": differences(runs),
        "runs": [
            {
                "name": name,
                "path": facts.path,
                "recipe": facts.recipe,
                "config": facts.config,
                "environment": facts.environment,
                "result": facts.result,
                "commands": dict(command_lines(facts)),
                "samples": [row for prompt in chosen_prompts(runs) for row in chosen_samples(facts, prompt)],
                **found,
            }
            for name, facts, found in zip(labels(runs), runs, curves, strict=True)
        ],
    }
    plain = json.loads(json.dumps(facts), parse_constant=lambda _: None)
    return json.dumps(plain, separators=(",", ":")) + "\n"
