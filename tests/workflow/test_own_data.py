"""An experiment on images of one's own, through the whole workflow, and what changes make anew."""

import csv
import json

import numpy as np
import pytest
import yaml
from PIL import Image

FOLDER = "our data/two kinds"  # places have blanks in their names
EXPERIMENT = {
    "name": "tiny",
    "grid": {
        "datasets": [
            f"folder:{FOLDER}",
            {
                "name": "wrong-labels",
                "base": f"folder:{FOLDER}",
                "options": {"image_size": 10},
                "subset": {"label_noise": 0.4},
            },
        ],
        "models": ["resnet10-narrow"],
        "methods": ["baseline", "reldrop-block/oracle"],
        "train_sizes": ["4/class"],
        "seeds": [0, 1],
    },
    "recipe": {"steps": 3, "batch_size": 8},
    "evaluation": {"fractions": [0.0, 0.8], "gallery": 2, "measures": ["localization"]},
    "figures": ["accuracy-by-train-size", "gallery"],
    "execution": {"device": "cpu", "shard_seconds": 0.1},
}


def draw(folder, kind, number, mode="RGB"):
    """Write an image, dark or bright, and the mask of its brighter middle."""
    low = 0 if kind == "dark" else 120
    pixels = np.random.default_rng(number).integers(low, low + 100, (8, 8, 3), dtype=np.uint8)
    masks = folder / "masks" / kind
    for each in (folder / kind, masks):
        each.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(folder / kind / f"{number}.png")
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[2:6, 2:6] = 255
    Image.fromarray(mask).save(masks / f"{number}.png")


@pytest.fixture(scope="module")
def own(blank):
    """A project whose experiment on a folder of images has run."""
    project = blank()
    for number in range(12):
        for kind in ("dark", "bright"):
            draw(project.root / FOLDER, kind, number, "L" if number == 3 else "RGB")
    project.config.write_text(yaml.safe_dump(EXPERIMENT))
    answer = project.launch()
    assert answer.returncode == 0, answer.stdout
    return project


def rows(project, table):
    with (project.folder / "tables" / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_run_is_in_the_tables_under_the_names_of_its_datasets(own):
    names = {row["dataset"] for row in rows(own, "metrics")}
    assert "wrong-labels" in names
    [folder] = names - {"wrong-labels"}
    assert folder.startswith("two-kinds-")
    assert {row["train_size"] for row in rows(own, "metrics")} == {"8"}
    assert not rows(own, "failures")
    assert (own.folder / "report.html").is_file()


def test_wrong_labels_are_given_to_training_and_to_nothing_else(own):
    orders = sorted(own.root.glob("results/data/*/subsets/noise0.4/s*.json"))
    assert len(orders) == 2
    described = json.loads((orders[0].parents[2] / "dataset.json").read_text())
    assert described["shape"] == [3, 10, 10]
    assert described["class_names"] == ["bright", "dark"]


def test_nothing_is_left_to_do_until_there_is_a_new_image(own):
    assert own.planned_jobs() == {}
    draw(own.root / FOLDER, "dark", 99)
    jobs = own.planned_jobs()
    assert jobs["prepare_dataset"] == 2
    assert {"draw_subset", "train_shard", "evaluate_shard", "draw_figure"} <= jobs.keys()
