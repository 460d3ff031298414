"""The report of one run or several: one HTML file that needs nothing else, on light and dark screens, wide and narrow.

Its frame, style and scripts are in `web/`. What the reader sees of text and tables is made here, so that it is there
without scripts too; the curves are drawn by the page's script from the data that stands in it.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from smalllm.errors import ConfigError
from smalllm.reporting import tables, texts
from smalllm.reporting.charts import embedded, page_data
from smalllm.reporting.curves import all_curves
from smalllm.reporting.facts import RunFacts, read_facts
from smalllm.reporting.headline import headline, summary
from smalllm.reporting.markup import escaped
from smalllm.reporting.overlay import write_overlays
from smalllm.reporting.plots import write_plots
from smalllm.reporting.twin import twin_of
from smalllm.rundir import RunDir, write_text

_SCRIPTS = ("words", "scales", "series", "chart", "cursor", "page")
_WEB = resources.files("smalllm.reporting") / "web"


def write_report(*runs: RunDir, out: Path | None = None) -> Path:
    """Draw the plots, then write `report.html` and `report.json`: the same files in the runs give the same bytes.

    Args:
        runs: one run, or several to compare.
        out: the folder to write into; absent: the run itself, for several runs `comparison`.

    Returns:
        The path of the page.

    Raises:
        RunError: there is no such run directory, or its files are damaged.
        ConfigError: no run was given.
    """
    if not runs:
        raise ConfigError("a report needs at least one run directory; give one that `smalllm train` has written")
    folder = RunDir(out or (runs[0].path if len(runs) == 1 else Path("comparison")))
    facts = [read_facts(run) for run in runs]
    folder.path.mkdir(parents=True, exist_ok=True)
    if len(runs) == 1:
        write_plots(facts[0], folder.plots)
    else:
        write_overlays(facts, folder.plots)
    curves = all_curves(facts)
    write_text(folder.path / "report.json", twin_of(facts, curves))
    write_text(folder.report, page_of(facts, curves))
    return folder.report


def page_of(runs: Sequence[RunFacts], curves: Sequence[dict[str, Any]], *, every_s: float | None = None) -> str:
    """The page as text.

    Args:
        runs: what it tells of.
        curves: of each, as `all_curves` makes them.
        every_s: where it is served: how often it asks for news [s]. Without it the page makes no connection at all.
    """
    script = "".join((_WEB / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    script = f'"use strict";\n{script}'
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    is_single = len(runs) == 1
    return Template((_WEB / "page.html").read_text(encoding="utf-8")).substitute(
        title=escaped(f"{runs[0].name} · {runs[0].recipe}" if is_single else f"{len(runs)} runs"),
        name=escaped(runs[0].name if is_single else f"{len(runs)} runs"),
        summary=escaped(summary(runs[0]) if is_single else "Compared by what they were set to and what came of it."),
        head=headline(runs[0]) if is_single else f"<div class=box>{tables.comparison(runs)}</div>",
        events=texts.events(runs),
        sections=_sections(runs),
        style="".join((_WEB / f"{name}.css").read_text(encoding="utf-8") for name in ("page", "charts")),
        script=script,
        script_hash=f"sha256-{digest}",
        connect="" if every_s is None else "; connect-src 'self'",
        live="" if every_s is None else f" data-every={every_s:g}",
        data=embedded(page_data(runs, curves)),
    )


def _sections(runs: Sequence[RunFacts]) -> str:
    is_single = len(runs) == 1
    numbers = (
        f"<div class=box>{tables.measures(runs[0])}</div><div class=box><h3>Evaluations</h3>"
        f"{tables.evaluations(runs[0])}{tables.tasks(runs[0])}</div>"
        if is_single
        else f"<div class=box>{texts.per_run(runs, tables.evaluations)}</div>"
    )
    return (
        "<h2>Samples</h2><p class=note>What the model wrote after the prompt, as it came, the latest first; without a "
        f"prompt it starts a text of its own.</p><div class=box>{texts.samples(runs)}</div>"
        f"<h2>{'Numbers' if is_single else 'Evaluations'}</h2>{numbers}"
        "<h2>Do it again</h2><p class=note>One click on a line selects it.</p>"
        f"<div class=box>{texts.per_run(runs, texts.commands)}</div>"
        "<h2>Configuration</h2><p class=note>As resolved when the run started. Bold values differ from the defaults of "
        f"smalllm; grey lines do not.</p><div class=box>{texts.per_run(runs, texts.configuration)}</div>"
        f"<h2>Environment</h2><div class=box>{texts.per_run(runs, texts.environment)}</div>"
    )
