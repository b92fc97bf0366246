"""Write the checkpoints of this version, which every later version must read.

    python -m tests.golden.make_states

writes `tests/golden/VERSION/CASE.FORMAT`, the runs of `cases.py` after `STEPS` steps, and
`tests/golden/VERSION/after/CASE.msgpack`, the same runs after `STEPS` more. Files that a release
has are never written again: they stand for the files that its users have.
"""

from importlib.metadata import version
from pathlib import Path

import adadelta_jax
from tests.golden.cases import CASES
from tests.golden.files import CASES_OF, FOLDER, FORMATS, write_safetensors


def write(folder: Path) -> None:
    """Write the checkpoints of today's code into a new folder."""
    (folder / "after").mkdir(parents=True)
    for name, case in CASES.items():
        checkpoint = case.train(case.start())
        for suffix, format_ in FORMATS.items():
            if name in CASES_OF.get(suffix, CASES):
                format_.write(folder / f"{name}.{suffix}", checkpoint)
        if name == "torch":
            write_safetensors(folder / "torch.safetensors", checkpoint)
        FORMATS["msgpack"].write(folder / "after" / f"{name}.msgpack", case.train(checkpoint))


if __name__ == "__main__":
    folder = FOLDER / adadelta_jax.__version__
    if folder.exists():
        raise SystemExit(f"{folder} exists: checkpoints of a release stay as they were written")
    write(folder)
    files = [file for file in folder.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(f"{folder}: {len(files)} files, {size} bytes, by JAX {version('jax')}")
