"""A dataset of series, with a model that takes them, from its preparation to its tables."""

from experiments import command, written

CHANGES = {
    "grid.datasets": [{"name": "signals", "base": "shapes-series", "options": {"length": 96}}],
    "grid.models": ["cnn-series"],
    "grid.methods": ["baseline", "reldrop-block/oracle"],
    "grid.train_sizes": ["4/class"],
    "evaluation.fractions": [0.0, 0.8],
    "evaluation.measures": ["localization"],
}


def test_series_are_trained_evaluated_and_drawn(tmp_path):
    config = written(tmp_path, CHANGES)
    places = ("--config", config, "--results", tmp_path / "results", "--data", tmp_path / "data")
    assert command("prepare", "--config", config, "--data", tmp_path / "data").code == 0
    folder = next((tmp_path / "data").glob("shapes-series-*"))
    for seed in range(2):
        drawn = command("subset", "--dataset", folder.name, "--seed", seed, *places[4:])
        assert drawn.code == 0, drawn.err
    for step in ("train", "evaluate"):
        answer = command(step, *places)
        assert answer.out.count(": made") == 4, answer
    for step in ("collect", "test"):
        assert command(step, *places[:4]).code == 0
    drawn = command("draw", "accuracy-by-train-size", "occlusion", *places[:4])
    assert drawn.code == 0, drawn.err


def test_images_are_refused_by_its_model_and_crops_by_its_data(tmp_path):
    wrong = written(tmp_path, CHANGES | {"grid.models": ["resnet18"]})
    assert (
        "takes image inputs, dataset 'signals' has series" in command("plan", "--config", wrong).err
    )
    wrong = written(tmp_path, CHANGES | {"recipe.augmentation": {"flip": True}})
    assert "crops and flips images" in command("plan", "--config", wrong).err
