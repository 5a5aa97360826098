"""Protects what is told of results: tables and links are those of the records."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "results_short"


def links(page: Path) -> list[Path]:
    """Files and folders of the project that a page of markdown leads to."""
    found = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    return [page.parent / link for link in found]


def run(script: str, *flags: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "benchmarks" / script, *flags]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("page", ["README.md", "results_short/README.md"])
def test_links_lead_somewhere(page):
    assert [link for link in links(ROOT / page) if not link.exists()] == []


def test_the_table_of_the_readme_is_that_of_the_records():
    told = run("results_table.py", "--check")
    assert told.returncode == 0, told.stderr


def test_every_record_of_an_evaluation_is_told_with_its_number():
    page, linked = RECORDS / "README.md", {p.resolve() for p in links(RECORDS / "README.md")}
    for record in RECORDS.glob("*/evaluation*.json"):
        result = json.loads(record.read_text())
        names = ("fully_told", "all_attributes", "r_precision_hard")  # the second in older records
        value = next(result[name][0] for name in names if name in result)
        assert record.resolve() in linked or record.parent.resolve() in linked, record
        assert f"{value:.3f}" in page.read_text(), record


def test_default_runs_differ_in_their_seed_alone():
    configs = [json.loads((folder / "config.json").read_text())["train"]
               for folder in sorted(RECORDS.glob("default_run*"))]  # fmt: skip
    assert [config.pop("seed") for config in configs] == list(range(len(configs)))
    assert all(config | {"run": ""} == configs[0] | {"run": ""} for config in configs)


def test_variants_that_are_compared_are_settings_of_training(tmp_path):
    told = run("compare.py", "--seeds", "0", "--output", str(tmp_path / "compare.json"))
    assert told.returncode == 0, told.stderr


def test_records_fit_into_a_clone():
    tracked = subprocess.run(["git", "ls-files", "results_short"], cwd=ROOT, capture_output=True,
                             text=True).stdout.splitlines()  # fmt: skip
    assert sum((ROOT / path).stat().st_size for path in tracked
               if (ROOT / path).exists()) <= 36e6  # fmt: skip


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_bytes()) <= 12_000
