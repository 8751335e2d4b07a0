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
        digest=lambda wildcards: source_digest(
            catalogue.dataset(wildcards.dataset).implementation
        ),
        data=DATA,
    shell:
        "attrreg prepare --dataset {wildcards.dataset} --data {params.data} > {log} 2>&1"


rule draw_subset:
    input:
        DATA / "{dataset}/dataset.json",
    output:
        DATA / "{dataset}/subsets/s{seed}.json",
    log:
        FOLDER / "logs/draw_subset/{dataset}-s{seed}.log",
    benchmark:
        FOLDER / "benchmarks/draw_subset/{dataset}-s{seed}.tsv"
    conda:
        "../../environment.yml"
    params:
        digest=source_digest("attrreg.data.subsets"),
        data=DATA,
    shell:
        "attrreg subset --dataset {wildcards.dataset} --seed {wildcards.seed}"
        " --data {params.data} > {log} 2>&1"
