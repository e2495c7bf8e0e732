"""Run the notebooks of this folder again and store their outputs: python examples/execute.py [NAME.ipynb ...]."""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

KEPT = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"}}  # fmt: skip


def execute(source: Path, folder: Path, **parameters: object) -> nbformat.NotebookNode:
    """The notebook with fresh outputs, run in a folder; parameters replace those of its parameters cell."""
    notebook = nbformat.read(source, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            lines = [line for line in cell.source.splitlines() if line.split(" =")[0] not in parameters]
            cell.source = "\n".join([*lines, *(f"{name} = {value!r}" for name, value in parameters.items())])
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's wish for a package, from an import of timm's
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of this machine
    notebook.metadata = nbformat.from_dict(KEPT)
    return notebook


if __name__ == "__main__":
    here = Path(__file__).parent
    for path in [here / name for name in sys.argv[1:]] or sorted(here.glob("*.ipynb")):
        nbformat.write(execute(path, here), path)
        print(path.name, f"{path.stat().st_size / 1024:.0f} KB")
