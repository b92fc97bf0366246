"""The figure of docs/paper.md: errors by epoch, and beside those of the paper."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

from benchmarks.common.reporting import Row
from benchmarks.paper import settings


def draw(path: Path, rows: list[Row]) -> None:
    """Draw errors by epoch, of each method at its best setting, and all settings' last errors.

    Bars are standard errors over the seeds.
    """
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    by_epoch, by_setting = figure.subplots(1, 2)
    for method in settings.METHODS:
        found = [row for row in rows if row["work"] == "paper" and row["method"] == method]
        if found:
            best = min(found, key=lambda row: row["mean"])
            errors = np.array(best["errors"])  # [seeds, epochs]
            spread = errors.std(0, ddof=1) / np.sqrt(len(errors))
            by_epoch.errorbar(
                np.arange(errors.shape[1]) + 1,
                errors.mean(0),
                spread,
                marker="o",
                capsize=3,
                label=best["contender"],
            )
            means, spread, paper = (
                [row[key] for row in found] for key in ("mean", "standard_error", "paper")
            )
            by_setting.errorbar(paper, means, spread, fmt="o", capsize=3, label=method)
    by_setting.axline((2, 2), slope=1, color="grey", linewidth=0.8, label="as in the paper")
    by_epoch.set(title="best setting of each", xlabel="epochs", ylabel="test error, %")
    by_setting.set(
        title="all settings",
        xlabel="the paper's test error, quoted from memory, %",
        ylabel="here, %",
    )
    by_setting.set(xscale="log", yscale="log")
    for axis in (by_setting.xaxis, by_setting.yaxis):
        axis.set_major_locator(FixedLocator([2, 5, 10, 20, 50, 100]))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
    for panel in (by_epoch, by_setting):
        panel.legend()
    figure.savefig(path, dpi=120)
