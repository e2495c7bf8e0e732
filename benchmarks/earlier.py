"""`cpvt compare` as of an earlier commit against this tree: seconds of each training and of all, and accuracies."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measuring import machine, ratio
from cpvt.runtime.files import write_json

ROOT = Path(__file__).resolve().parent.parent
Seconds = dict[str, list[float]]  # of each training, and of the whole; one number a round


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both in alternation, and print before / after for each training, their sum and the whole command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.earlier", description=__doc__)
    parser.add_argument("commit", help="what to compare with")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--out", default="benchmarks/results/earlier.json", metavar="FILE")
    parser.add_argument("options", nargs="*", help="of `cpvt compare`, after --, such as -- --quick")
    options = parser.parse_args(arguments)
    before, after = Seconds(), Seconds()
    accuracies: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, _tree_of(options.commit, Path(folder) / "tree") as tree:
        for turn in range(options.rounds):
            pair = [("before", tree, before), ("after", ROOT, after)]
            for name, root, seconds in pair if turn % 2 else reversed(pair):
                out = Path(folder) / f"{name}-{turn}"
                _compare(root, out, options.options, seconds)
                accuracies[name] = _accuracies(out)
                print(f"round {turn + 1}, {name}: {seconds['the whole command'][-1]:.0f} s", flush=True)
    figures = [ratio(f"{what}: before / after", before[what], after[what]) for what in after]
    for figure in figures:
        print(f"{figure.what} {figure}")
    content = {
        "command": " ".join(["python -m benchmarks.earlier", *(arguments or sys.argv[1:])]),
        "machine": machine(),
        "figures": [vars(figure) for figure in figures],
    }
    write_json(Path(options.out), content)
    apart = [abs(accuracies["before"][key] - accuracies["after"][key]) for key in accuracies["after"]]
    print(f"accuracy in the training protocol at the training size: apart by up to {100 * max(apart):.1f} points")


@contextmanager
def _tree_of(commit: str, tree: Path) -> Iterator[Path]:
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--detach", str(tree), commit], check=True, capture_output=True)
    try:
        yield tree
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def _compare(root: Path, out: Path, options: Sequence[str], seconds: Seconds) -> None:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "cpvt", "compare", "--out", str(out), *options],
        env={**os.environ, "PYTHONPATH": str(root / "src")}, cwd=root, check=True, capture_output=True,
    )  # fmt: skip
    found = {"the whole command": time.perf_counter() - start}
    for history in sorted(out.glob("runs/*/history.jsonl")):
        found[history.parent.name] = sum(json.loads(line)["seconds"] for line in history.read_text().splitlines())
    found["all trainings"] = sum(value for name, value in found.items() if name != "the whole command")
    for name, value in found.items():
        seconds.setdefault(name, []).append(value)


def _accuracies(out: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    return {
        f"{row['encoding']} {row['pool']} {row['seed']}": row["correct"] / row["total"]
        for row in rows
        if row["protocol"] == "canvas" and row["size"] == row["train_size"]
    }


if __name__ == "__main__":
    main()
