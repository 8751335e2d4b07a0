"""What stands there when an experiment has run, and that nothing is left to do."""

import csv
import re

from attrreg.claims.specification import read_claims
from attrreg.config import read_experiment


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_tables_have_a_row_per_run_and_metric_and_per_comparison(finished):
    tables = finished.folder / "tables"
    metrics, cost = rows(tables / "metrics.csv"), rows(tables / "cost.csv")
    runs = {(row["method"], row["train_size"], row["seed"]) for row in metrics}
    assert len(runs) == 6
    for table in (metrics, cost):
        names = [(row["method"], row["train_size"], row["seed"], row["metric"]) for row in table]
        assert len(set(names)) == len(names)
    assert len(metrics) == 6 * len({row["metric"] for row in metrics})
    seconds = [row for row in cost if row["metric"] == "seconds_per_step"]
    assert len(seconds) == 6
    assert rows(tables / "failures.csv") == []
    tests = rows(tables / "tests.csv")
    compared = {(row["reference"], row["method"], row["metric"]) for row in tests}
    tested = read_experiment(finished.config).tested_metrics()
    assert set(tested) <= {row["metric"] for row in metrics}
    for metric in tested:
        assert ("baseline", "reldrop-block", metric) in compared
        assert ("reldrop-block/swapped", "reldrop-block", metric) in compared
    assert {row["verdict"] for row in tests} == {"undecided"}  # two seeds decide nothing
    assert all(row["reason"] for row in tests)


def test_every_claim_has_an_answer_in_every_form(finished):
    tables = finished.folder / "tables"
    answers = [row for row in rows(tables / "claims.csv") if row["role"] == "answer"]
    declared = {each.id for each in read_claims(finished.root / "configs" / "claims.yaml")}
    assert {row["id"] for row in answers} == declared
    assert {row["verdict"] for row in answers} <= {"undecided", "not run"}  # of two seeds
    for suffix in (".md", ".tex", ".txt"):
        assert "C1" in (tables / f"claims{suffix}").read_text()


def test_guided_blocks_and_their_control_erase_the_same_area(finished):
    cost = rows(finished.folder / "tables" / "cost.csv")
    area = {
        (row["method"], row["seed"]): float(row["value"])
        for row in cost
        if row["metric"] == "masked_area"
    }
    for seed in ("0", "1"):
        assert area["reldrop-block", seed] > 0
        assert area["reldrop-block", seed] == area["reldrop-block/swapped", seed]


def test_every_figure_exists_in_three_formats(finished):
    figures = read_experiment(finished.config).drawn_figures()
    assert figures
    assert all(map(finished.has_figure, figures))


def test_the_report_is_one_file_that_needs_no_network(finished):
    report = (finished.folder / "report.html").read_text()
    loaded = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']https?://[^\"']+", report)
    assert loaded == []
    for figure in read_experiment(finished.config).drawn_figures():
        assert figure in report


def test_the_launch_ends_with_the_claims_and_the_report(finished):
    said = (finished.root.parent / "finished.txt").read_text()
    answers = (finished.folder / "tables" / "claims.txt").read_text()
    headline = " ".join(answers.split("\n\n")[0].split())
    assert f"\nclaims: {headline}\nreport: " in said


def test_nothing_is_left_to_do_and_the_same_command_says_so(project):
    assert project.planned_jobs() == {}
    before = project.run_times()
    answer = project.launch()
    assert answer.returncode == 0
    assert "up to date" in answer.stdout
    assert project.run_times() == before


def test_every_rule_has_a_log_and_a_benchmark(finished):
    rules = {path.name for path in (finished.folder / "logs").iterdir()}
    for rule in ("train_shard", "evaluate_shard", "draw_figure"):
        assert rule in rules
        assert list((finished.folder / "benchmarks" / rule).glob("*.tsv"))


def test_the_snakefile_is_read_without_torch_and_pandas(project):
    # at its end: afterwards Snakemake imports pandas for purposes of its own
    with (project.root / "Snakefile").open("a") as snakefile:
        snakefile.write(
            "\nimport sys\nprint('found', sorted({'torch', 'pandas'} & set(sys.modules)))\n"
        )
    assert "found []" in project.snakemake("-n").stdout


def test_a_wrong_experiment_stops_before_any_job(project):
    project.edit("configs/tiny.yaml", "reldrop-block,", "reldrop-blok,")
    launched, parsed = project.launch(), project.snakemake("-n")
    assert launched.returncode == 2
    assert parsed.returncode != 0
    for answer in (launched, parsed):
        assert "unknown method 'reldrop-blok'" in answer.stdout
        assert "did you mean 'reldrop-block'?" in answer.stdout
        assert "Traceback" not in answer.stdout
