"""The workflow's own linters find nothing."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*command):
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_snakemake_lint_is_clean():
    answer = run("snakemake", "--lint")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_snakefmt_is_clean():
    answer = run("snakefmt.snakefmt", "--check", "Snakefile", "workflow")
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_no_rule_has_a_run_block():
    for path in [ROOT / "Snakefile", *(ROOT / "workflow" / "rules").glob("*.smk")]:
        assert "run:" not in path.read_text().replace("check_runs:", "")
