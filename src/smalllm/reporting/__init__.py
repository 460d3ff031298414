"""Plots and a one-file HTML page from what a run wrote down. Reads files only: it never imports torch.

`write_plots` draws the five curves as PNG, `write_report` draws them and writes `report.html` beside them.
"""

from smalllm.reporting.page import write_report
from smalllm.reporting.plots import write_plots

__all__ = ["write_plots", "write_report"]
