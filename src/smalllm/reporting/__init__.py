"""Plots and a one-file HTML page from what runs wrote down. Reads files only: it never imports torch.

`write_report` draws the plots as PNG and writes `report.html` and, for programs, `report.json` beside them; `watch`
serves the same page while a run trains.
"""

from smalllm.reporting.page import write_report
from smalllm.reporting.watch import watch

__all__ = ["watch", "write_report"]
