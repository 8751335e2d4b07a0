"""What the README shows works as it stands there."""

import re
from pathlib import Path

import torch
import yaml
from torch import nn

from attrreg import catalogue
from attrreg.config import read_experiment
from attrreg.yaml_files import UniqueKeys

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def block(language):
    return re.search(rf"```{language}\n(.*?)```", README, re.DOTALL).group(1)


def test_the_lines_for_a_training_loop_train():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    before = [parameter.clone() for parameter in model.parameters()]
    names = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loader": [(torch.randn(5, 1, 4, 4), torch.arange(5) % 3)] * 2,
    }
    exec(block("python"), names)
    assert torch.isfinite(names["loss"])
    assert not all(map(torch.equal, before, model.parameters()))


def test_the_lines_on_relevance_run():
    text = (ROOT / "docs" / "relevance.md").read_text()
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(144, 3))
    names = {
        "x": torch.randn(2, 3, 32, 32),
        "y": torch.tensor([0, 2]),
        "F": nn.functional,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    first, second = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(first, names)
    assert names["heat"].shape == names["x"].shape
    names |= {"model": model, "x": torch.randn(2, 3, 8, 8), "mask": torch.ones(8, 8)}
    before = model[0].weight.clone()
    exec(second, names)
    assert names["penalty"] > 0
    assert not torch.equal(model[0].weight, before)


def test_the_methods_and_sizes_shown_can_stand_in_a_grid(tmp_path):
    experiment = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    data, parts = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    experiment["grid"]["methods"] = yaml.load(parts, Loader=UniqueKeys)["methods"]
    experiment["grid"]["train_sizes"] = yaml.load(data, Loader=UniqueKeys)["train_sizes"]
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(experiment))
    compositions = read_experiment(path).compositions()
    assert compositions["reldrop-top10"].perturbation.centres == 10
    assert compositions["gradient-block"].attribution.name == "gradient"


def test_every_method_has_its_row_and_its_honest_status():
    rows = dict(re.findall(r"^\| `([^`]+)` \|.*\| ([^|]+) \|$", README, re.MULTILINE))
    controls = {f"<method>/{control}" for control in catalogue.CONTROLS}
    assert rows.keys() == catalogue.PRESETS.keys() | controls
    for name, preset in catalogue.PRESETS.items():
        assert rows[name].strip("*").startswith(preset.status)


def test_the_commands_listed_exist():
    from attrreg.cli import app

    listed = re.search(r"`attrreg (plan[^`]*)`", README.replace("\n", " ")).group(1)
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert set(listed.split(" · ")) == names


def test_every_file_referred_to_exists():
    for target in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / target).is_file()
