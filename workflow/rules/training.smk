rule train_shard:
    input:
        subsets_of_shard,
    output:
        FOLDER / "stamps/train_shard/{shard}.txt",
    log:
        FOLDER / "logs/train_shard/{shard}.log",
    benchmark:
        FOLDER / "benchmarks/train_shard/{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        digest=lambda wildcards: SHARDS[wildcards.shard].digest,
        device=PLAN.experiment.execution.device,
        experiment=EXPERIMENT,
        results=RESULTS,
        data=DATA,
    shell:
        "attrreg train --config {params.experiment} --shard {wildcards.shard}"
        " --results {params.results} --data {params.data} --threads {threads}"
        " --stamp {output} > {log} 2>&1"
