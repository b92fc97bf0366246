"""The tables of what accumulators cost in each dtype, and how well networks learn with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common.reporting import Row, markdown, read

ACCUMULATORS = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "bfloat16_to_nearest": "bfloat16, to nearest",
    "float16": "float16",
    "float16_to_nearest": "float16, to nearest",
    "uint8": "uint8",
    "uint8_to_nearest": "uint8, to nearest",
    "uint8_apart": "uint8, v and u by bits of their own",
}
RANDOM_BITS = {
    "hash": "this package's hash",
    "threefry2x32": "`jax.random.bits`, threefry2x32",
    "rbg": "`jax.random.bits`, rbg",
    "unsafe_rbg": "`jax.random.bits`, unsafe_rbg",
    "nearest": "none: to nearest",
}


def accumulator_rows(results: Path, **where: Any) -> dict[str, Row]:
    """The rows of the benchmark of accumulators with these values, by contender."""
    rows = read(results, "accumulators")["results"]
    return {row["contender"]: row for row in rows if where.items() <= row.items()}


def accumulator_bytes(results: Path) -> str:
    """Bytes of state a parameter, by dtype."""
    networks = {"paper_network": "the paper's network", "gpt2": "GPT-2"}
    found = [accumulator_rows(results, work="bytes", network=network) for network in networks]
    header = [
        f"{title}, {next(iter(rows.values()))['parameters']:,} parameters"
        for title, rows in zip(networks.values(), found, strict=True)
    ]
    lines = [
        [f"`{name}`", *(f"{rows[name]['state_bytes_per_parameter']:.3f}" for rows in found)]
        for name in found[0]
    ]
    return markdown(["`accumulator_dtype`", *header], lines)


def accumulator_scores(work: str, heading: str, digits: int) -> Callable[[Path], str]:
    """A table of the scores of trained networks: means, and differences from those of float32."""

    def table(results: Path) -> str:
        rows = accumulator_rows(results, work=work)
        lines = []
        for name, row in rows.items():
            difference = ""
            if "difference" in row:
                difference = _less_float32s(row, digits)
            score = f"{row['mean']:.{digits}f} ± {row['standard_error']:.{digits}f}"
            lines.append([ACCUMULATORS[name], score, difference])
        return markdown(["accumulators", heading, "less float32's, by seed"], lines)

    return table


def _less_float32s(row: Row, digits: int) -> str:
    error = row["difference_standard_error"]
    return f"{row['difference']:+.{digits}f} ± {error:.{digits}f}"


def accumulator_settings(results: Path) -> str:
    """By how much the test error with 8 bits differs from that of float32, for each ρ and ε."""
    rows = accumulators_by(results, "mnist_settings", "rho", "eps")
    rhos, all_eps = (list(dict.fromkeys(key[index] for key in rows)) for index in (0, 1))
    lines = [
        [
            f"{eps:g}",
            *(
                f"{rows[rho, eps, 'float32']['mean']:.2f}; "
                f"{_less_float32s(rows[rho, eps, 'uint8'], 3)}"
                for rho in rhos
            ),
        ]
        for eps in all_eps
    ]
    return markdown(["ε", *(f"ρ = {rho}" for rho in rhos)], lines)


def accumulator_scales(results: Path) -> str:
    """By how much scores with 8 bits differ from those of float32 where gradients are scaled."""
    works = {"mnist_scales": ("MNIST, test error, %", 3), "text_scales": ("text, nats", 4)}
    found = {work: accumulators_by(results, work, "gradient_scale") for work in works}
    scales = dict.fromkeys(key[0] for key in found["mnist_scales"])
    lines = [
        [
            f"{scale:g}",
            *(
                f"{found[work][scale, 'float32']['mean']:.{digits}f}; "
                f"{_less_float32s(found[work][scale, 'uint8'], digits)}"
                for work, (_, digits) in works.items()
            ),
        ]
        for scale in scales
    ]
    return markdown(["gradients times", *(title for title, _ in works.values())], lines)


def accumulators_by(results: Path, work: str, *keys: str) -> dict[tuple[Any, ...], Row]:
    """The rows of a part of the benchmark, by these columns and the contender."""
    rows = read(results, "accumulators")["results"]
    return {
        tuple(row[key] for key in (*keys, "contender")): row for row in rows if row["work"] == work
    }


def accumulator_step_time(results: Path) -> str:
    """Time of a step, in brackets divided by that of float32, and XLA's scratch memory."""
    works_of = {
        ("8_large", "float32"): "8 x (2048, 2048), float32",
        ("paper_network", "float32"): "the paper's network, float32",
        ("8_large", "bfloat16"): "8 x (2048, 2048), bfloat16",
    }
    found = [
        accumulator_rows(results, work="step_time", network=network, dtype=dtype)
        for network, dtype in works_of
    ]
    lines = []
    for name in found[0]:
        cells = []
        for rows in found:
            median, scratch = rows[name]["median_ms"], rows[name]["scratch_bytes_per_parameter"]
            times = median / rows["float32"]["median_ms"]
            cells.append(f"{median:.3g} ({times:.2f}), {scratch:.2f} B")
        lines.append([ACCUMULATORS[name], *cells])
    return markdown(["accumulators", *works_of.values()], lines)


def accumulator_randomness(results: Path) -> str:
    """What random bits cost, and how far the mean of many roundings is from what was rounded."""
    lines = [
        [
            RANDOM_BITS[name],
            f"{row['median_ms']:.1f}",
            f"{row['scratch_bytes_per_value']:.0f}",
            f"{row['deviation_in_one_array']:.1f}",
            f"{row['deviation_over_steps']:.1f}",
        ]
        for name, row in accumulator_rows(results, work="randomness").items()
    ]
    header = ["ms", "scratch, bytes a value", "off in one array", "off over steps"]
    return markdown(["random bits from", *header], lines)


TABLES: dict[str, Callable[[Path], str]] = {
    "accumulator_bytes": accumulator_bytes,
    "accumulator_mnist": accumulator_scores("mnist", "test error, %", digits=3),
    "accumulator_text": accumulator_scores("text", "validation loss, nats", digits=4),
    "accumulator_apart": accumulator_scores("mnist_apart", "test error, %", digits=3),
    "accumulator_settings": accumulator_settings,
    "accumulator_scales": accumulator_scales,
    "accumulator_step_time": accumulator_step_time,
    "accumulator_randomness": accumulator_randomness,
}
