"""Protects the layout: imports go one way, and formats/ has one door and does without torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import formats

ROOT = Path(__file__).parent.parent
PACKAGES = ("formats", "evaluation", "reports")
MAX_AT_TOP = 17


def name_of(path: Path) -> str:
    """formats/check.py -> formats.check; formats/__init__.py -> formats."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {
    name_of(path): path
    for path in [*ROOT.glob("*.py"), *(p for name in PACKAGES for p in ROOT.glob(f"{name}/*.py"))]
}


def imports_in(path: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of everything that a file imports, wherever it does; the name is "" where the
    module itself is imported."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            yield from ((node.module, alias.name) for alias in node.names)


def modules_in(path: Path) -> set[str]:
    """Those of ours that a file imports."""
    found = {f"{m}.{n}" if f"{m}.{n}" in MODULES else m for m, n in imports_in(path)}
    return found & MODULES.keys()


def test_no_module_imports_itself_in_a_circle():
    graph = {name: modules_in(path) for name, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # CycleError names the circle


# Each may import those of the lines above.
ORDER = """config
tokenizer scenes files processes
completion reports losses
latents
formats model muon
dataset
checkpoint
evaluation learning
train evaluate generate save_model"""


def test_imports_go_one_way():
    rank = {name: i for i, line in enumerate(ORDER.splitlines()) for name in line.split()}
    for name, path in MODULES.items():
        own = name.split(".")[0]
        for other in {found.split(".")[0] for found in modules_in(path)} - {own}:
            assert rank[other] < rank[own], f"{name} imports {other}"


def test_few_modules_lie_at_the_top():
    names = sorted(path.name for path in ROOT.glob("*.py"))
    assert len(names) <= MAX_AT_TOP, names


def test_formats_is_imported_by_its_front_door_alone():
    doors = {("formats", ""), *(("formats", name) for name in formats.__all__)}
    assert len(formats.__all__) <= 4
    others = [path for folder in ("evaluation", "tests", "benchmarks", "examples")
              for path in ROOT.glob(f"{folder}/**/*.py")
              if not path.is_relative_to(ROOT / "tests" / "formats")]  # fmt: skip
    for path in (*ROOT.glob("*.py"), *others):
        wrong = {i for i in imports_in(path) if i[0].split(".")[0] == "formats"} - doors
        assert not wrong, f"{path} imports {wrong}"


def test_formats_imports_nothing_that_needs_torch():
    allowed = {"formats", "config", "files", "tokenizer", "reports"}
    names = [name for name in MODULES if name.split(".")[0] == "formats"]
    for name in names:
        found = {module.split(".")[0] for module, _ in imports_in(MODULES[name])}
        assert "torch" not in found and found & MODULES.keys() <= allowed, name
    code = f"import sys, {', '.join(names)}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_imports_are_found_wherever_they_are(tmp_path):
    text = "if 0:\n    def f():\n        import a.b\n        from c import d, e"
    (tmp_path / "x.py").write_text(text)
    assert list(imports_in(tmp_path / "x.py")) == [("a.b", ""), ("c", "d"), ("c", "e")]
