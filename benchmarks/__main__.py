"""Run benchmarks from the command line and print their figures; the last line of standard output is one JSON object."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks import OUT, ROUNDS, TABLE, run_benchmarks
from benchmarks.measuring import Figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the options, run the benchmarks, and print a table of figures for each."""
    names = "\n".join(f"  {name:10} {what}" for name, what in TABLE.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the published speed and memory figures on this machine.",
        epilog=f"benchmarks:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", default=(), help="which benchmarks; by default all")
    parser.add_argument("--out", default=OUT, metavar="DIR", help="folder of the JSON files (default: %(default)s)")
    rounds = "how often contenders alternate; some take a part or a multiple of it (default: %(default)s)"
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=rounds)
    options = parser.parse_args(arguments)
    found: dict[str, list[Figure]] = {}
    try:
        for name, figure in run_benchmarks(options.only, options.out, options.rounds):
            print(f"{name}: {figure.what}: {figure}", file=sys.stderr, flush=True)
            found.setdefault(name, []).append(figure)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    for name, figures in found.items():
        print_figures(f"{name}: {TABLE[name]}", figures)
    figures_by_name = {name: [vars(figure) for figure in figures] for name, figures in found.items()}
    print(json.dumps({"out": options.out, "figures": figures_by_name}))


def print_figures(title: str, figures: Sequence[Figure]) -> None:
    """Print a table of what was measured and the figure."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("what", overflow="fold")
    table.add_column("figure", no_wrap=True)
    for figure in figures:
        table.add_row(figure.what, str(figure))
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
