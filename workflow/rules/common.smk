"""What all rules share: the plan, the places, and what each stage is made of."""

from pathlib import Path

from snakemake.exceptions import WorkflowError

from attrreg import catalogue
from attrreg.claims.specification import read_claims, select
from attrreg.columns import TABLES
from attrreg.config import read_experiment
from attrreg.other_sets import sets_beside
from attrreg.plan import (
    evaluated_after,
    evaluation_digest,
    make_plan,
    preparation_digest,
)
from attrreg.provenance import digest, source_digest
from attrreg.tuned import quoted

EXPERIMENT = Path(config.get("experiment", "configs/demo.yaml"))
RESULTS = Path(config.get("results", "results"))
CLAIMS = Path(config.get("claims", "configs/claims.yaml"))
DATA = Path(config.get("data", RESULTS / "data"))

try:
    PLAN = make_plan(read_experiment(EXPERIMENT))
    select(
        read_claims(CLAIMS),
        PLAN.experiment.claims,
        PLAN.experiment.statistics.least,
    )
except ValueError as error:
    raise WorkflowError(str(error)) from None

FOLDER = PLAN.folder(RESULTS)

# What the first page of the report says.
config["experiment"] = str(EXPERIMENT)
config["title"] = PLAN.experiment.title or PLAN.experiment.name
config["size"] = f"{len(PLAN.runs)} runs, {len(PLAN.experiment.grid.seeds)} seeds"
config["methods"] = "\n".join(
    f"* {catalogue.label(name)}" for name in PLAN.experiment.compositions()
)
config["tuning"] = quoted(PLAN.experiment)
DATASETS = {each.key: each for each in PLAN.experiment.prepared()}
SHARDS = {shard.name: shard for shard in PLAN.shards}
FORMATS = ["svg", "png", "pdf"]


def subsets_of_shard(wildcards):
    """Return the subset orders that the runs of a shard are trained on."""
    runs = SHARDS[wildcards.shard].runs
    places = {(run.source.key, run.source.law.name, run.seed) for run in runs}
    return sorted(
        DATA / key / f"subsets/{law}/s{seed}.json" for key, law, seed in places
    )


def sets_of_shard(wildcards):
    """Return the descriptions of the test sets that a shard is evaluated on, too."""
    sources = {run.source.key: run.source for run in SHARDS[wildcards.shard].runs}
    sets = [
        each.variant.key
        for source in sources.values()
        for each in sets_beside(PLAN.experiment.evaluation, source)
    ]
    return [DATA / key / "dataset.json" for key in sets]
