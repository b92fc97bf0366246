"""The tables of docs/learning_rate_free.md."""

from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.common.reporting import Row, markdown, read

# Standard errors within which a mean difference over five seeds says nothing: 95 % of Student's t
# with four degrees of freedom.
LEVEL = 2.776
CONTENDERS = {
    "adadelta": "**Adadelta**",
    "adam": "Adam, 1e-3",
    "adam_tuned": "Adam, tuned",
    "schedule_free_adamw": "schedule-free AdamW",
    "prodigy": "Prodigy",
    "mechanize_adam": "Mechanic around Adam",
    "cocob": "COCOB",
    "dog": "DoG",
    "dog_averaged": "DoG, averaged",
    "dowg": "DoWG",
}

Work = dict[str, Row]  # the rows of one task, by contender


def works(results: Path) -> dict[str, Work]:
    """The rows by task and contender."""
    found: dict[str, Work] = {}
    for row in read(results, "learning_rate_free")["results"]:
        found.setdefault(row["work"], {})[row["contender"]] = row
    return found


def any_row(work: Work) -> Row:
    """One of a task's rows, for what stands in all."""
    return next(iter(work.values()))


def table_of_cells(results: Path, heading: Callable[[Row], str], cell: Callable[[Row], str]) -> str:
    """A line for each contender, a column for each task."""
    found = works(results)
    lines = [
        [title, *(cell(work[name]) if name in work else "" for work in found.values())]
        for name, title in CONTENDERS.items()
        if any(name in work for work in found.values())
    ]
    return markdown(["", *(heading(any_row(work)) for work in found.values())], lines)


def title_and_score(row: Row) -> str:
    """The heading of a task's column of scores."""
    return f"{row['title']}: {row['score_name']}"


def digits(row: Row) -> int:
    """How many decimals a task's scores are given with."""
    return 2 if row["score_name"].endswith("%") else 3


def score(row: Row) -> str:
    """A mean score with its standard error; bold if it is the best or level with it."""
    text = f"{row['mean']:.{digits(row)}f} ± {row['standard_error']:.{digits(row)}f}"
    level = row.get("less_best", 0.0) <= LEVEL * row.get("less_best_standard_error", 0.0)
    return f"**{text}**" if level else text


def scores(results: Path) -> str:
    """The scores of all contenders, and that of the best constant answer."""
    constants = (any_row(work) for work in works(results).values())
    cells = [f"{row['constant_score']:.{digits(row)}f}" for row in constants]
    table = table_of_cells(results, title_and_score, score)
    return f"{table}\n| the best constant answer | {' | '.join(cells)} |"


def difference(row: Row) -> str:
    """How much more than Adadelta's a score is, and who is ahead."""
    if "less_adadelta" not in row:
        return ""
    mean, error = row["less_adadelta"], row["less_adadelta_standard_error"]
    ahead = "level" if abs(mean) <= LEVEL * error else "Adadelta" if mean > 0 else "it"
    return f"{mean:+.{digits(row)}f} ± {error:.{digits(row)}f}: {ahead}"


def against_adadelta(results: Path) -> str:
    """The differences from Adadelta's scores, seed by seed."""
    return table_of_cells(results, title_and_score, difference)


def training_loss(results: Path) -> str:
    """The mean training loss over the last part of the steps."""
    return table_of_cells(results, lambda row: row["title"], lambda row: f"{row['loss']:.4f}")


def contenders(results: Path) -> str:
    """How each contender is made, and how many numbers its state has for each parameter."""
    work = list(works(results).values())[-1]  # of the largest network
    lines = [
        [title, f"`{work[name]['made_by']}`", f"{work[name]['state_per_parameter']:.1f}"]
        for name, title in CONTENDERS.items()
        if name in work
    ]
    return markdown(["", "made by", "state, numbers a parameter"], lines)


def tuning(results: Path) -> str:
    """Adam's scores on the validation examples, by learning rate; the best is bold."""
    rows = [work["adam_tuned"] for work in works(results).values() if "adam_tuned" in work]
    lines = []
    for rate in rows[0]["validation_scores"]:
        cells = []
        for row in rows:
            text = f"{row['validation_scores'][rate]:.{digits(row)}f}"
            cells.append(f"**{text}**" if float(rate) == row["learning_rate"] else text)
        lines.append([rate, *cells])
    headings = [title_and_score(row).replace("test", "validation") for row in rows]
    return markdown(["learning rate", *headings], lines)


def settings(results: Path) -> str:
    """What each task is, in numbers."""
    lines = [
        [row["title"], *(f"{row[key]:,}" for key in ("examples", "parameters", "batch", "steps"))]
        for row in map(any_row, works(results).values())
    ]
    return markdown(["", "training examples", "parameters", "batch", "steps"], lines)


TABLES: Mapping[str, Callable[[Path], str]] = {
    "learning_rate_free": scores,
    "learning_rate_free_against_adadelta": against_adadelta,
    "learning_rate_free_training_loss": training_loss,
    "learning_rate_free_contenders": contenders,
    "learning_rate_free_tuning": tuning,
    "learning_rate_free_tasks": settings,
}
