rule collect_tables:
    input:
        expand(FOLDER / "stamps/evaluate_shard/{shard}.txt", shard=SHARDS),
    output:
        tables=report(
            expand(FOLDER / "tables/{table}.csv", table=TABLES),
            category="Tables",
            caption="../report/tables.rst",
        ),
        gallery=FOLDER / "tables/gallery.safetensors",
        experiment=FOLDER / "tables/experiment.yaml",
    log:
        FOLDER / "logs/collect_tables.log",
    benchmark:
        FOLDER / "benchmarks/collect_tables.tsv"
    conda:
        "../../environment.yml"
    params:
        digest=source_digest("attrreg.tables"),
        runs=digest([str(run.path) for run in PLAN.runs]),
        experiment=EXPERIMENT,
        results=RESULTS,
    shell:
        "attrreg collect --config {params.experiment} --results {params.results} > {log} 2>&1"


rule test_differences:
    input:
        FOLDER / "tables/metrics.csv",
    output:
        tests=report(
            FOLDER / "tables/tests.csv",
            category="Tables",
            caption="../report/tests.rst",
        ),
        more=[FOLDER / "tables/items.csv", FOLDER / "tables/ranks.csv"],
    log:
        FOLDER / "logs/test_differences.log",
    benchmark:
        FOLDER / "benchmarks/test_differences.tsv"
    conda:
        "../../environment.yml"
    params:
        digest=source_digest("attrreg.statistics.families", "attrreg.more_tests"),
        settings=PLAN.experiment.statistics.model_dump_json(),
        metrics=PLAN.experiment.tested_metrics(),
        experiment=EXPERIMENT,
        results=RESULTS,
    shell:
        "attrreg test --config {params.experiment} --results {params.results} > {log} 2>&1"


rule answer_claims:
    input:
        FOLDER / "tables/metrics.csv",
        CLAIMS,
    output:
        report(
            multiext(str(FOLDER / "tables/claims"), ".csv", ".md", ".tex", ".txt"),
            category="Claims",
            caption="../report/claims.rst",
        ),
    log:
        FOLDER / "logs/answer_claims.log",
    benchmark:
        FOLDER / "benchmarks/answer_claims.tsv"
    conda:
        "../../environment.yml"
    params:
        digest=source_digest("attrreg.claims.answering", "attrreg.claims.writing"),
        settings=digest(
            [
                PLAN.experiment.claims,
                PLAN.experiment.statistics.alpha,
                PLAN.experiment.statistics.least,
            ]
        ),
        claims=CLAIMS,
        experiment=EXPERIMENT,
        results=RESULTS,
    shell:
        "attrreg claims --config {params.experiment} --results {params.results}"
        " --claims {params.claims} > {log} 2>&1"


rule draw_figure:
    input:
        rules.collect_tables.output.tables,
        rules.collect_tables.output.gallery,
        rules.test_differences.output.tests,
    output:
        report(
            FOLDER / "figures/{figure}.svg",
            category="Figures",
            caption="../report/figure.rst",
            labels=lambda wildcards: {"figure": wildcards.figure.replace("-", " ")},
        ),
        FOLDER / "figures/{figure}.png",
        FOLDER / "figures/{figure}.pdf",
    log:
        FOLDER / "logs/draw_figure/{figure}.log",
    benchmark:
        FOLDER / "benchmarks/draw_figure/{figure}.tsv"
    conda:
        "../../environment.yml"
    params:
        digest=source_digest("attrreg.figures"),
        labels=[catalogue.label(name) for name in PLAN.experiment.compositions()],
        experiment=EXPERIMENT,
        results=RESULTS,
    shell:
        "attrreg draw {wildcards.figure} --config {params.experiment}"
        " --results {params.results} > {log} 2>&1"


rule draw_figures:
    input:
        expand(
            FOLDER / "figures/{figure}.{format}",
            figure=PLAN.experiment.drawn_figures(),
            format=FORMATS,
        ),


rule check_runs:
    input:
        rules.collect_tables.output.tables,
    output:
        FOLDER / "tables/complete.txt",
    log:
        FOLDER / "logs/check_runs.log",
    benchmark:
        FOLDER / "benchmarks/check_runs.tsv"
    conda:
        "../../environment.yml"
    params:
        experiment=EXPERIMENT,
        results=RESULTS,
    shell:
        "attrreg status --strict --config {params.experiment} --results {params.results}"
        " > {log} 2>&1 && cp {log} {output}"
