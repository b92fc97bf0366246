"""The figure of docs/learning_rate_free.md."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.common.reporting import Row


def draw(path: Path, rows: list[Row]) -> None:
    """For every task, above, the curves of the scores; below, the last scores and their spread.

    The axes are made for those contenders that have learnt something: got half of the way from the
    best constant answer to the best score. The curves of others leave the frame, and an arrow below
    has their last score.
    """
    works: dict[str, list[Row]] = {}
    for row in rows:
        works.setdefault(row["work"], []).append(row)
    names = list(dict.fromkeys(row["contender"] for row in rows))
    others = [name for name in names if name != "adadelta"]
    colors = {"adadelta": "black"} | {name: f"C{i}" for i, name in enumerate(others)}
    figure = Figure(figsize=(3.8 * len(works) + 1, 7.5), layout="constrained")
    axes = figure.subplots(2, len(works), squeeze=False)
    for (curves, dots), table in zip(axes.T, works.values(), strict=True):
        label, constant = table[0]["score_name"], table[0]["constant_score"]
        best = min(row["mean"] for row in table)
        points = np.arange(1, len(table[0]["curve"]) + 1) / len(table[0]["curve"])
        shown = []
        for row in table:
            place, color = names.index(row["contender"]), colors[row["contender"]]
            width, above = (2.8, 3) if row["contender"] == "adadelta" else (1.3, 2)
            curves.plot(points * row["steps"], row["curve"], color=color, lw=width, zorder=above)
            if row["mean"] <= (best + constant) / 2:
                shown += row["curve"]
                dots.errorbar(
                    row["mean"], place, xerr=row["standard_error"], fmt="o", color=color, capsize=3
                )
            else:
                dots.annotate(
                    f"{row['mean']:.3g} \N{RIGHTWARDS ARROW}",
                    (0.98, place),
                    xycoords=dots.get_yaxis_transform(),
                    ha="right",
                    va="center",
                    color=color,
                )
        curves.set(title=table[0]["title"], xlabel="steps", ylabel=label)
        if constant > 5 * best:
            curves.set_yscale("log")
            curves.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            curves.yaxis.set_major_formatter("{x:g}")
            curves.yaxis.set_minor_formatter(NullFormatter())
        if shown:
            curves.set_ylim(min(shown) * 0.97, max(shown) * 1.03)
        dots.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
        dots.set_yticks(range(len(names)), names if dots is axes[1, 0] else [])
        dots.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=120)
