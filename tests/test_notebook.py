"""Protects quickstart.ipynb: what it shows is there and small, and it runs.

To write its outputs anew: python tests/test_notebook.py
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "quickstart.ipynb"
LARGEST = 1_500_000  # bytes
ANY_PATH = re.compile(r"(?<![\w.<])(/[\w.-]+){2,}|~/|[A-Za-z]:\\|ipykernel", re.ASCII)
SHOWS_NOTHING = re.compile(r"(import|from|def|class|@|#)\b|[\w.]+ = ")  # a last line that does not


def outputs_of(cell: nbformat.NotebookNode) -> Iterator[tuple[str, str]]:
    """Kind and content of all that a cell has left: "text/plain", "image/png", ..."""
    for output in cell.outputs:
        assert output.output_type != "error", output
        if output.output_type == "stream":
            yield "text/plain", output.text
        yield from output.get("data", {}).items()


def executed(path: Path) -> nbformat.NotebookNode:
    """Run from the start in its folder, with the outputs of that alone."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = []
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources,
                   record_timing=False, coalesce_streams=True).execute()  # fmt: skip
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("image/jpeg", None)  # a picture is there as PNG, too
    notebook.metadata.language_info = {"name": "python"}  # not the version
    return notebook


def check_outputs(path: Path) -> None:
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    found = [list(outputs_of(cell)) for cell in cells]
    for cell, some in zip(cells, found, strict=True):
        assert some or SHOWS_NOTHING.match(cell.source.splitlines()[-1]), cell.source
    told = [content for kind, content in sum(found, []) if kind.startswith("text/")]
    assert not [text for text in told if ANY_PATH.search(text)]
    assert len([kind for kind, _ in sum(found, []) if kind == "image/png"]) >= 5
    assert path.stat().st_size < LARGEST


def test_the_notebook_shows_its_outputs_is_small_and_names_no_path_of_a_machine():
    check_outputs(NOTEBOOK)


@pytest.mark.parametrize("path", ["/tmp/a/b", "see /home/me/run", "~/run", "C:\\run"])
def test_paths_of_machines_are_seen(path):
    assert ANY_PATH.search(path) and not ANY_PATH.search("results/flags/index.html: 8 images/s")


@pytest.mark.slow
def test_the_notebook_runs_and_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    ignore = shutil.ignore_patterns("__pycache__", ".*", "results", "generated", "*.previous.pth")
    shutil.copytree(ROOT, project, ignore=ignore)
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*")}
    notebook = executed(project / NOTEBOOK.name)
    assert before == {path: path.stat().st_mtime_ns for path in project.rglob("*")}
    assert any(os.scandir(elsewhere))
    nbformat.write(notebook, tmp_path / "executed.ipynb")
    check_outputs(tmp_path / "executed.ipynb")


if __name__ == "__main__":
    nbformat.write(executed(NOTEBOOK), NOTEBOOK)
