rule evaluate_shard:
    input:
        lambda wildcards: [
            FOLDER / f"stamps/train_shard/{name}.txt"
            for name in evaluated_after(PLAN, SHARDS[wildcards.shard])
        ],
        sets_of_shard,
    output:
        FOLDER / "stamps/evaluate_shard/{shard}.txt",
    log:
        FOLDER / "logs/evaluate_shard/{shard}.log",
    benchmark:
        FOLDER / "benchmarks/evaluate_shard/{shard}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    params:
        digest=lambda wildcards: evaluation_digest(PLAN, SHARDS[wildcards.shard]),
        device=PLAN.experiment.execution.device,
        experiment=EXPERIMENT,
        results=RESULTS,
        data=DATA,
    shell:
        "attrreg evaluate --config {params.experiment} --shard {wildcards.shard}"
        " --results {params.results} --data {params.data} --threads {threads}"
        " --stamp {output} > {log} 2>&1"
