rule prepare_dataset:
    output:
        DATA / "{dataset}/dataset.json",
    log:
        FOLDER / "logs/prepare_dataset/{dataset}.log",
    benchmark:
        FOLDER / "benchmarks/prepare_dataset/{dataset}.tsv"
    conda:
        "../../environment.yml"
    params:
        digest=lambda wildcards: preparation_digest(DATASETS[wildcards.dataset]),
        source=lambda wildcards: DATASETS[wildcards.dataset].source,
        data=DATA,
    shell:
        "attrreg prepare {params.source:q} --data {params.data} > {log} 2>&1"


rule draw_subset:
    input:
        DATA / "{dataset}/dataset.json",
    output:
        DATA / "{dataset}/subsets/{law}/s{seed}.json",
    log:
        FOLDER / "logs/draw_subset/{dataset}-{law}-s{seed}.log",
    benchmark:
        FOLDER / "benchmarks/draw_subset/{dataset}-{law}-s{seed}.tsv"
    conda:
        "../../environment.yml"
    params:
        digest=source_digest("attrreg.data.subsets"),
        data=DATA,
    shell:
        "attrreg subset --dataset {wildcards.dataset} --seed {wildcards.seed}"
        " --law {wildcards.law} --data {params.data} > {log} 2>&1"
