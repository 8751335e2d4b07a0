"""How far zennit's maps of a timm network are from ours, on a network that has been trained.

python benchmarks/zennit_on_timm.py results/demo/runs/digits/resnet10-narrow/baseline/n200/s0

zennit's canonizers match no block of timm, so relevance doubles at every residual sum; on
torchvision's networks, which they know, the tests find both equal.
"""

import argparse
from pathlib import Path

import numpy as np

from attrreg.explain import Request, explain

PAIRS = {
    "epsilon-plus-flat": "zennit:EpsilonPlusFlat",
    "alpha2-beta1": "zennit:EpsilonAlpha2Beta1",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the directory of a finished run")
    parser.add_argument("--data", type=Path, default=Path("results/data"))
    parser.add_argument("--samples", type=int, default=200, help="of the validation split")
    arguments = parser.parse_args()
    rules = [rule for pair in PAIRS.items() for rule in pair]
    sheet = explain(
        Request(run=arguments.run, data=arguments.data, samples=arguments.samples, rules=rules)
    )
    print(f"{sheet.title}, {len(sheet.names)} validation samples")
    columns = {column.rule: column for column in sheet.columns}
    for ours, theirs in PAIRS.items():
        own, other = (columns[name].maps.reshape(len(sheet.names), -1) for name in (ours, theirs))
        absorbed = columns[ours].absorbed
        unaccounted = np.abs(own.sum(1) + absorbed - sheet.outputs).max()
        correlations = [np.corrcoef(*pair)[0, 1] for pair in zip(own, other, strict=True)]
        low, middle, high = np.quantile(correlations, (0.05, 0.5, 0.95))
        most = np.mean(own.argmax(1) == other.argmax(1))
        ratio = np.median(np.abs(other).sum(1) / np.abs(own).sum(1))
        print(
            f"{ours}: sum and absorbed make up the output but for {unaccounted:.1e}; {theirs} has "
            f"{ratio:.1f} times as much relevance in all (median); correlation of the maps "
            f"{middle:.2f} (5 % {low:.2f}, 95 % {high:.2f}); the same most relevant pixel in "
            f"{most:.0%}"
        )


if __name__ == "__main__":
    main()
