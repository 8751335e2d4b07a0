"""Experiment files that are wrong, each in one way, and what must be said of it."""

import yaml
from experiments import REMOVED, changed

PERTURBED = {"name": "cross-entropy", "on": "perturbed"}


def method(**parts):
    """Return changes that add a method of one's own to the grid."""
    return {"grid.methods": ["baseline", {"name": "own", **parts}]}


# name: (changes, the key that the message begins with, what else it says)
WRONG = {
    "unknown dataset": (
        {"grid.datasets": ["digit"]},
        "grid.datasets",
        ["'digit'", "known are ", "did you mean 'digits'?", "folder:<path>"],
    ),
    "timm options for a model that is not timm's": (
        {"grid.models": [{"name": "mine", "base": "wrn-40-2", "timm": {"drop_rate": 0.1}}]},
        "grid.models",
        ["'wrn-40-2' is not made by timm", "give them as options"],
    ),
    "unknown model": (
        {"grid.models": ["resnet10-narow"]},
        "grid.models",
        ["'resnet10-narow'", "known are", "did you mean 'resnet10-narrow'?"],
    ),
    "unknown base of a model": (
        {"grid.models": [{"name": "own", "base": "resnet19"}]},
        "grid.models[0]",
        ["'resnet19'", "known are", "did you mean 'resnet18'?"],
    ),
    "unknown method": (
        {"grid.methods": ["baseline", "reldrop-blok"]},
        "grid.methods",
        ["'reldrop-blok'", "known are baseline", "did you mean 'reldrop-block'?"],
    ),
    "control of a method that does not look at the model": (
        {"grid.methods": ["baseline", "random-erasing/swapped"]},
        "grid.methods",
        ["'random-erasing/swapped'", "known are"],
    ),
    "unknown preset": (
        method(preset="challengr"),
        "grid.methods[1]",
        ["'challengr'", "known are", "did you mean 'challenger'?"],
    ),
    "unknown rule of the evaluation": (
        {"evaluation.rule": "epsilon-plus-flt"},
        "evaluation.rule",
        ["'epsilon-plus-flt'", "known are lrp-0", "did you mean 'epsilon-plus-flat'?"],
    ),
    "unknown rule of an attribution": (
        method(preset="reldrop-block", attribution={"rule": "epsilonn"}),
        "grid.methods[1].attribution.rule",
        ["'epsilonn'", "known are lrp-0", "did you mean 'epsilon'?"],
    ),
    "unknown rule below a control": (
        method(
            attribution={"name": "swapped", "of": {"name": "lrp", "rule": "epsilonn"}},
            perturbation="block",
            objective=PERTURBED,
        ),
        "grid.methods[1].attribution.of.rule",
        ["'epsilonn'", "known are lrp-0", "did you mean 'epsilon'?"],
    ),
    "unknown part": (
        method(attribution="gradiant", perturbation="block", objective=PERTURBED),
        "grid.methods[1].attribution",
        ["'gradiant'", "known are uniform, gradient", "did you mean 'gradient'?"],
    ),
    "unknown parameter of a part": (
        method(preset="reldrop-block", perturbation={"centers": 3}),
        "grid.methods[1].perturbation.centers",
        ["'centers'", "known are name, p,", "did you mean 'centres'?"],
    ),
    "parameter of a part out of range": (
        method(
            attribution="gradient", perturbation={"name": "block", "p": 1.5}, objective=PERTURBED
        ),
        "grid.methods[1].perturbation.p",
        ["found 1.5", "less than or equal to 1"],
    ),
    "range of a part the wrong way round": (
        method(preset="reldrop-block", perturbation={"area": [0.4, 0.1]}),
        "grid.methods[1].perturbation",
        ["'area'", "[low, high]", "[0.4, 0.1]"],
    ),
    "perturbation without attribution": (
        method(perturbation="block", objective=PERTURBED),
        "grid.methods[1]",
        ["'block' needs an attribution", "'uniform'"],
    ),
    "perturbation without effect": (
        method(attribution="gradient", perturbation="block"),
        "grid.methods[1]",
        ["'block' has no effect", "perturbed"],
    ),
    "objective without perturbation": (
        method(objective="consistency"),
        "grid.methods[1]",
        ["'consistency' needs a perturbed input"],
    ),
    "control that needs regions": (
        {"grid.methods": ["baseline", "sgt/oracle"]},
        "grid",
        ["'sgt/oracle' needs the ground-truth region", "'digits' has none"],
    ),
    "control of one's own that needs regions": (
        method(preset="reldrop-block", attribution="oracle"),
        "grid",
        ["'own' needs the ground-truth region", "'digits' has none"],
    ),
    "cached maps of a control": (
        method(preset="reldrop-block/swapped", attribution={"name": "cached", "every": 5}),
        "grid.methods[1].attribution",
        ["'cached' keeps the maps of an attribution, found 'swapped'", "inside the control"],
    ),
    "cached maps that are never made": (
        method(preset="reldrop-block", attribution={"name": "cached", "every": 0}),
        "grid.methods[1].attribution.every",
        ["found 0", "greater than or equal to 1"],
    ),
    "random class of an attribution that explains none": (
        method(preset="random-erasing", attribution="random-class"),
        "grid.methods[1].attribution",
        ["'random-class'", "'uniform' explains none"],
    ),
    "parameter that a rule does not use": (
        method(preset="reldrop-block", attribution={"gamma": 0.5}),
        "grid.methods[1].attribution",
        ["'gamma' has no effect under rule 'epsilon-plus-flat'"],
    ),
    "control of nothing": (
        method(attribution="swapped", perturbation="block", objective=PERTURBED),
        "grid.methods[1].attribution.of",
        ["is missing"],
    ),
    "preset whose attribution is taken away": (
        method(preset="reldrop-block", attribution=None),
        "grid.methods[1]",
        ["'block' needs an attribution"],
    ),
    "method under the name of a preset": (
        {"grid.methods": ["baseline", {"name": "sgt", "preset": "challenger"}]},
        "grid.methods[1]",
        ["'sgt' is the name of a preset"],
    ),
    "method that is a number": (
        {"grid.methods": ["baseline", 3]},
        "grid.methods[1]",
        ["found 3", "a name or a mapping"],
    ),
    "part that is a number": (
        method(attribution=3),
        "grid.methods[1].attribution",
        ["found 3", "a name or a mapping"],
    ),
    "name with a space": (
        {"grid.methods": ["baseline", {"name": "my block", "preset": "reldrop-block"}]},
        "grid.methods[1].name",
        ["'my block'", "letters, digits"],
    ),
    "name that shares its folder with another": (
        {
            "grid.methods": [
                "baseline",
                "reldrop-block/swapped",
                {"name": "reldrop-block--swapped", "preset": "reldrop-block"},
            ]
        },
        "grid.methods[2].name",
        ["'reldrop-block--swapped'", "'--'"],
    ),
    "experiment whose name is a path": (
        {"name": "../other"},
        "name",
        ["'../other'", "letters, digits"],
    ),
    "unknown key at the top": (
        {"recipes": {}},
        "recipes",
        ["'recipes'", "known are name, title, grid", "did you mean 'recipe'?"],
    ),
    "unknown key below": (
        {"recipe.optimizer.learningrate": 1},
        "recipe.optimizer.learningrate",
        ["'learningrate'", "known are name, learning_rate", "did you mean 'learning_rate'?"],
    ),
    "unknown key of a method": (
        method(prset="sgt"),
        "grid.methods[1].prset",
        ["'prset'", "known are name, preset", "did you mean 'preset'?"],
    ),
    "misspelt key, so that another is missing": (
        {"grid.train_sizes": REMOVED, "grid.train_size": [50]},
        "grid.train_size",
        ["'train_size'", "did you mean 'train_sizes'?"],
    ),
    "missing key": ({"grid.seeds": REMOVED}, "grid.seeds", ["is missing"]),
    "train size above the pool": (
        {"grid.train_sizes": [20, 2000]},
        "grid",
        ["train_sizes has 2000", "'digits'", "at most 1077"],
    ),
    "train size below the classes": (
        {"grid.train_sizes": [9]},
        "grid",
        ["train_sizes has 9", "'digits'", "10 classes", "at least 10"],
    ),
    "dataset twice": ({"grid.datasets": ["digits"] * 2}, "grid", ["datasets has digits"]),
    "model twice": (
        {"grid.models": ["resnet18", "resnet18"]},
        "grid",
        ["models has resnet18 more than once"],
    ),
    "model of one's own under a name that is taken": (
        {"grid.models": [{"name": "resnet18", "base": "resnet34"}]},
        "grid.models[0]",
        ["'resnet18' is the name of a model", "a name of its own"],
    ),
    "method twice": (
        {"grid.methods": ["baseline", "sgt", "sgt"]},
        "grid",
        ["methods has sgt more than once"],
    ),
    "train size twice": ({"grid.train_sizes": [20, 20]}, "grid", ["train_sizes has 20 more"]),
    "seed twice": ({"grid.seeds": [0, 1, 1]}, "grid", ["seeds has 1 more than once"]),
    "order twice": (
        {"evaluation.orders": ["random-block"] * 2},
        "evaluation.orders has random-block more than once",
        [],
    ),
    "one seed in a list": ({"grid.seeds": [4]}, "grid", ["seeds has only [4]", "at least 2"]),
    "one seed as a number": ({"grid.seeds": 1}, "grid", ["at least 2"]),
    "no seed": ({"grid.seeds": 0}, "grid.seeds", ["found 0", "at least 2"]),
    "negative seed": ({"grid.seeds": [0, -1]}, "grid.seeds[1]", ["found -1", "equal to 0"]),
    "negative size": ({"grid.train_sizes": [-5]}, "grid.train_sizes[0]", ["found -5", "to 1"]),
    "negative rate": (
        {"recipe.optimizer.learning_rate": -0.1},
        "recipe.optimizer.learning_rate",
        ["found -0.1", "greater than 0"],
    ),
    "rate that is not a number": (
        {"recipe.optimizer.learning_rate": float("nan")},
        "recipe.optimizer.learning_rate",
        ["found nan", "finite"],
    ),
    "infinite batch": (
        {"recipe.batch_size": float("inf")},
        "recipe.batch_size",
        ["found inf", "finite"],
    ),
    "infinite parameter of a part": (
        method(preset="challenger", perturbation={"strength": float("inf")}),
        "grid.methods[1].perturbation.strength",
        ["found inf", "finite"],
    ),
    "text in place of a number": (
        {"recipe.optimizer.learning_rate": "fast"},
        "recipe.optimizer.learning_rate",
        ["found 'fast'", "a number"],
    ),
    "fraction in place of a count": (
        {"recipe.steps": 2.5},
        "recipe.steps",
        ["found 2.5", "a whole number"],
    ),
    "number in place of a list": ({"grid.train_sizes": 50}, "grid.train_sizes", ["found 50"]),
    "text in place of a mapping": ({"grid": "big"}, "grid", ["found 'big'", "a mapping"]),
    "list in place of a mapping": ({"recipe": [1]}, "recipe", ["found [1]", "a mapping"]),
    "optimizer by name only": (
        {"recipe.optimizer": "sgd"},
        "recipe.optimizer",
        ["found 'sgd'", "a mapping"],
    ),
    "optimizer without name": (
        {"recipe.optimizer": {"learning_rate": 0.1}},
        "recipe.optimizer",
        ["'name'"],
    ),
    "unknown optimizer": (
        {"recipe.optimizer": {"name": "adam"}},
        "recipe.optimizer",
        ["'adam'", "known are sgd, adamw", "did you mean 'adamw'?"],
    ),
    "steps and epochs": ({"recipe.epochs": 3}, "recipe", ["'steps'", "'epochs'", "both"]),
    "neither steps nor epochs": ({"recipe.steps": REMOVED}, "recipe", ["'steps'", "neither"]),
    "reference that is not run": (
        {"statistics.references": ["baselin"]},
        "statistics.references",
        ["'baselin'", "known are baseline, reldrop-block", "did you mean 'baseline'?"],
    ),
    "metric of an order that is not measured": (
        {
            "evaluation.orders": ["random-pixels"],
            "statistics.metrics": ["occlusion-random-block"],
        },
        "statistics.metrics",
        ["'occlusion-random-block'", "known are accuracy", "follows from evaluation.orders"],
    ),
    "metric of a measure that is not made": (
        {"evaluation.measures": ["margin"], "statistics.metrics": ["train-accuracy"]},
        "statistics.metrics",
        ["'train-accuracy'", "known are accuracy", "measures"],
    ),
    "metric that nobody knows": (
        {"statistics.metrics": ["acuracy"]},
        "statistics.metrics",
        ["'acuracy'", "did you mean 'accuracy'?"],
    ),
    "metric of which no way is better": (
        {"statistics.metrics": ["accuracy", "temperature"]},
        "statistics.metrics",
        ["'temperature'"],
    ),
    "fill that stands beside the headline twice": (
        {"evaluation.beside": ["mean", "mean"]},
        "evaluation.beside",
        ["more than once", "mean"],
    ),
    "unknown measure": (
        {"evaluation.measures": ["margins"]},
        "evaluation.measures",
        ["'margins'", "did you mean 'margin'?"],
    ),
    "unknown map": (
        {"evaluation.maps": ["gradientt"]},
        "evaluation.maps",
        ["'gradientt'", "did you mean 'gradient'?"],
    ),
    "held back whole": (
        {"recipe.selection": {"name": "last", "held_back": 1.0}},
        "recipe.selection.held_back",
        ["1.0"],
    ),
    "fractions that do not ascend": (
        {"evaluation.fractions": [0.0, 0.5, 0.2]},
        "evaluation.fractions",
        ["[0.0, 0.5, 0.2]"],
    ),
    "truth in place of a count": ({"recipe.steps": True}, "recipe.steps", ["found True"]),
    "truth in place of a probability": (
        method(preset="reldrop-block", perturbation={"p": True}),
        "grid.methods[1].perturbation.p",
        ["found True"],
    ),
} | {
    f"no {axis}": ({f"grid.{axis}": []}, f"grid.{axis}", ["found []", "1 or more"])
    for axis in ("datasets", "models", "methods", "train_sizes", "seeds")
}

TINY_TEXT = yaml.safe_dump(changed())
TINY_LINES = TINY_TEXT.count("\n")

# name: (the file's text, what the message says)
UNREADABLE = {
    "a file that is not YAML": ("grid: [a, b\nname: }\n", ["is not valid YAML", "line 2"]),
    "a tab": ("grid:\n\tseeds: 3\n", ["is not valid YAML", "line 2", "'\\t'"]),
    "an empty file": ("", ["is empty", "demo.yaml"]),
    "only a comment": ("# later\n", ["is empty", "demo.yaml"]),
    "a list": ("- name\n- grid\n", ["a list", "grid"]),
    "a word": ("hello\n", ["grid"]),
    "a key twice": (f"{TINY_TEXT}name: again\n", [f"line {TINY_LINES + 1}", "'name' stands twice"]),
    "a nested key twice": ("grid:\n  seeds: 3\n  seeds: 4\n", ["line 3", "'seeds' stands twice"]),
    "two documents": (f"{TINY_TEXT}---\n{TINY_TEXT}", ["is not valid YAML", "another document"]),
    "a key that is a number": (f"{TINY_TEXT}3: 4\n", ["found 3", "must be text"]),
    "a date that does not exist": ("title: 2024-13-45\n", ["is not valid YAML"]),
    "a call of Python": ("!!python/object/apply:os.system [ls]\n", ["is not valid YAML"]),
}
