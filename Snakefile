"""The benchmark: prepare, train, evaluate, collect, test, draw. Rules call the command line.

    snakemake --cores all --config experiment=configs/demo.yaml

The plan is made while this file is read; it needs neither torch nor pandas.
"""

from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"


wildcard_constraints:
    dataset="[^/]+",
    law="[^/]+",
    shard="[^/]+",
    figure="[^/]+",
    seed="[0-9]+",


localrules:
    all,
    draw_figures,
    check_runs,


rule all:
    input:
        FOLDER / "tables/complete.txt",
        FOLDER / "tables/claims.csv",
        expand(
            FOLDER / "figures/{figure}.{format}",
            figure=PLAN.experiment.drawn_figures(),
            format=FORMATS,
        ),


include: "workflow/rules/data.smk"
include: "workflow/rules/training.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/results.smk"
