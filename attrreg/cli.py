"""The command line: one command per step of the workflow; each can be run by hand."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from attrreg.plan import Plan
    from attrreg.variant import Variant

__all__ = ["app", "main"]

app = typer.Typer(
    help="Train neural networks with attribution maps, and find out honestly whether it helps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Config = Annotated[Path, typer.Option("--config", help="The experiment file.")]
Results = Annotated[Path, typer.Option("--results", help="Where experiments are written.")]
Data = Annotated[Path, typer.Option("--data", help="Where datasets are prepared.")]
ShardName = Annotated[str, typer.Option("--shard", help="A shard; `attrreg plan` lists them.")]
RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed", envvar="ATTRREG_RETRY_FAILED", help="Try again what failed before."
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads of this process.")]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", help="Of the dataset, as name=value; several can be given."),
]
RESULTS, DATA = Path("results"), Path("results/data")
FAILED = 3  # exit code: some runs failed, everything else is collected
INTERRUPTED = 75  # exit code: asked to stop; what was done is stored, start it again
UNSUPPORTED = 4  # exit code: a model that was checked cannot be explained by every rule


def main() -> None:
    """Run the command line; an error that a user can mend is one line, without a traceback."""
    from attrreg.interruption import Interrupted

    try:
        app()
    except Interrupted as reason:
        print(f"attrreg: {reason}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (ValueError, FileNotFoundError, KeyError, RuntimeError, ImportError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
        print(f"attrreg: {message}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"attrreg: {error}; nothing half-written was left behind", file=sys.stderr)
        sys.exit(1)


@app.command()
def plan(config: Config, shards: Annotated[bool, typer.Option("--shards")] = False) -> None:
    """Print the grid, the number of runs and processes, and what the design can show."""
    from attrreg import catalogue
    from attrreg.listings import visible_differences
    from attrreg.plan import estimated_seconds

    planned = _plan(config)
    experiment, grid = planned.experiment, planned.experiment.grid
    print(f"{experiment.name}: {experiment.title or 'an experiment'}")
    rows: list[tuple[str, list[Any]]] = [
        ("datasets", list(experiment.datasets())),
        ("models", list(experiment.models())),
        ("methods", [catalogue.label(name) for name in experiment.compositions()]),
        ("train sizes", grid.train_sizes),
        ("seeds", grid.seeds),
    ]
    for name, values in rows:
        print(f"  {name:<12} {len(values):>3}   {'; '.join(map(str, values))}")
    runs = planned.runs
    cells = len(runs) // len(grid.seeds)
    seconds = sum(map(estimated_seconds, runs))
    print(
        f"{cells} cells, {len(runs)} runs in {len(planned.shards)} processes for training and as "
        f"many for evaluation; roughly {seconds / 60:.0f} minutes of one core"
    )
    if shards:
        for shard in planned.shards:
            print(f"  {shard.name}  {len(shard.runs)} runs, about {shard.seconds:.0f} s")
    print(visible_differences(planned))
    _notice(planned)


@app.command()
def prepare(
    dataset: Annotated[
        str, typer.Option("--dataset", help="A name, or folder:<path>, parquet:…, arrays:….")
    ] = "",
    option: Options = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="An experiment: its dataset of that name, or all."),
    ] = None,
    given: Annotated[
        list[Path] | None,
        typer.Option("--from", help="An archive that is here already; several can be given."),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Fetch nothing; say what is missing.")
    ] = False,
    data: Data = DATA,
) -> None:
    """Fetch a dataset and write its arrays once, with their digests."""
    from attrreg.data.prepare import prepare as write
    from attrreg.data.prepare import summary
    from attrreg.terminal import showing_stages

    if config is None and not dataset:
        raise ValueError("give --dataset NAME, or --config FILE for all datasets of an experiment")
    experiment = _plan(config).experiment if config else None
    named = experiment.datasets() if experiment else {}
    if dataset:
        known = dataset in named and not option
        wanted = [named[dataset] if known else _variant(dataset, option, data)]
    else:
        wanted = experiment.prepared() if experiment else []
    with showing_stages() as show:
        for variant in wanted:
            path = write(data, variant, given or (), offline, show)
            print(f"wrote {path}: {summary(path)}")


@app.command()
def subset(
    dataset: Annotated[str, typer.Option("--dataset")],
    seed: Annotated[int, typer.Option("--seed", min=0)],
    option: Options = None,
    law: Annotated[
        str, typer.Option("--law", help="balanced, natural, imbalance10, noise0.2, …")
    ] = "balanced",
    data: Data = DATA,
) -> None:
    """Draw the order of which every training subset of a seed is the beginning."""
    from dataclasses import replace

    from attrreg.data.sources import read_pool
    from attrreg.data.subsets import draw_subsets
    from attrreg.laws import law_named

    variant = replace(_variant(dataset, option, data), law=law_named(law))
    labels = read_pool(data, variant).images.y
    print(f"wrote {draw_subsets(data, variant, seed, labels)}")


@app.command()
def tune(
    config: Config,
    output: Annotated[
        Path | None, typer.Option("--output", help="The tuned file; else <config>-tuned.yaml.")
    ] = None,
    results: Results = RESULTS,
    data: Data = DATA,
    threads: Threads = 1,
) -> None:
    """Choose parameters of every method on the validation split, as many trials for each."""
    from attrreg.config import read_experiment
    from attrreg.files import write_rows, writing
    from attrreg.machine import choose_device, use_threads
    from attrreg.terminal import showing
    from attrreg.tuned import chosen, studies, tuned_content, write_experiment
    from attrreg.tuning import tune as work
    from attrreg.yaml_files import read_mapping

    experiment, target = read_experiment(config), output or config.with_stem(f"{config.stem}-tuned")
    if target.resolve() == config.resolve():
        raise ValueError(f"--output {target} is the file that is tuned: give another")
    planned, folder = studies(experiment), results / experiment.name
    for study in planned:
        print(f"{study.run.method}: {study.tuning.trials} trials of {', '.join(study.domains)}")
    use_threads(threads)
    execution = experiment.execution
    device = choose_device(execution.device)
    with showing("tuning", sum(study.tuning.trials for study in planned)) as show:
        found = list(work(planned, folder, data, device, execution, show))
    rows, table = chosen(found), folder / "tuning" / "chosen.csv"
    with writing(table) as temporary:
        write_rows(temporary, rows)
    head = f"Written by `attrreg tune` from {config}; what was tried is in {folder / 'tuning'}."
    write_experiment(target, tuned_content(read_mapping(config), experiment, found), head)
    for row in rows:
        said = "every trial failed" if row["chosen"] is None else row["values"]
        print(f"{row['method']}: {row['steps']} steps spent; {said}")
    print(f"wrote {table} and {target}")
    if any(row["chosen"] is None for row in rows):
        raise typer.Exit(FAILED)


@app.command()
def train(
    config: Config,
    shard: ShardName = "",
    results: Results = RESULTS,
    data: Data = DATA,
    retry_failed: RetryFailed = False,
    threads: Threads = 1,
    stamp: Annotated[Path | None, typer.Option("--stamp", help="Written at the end.")] = None,
) -> None:
    """Train the runs of a shard (without one: of all) that are not there yet."""
    from attrreg.training.runs import train_shard

    def work(planned: "Plan", runs: Any, device: Any, report: Any) -> Mapping[Any, str]:
        return train_shard(
            runs,
            planned.folder(results),
            data,
            device,
            retry_failed,
            report,
            planned.experiment.execution,
        )

    _work_through(work, "training", config, shard, results, threads, stamp)


@app.command()
def evaluate(
    config: Config,
    shard: ShardName = "",
    results: Results = RESULTS,
    data: Data = DATA,
    retry_failed: RetryFailed = False,
    threads: Threads = 1,
    stamp: Annotated[Path | None, typer.Option("--stamp", help="Written at the end.")] = None,
) -> None:
    """Evaluate the trained runs of a shard (without one: of all) that have no scores yet."""
    from attrreg.evaluation.scores import evaluate_shard
    from attrreg.plan import crossed_runs, neutral_runs

    def work(planned: "Plan", runs: Any, device: Any, report: Any) -> Mapping[Any, str]:
        folder, protocol = planned.folder(results), planned.experiment.evaluation
        return evaluate_shard(
            *(runs, folder, data, protocol, device, retry_failed, report),
            neutral=neutral_runs(planned, runs),
            crossed=crossed_runs(planned, runs),
        )

    _work_through(work, "evaluation", config, shard, results, threads, stamp)


@app.command()
def collect(config: Config, results: Results = RESULTS) -> None:
    """Collect what runs and scores left into tables."""
    from attrreg.files import writing
    from attrreg.tables import collect as write

    planned = _plan(config)
    folder = planned.folder(results)
    counts = write(planned.runs, folder)
    with writing(folder / "tables" / "experiment.yaml") as temporary:
        temporary.write_text(config.read_text())
    print(f"{folder / 'tables'}: " + ", ".join(f"{name} {n} rows" for name, n in counts.items()))


@app.command("test")
def compare_methods(config: Config, results: Results = RESULTS) -> None:
    """Compare the methods: paired differences, exact sign-flip tests, intervals, verdicts."""
    from attrreg.catalogue import control_pairs
    from attrreg.more_tests import items_table, ranks_table
    from attrreg.statistics import compare_all, run_names
    from attrreg.tables import read_table, write_table

    planned = _plan(config)
    experiment, folder = planned.experiment, planned.folder(results)
    tables = folder / "tables"
    metrics = read_table(tables / "metrics.csv", f"attrreg collect --config {config}")
    failures = read_table(tables / "failures.csv", f"attrreg collect --config {config}")
    methods = list(experiment.compositions())
    known = set(metrics.metric)
    tested = [name for name in experiment.tested_metrics() if name in known or metrics.empty]
    for absent in sorted(set(experiment.tested_metrics()) - set(tested)):
        print(f"note: {absent} is not compared: no run has it", file=sys.stderr)
    tests = compare_all(
        metrics,
        experiment.statistics.references,
        tested,
        control_pairs(methods),
        alpha=experiment.statistics.alpha,
        methods=methods,
        equivalence_margins=experiment.statistics.equivalence,
        noninferiority_margins=experiment.statistics.non_inferiority,
        scales=experiment.statistics.scales,
        floors=experiment.statistics.floors,
        failed=run_names(failures[failures.error != "missing"]),
        taking_part=experiment.taking_part(),
    )
    for alone in sorted(set(tested) - set(tests.metric)):
        print(
            f"note: {alone} is not compared: no reference, nor a control, has it", file=sys.stderr
        )
    write_table(tests, tables / "tests.csv")
    settings = experiment.statistics
    items = items_table(planned.runs, folder, settings.references, settings.alpha)
    ranks = ranks_table(metrics, tested, methods, settings.alpha)
    write_table(items, tables / "items.csv")
    write_table(ranks, tables / "ranks.csv")
    verdicts = tests.verdict.value_counts().to_dict()
    print(f"{tables / 'tests.csv'}: {len(tests)} comparisons, {verdicts}")


@app.command()
def claims(
    config: Config,
    results: Results = RESULTS,
    declared: Annotated[
        Path, typer.Option("--claims", help="The claims, declared before any result was seen.")
    ] = Path("configs/claims.yaml"),
) -> None:
    """Answer the declared claims from an experiment's tables, each with one of six verdicts."""
    from attrreg.claims.answering import answer
    from attrreg.claims.facts import facts_of
    from attrreg.claims.specification import read_claims, select
    from attrreg.claims.writing import FORMATS, as_text, write_answers
    from attrreg.tables import read_table

    experiment = _plan(config).experiment
    tables = results / experiment.name / "tables"
    metrics = read_table(tables / "metrics.csv", f"attrreg collect --config {config}")
    chosen = select(read_claims(declared), experiment.claims, experiment.statistics.least)
    answers = answer(chosen, metrics, facts_of(experiment))
    for suffix in FORMATS:
        write_answers(answers, tables / f"claims{suffix}")
    print(as_text(answers))
    print(f"wrote {tables / 'claims'}{{{','.join(FORMATS)}}}")


@app.command()
def draw(
    figure: Annotated[list[str] | None, typer.Argument(help="Figures; without any: all.")] = None,
    config: Config = Path("configs/demo.yaml"),
    results: Results = RESULTS,
    tables: Annotated[
        Path | None, typer.Option("--tables", help="A folder of published tables.")
    ] = None,
    target: Annotated[Path | None, typer.Option("--target", help="Where figures go.")] = None,
) -> None:
    """Draw figures from tables."""
    from attrreg import catalogue
    from attrreg.figures import MethodLabel
    from attrreg.figures import draw as write

    experiment = _plan(config).experiment
    folder = results / experiment.name
    methods = [
        MethodLabel(
            name,
            catalogue.label(name),
            is_reconstruction=catalogue.is_reconstruction(name),
            is_control=catalogue.is_control(composition),
        )
        for name, composition in experiment.compositions().items()
    ]
    for name in figure or experiment.drawn_figures():
        paths = write(name, tables or folder / "tables", target or folder / "figures", methods)
        print(f"wrote {', '.join(map(str, paths))}")


@app.command("publish")
def publish_tables(
    config: Config,
    results: Results = RESULTS,
    target: Annotated[
        Path | None, typer.Option("--target", help="Default: results/published/<experiment>.")
    ] = None,
) -> None:
    """Copy what others need to read an experiment and to draw it again: tables and figures."""
    from attrreg.publishing import publish

    planned = _plan(config)
    experiment = planned.experiment
    place = target or results / "published" / experiment.name
    print(f"wrote {publish(experiment, planned.runs, planned.folder(results), place)}")


@app.command()
def status(
    config: Config,
    results: Results = RESULTS,
    strict: Annotated[
        bool, typer.Option("--strict", help=f"Exit with code {FAILED} if a run failed.")
    ] = False,
) -> None:
    """Say how far an experiment is, and what failed."""
    from attrreg.progress import survey

    planned = _plan(config)
    state = survey(planned, planned.folder(results))
    print(
        f"{planned.experiment.name}: {state.trained} of {state.total} runs trained, "
        f"{state.evaluated} evaluated, {state.failed} failed"
    )
    for each in state.working:
        print(f"  {each['stage']}: {each['run']}, {each['step']} of {each['steps']}")
    for name, stage, error in state.failures:
        print(f"  failed in {stage}: {name}: {error}")
    if state.failures:
        print(
            "everything else is collected; try the failed runs again with "
            f"`make run CONFIG={config} RETRY=1`"
        )
    if strict and state.failures:
        raise typer.Exit(FAILED)


@app.command()
def explain(
    model: Annotated[str, typer.Option("--model", help="A model, ours or timm's.")] = "",
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="A column; several can be given.")
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="A PNG or JPEG; several can be given.")
    ] = None,
    dataset: Annotated[
        str, typer.Option("--dataset", help="Explain its validation split; never the test split.")
    ] = "",
    samples: Annotated[int, typer.Option("--samples", min=1, help="How many of it.")] = 4,
    run: Annotated[
        Path | None, typer.Option("--run", help="A finished run: model, weights and dataset.")
    ] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Take timm's weights.")] = False,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Weights of the model, as safetensors.")
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option("--num-classes", min=1, help="Width of the logits.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=1, help="In pixels.")
    ] = None,
    explained: Annotated[
        str, typer.Option("--explain", help="label, prediction, or a class index.")
    ] = "",
    output: Annotated[Path, typer.Option("--output", help="The sheet: .svg, .png or .pdf.")] = Path(
        "explain.png"
    ),
    data: Data = DATA,
    threads: Threads = 1,
) -> None:
    """Draw where a model looks, by several rules, and account for the relevance."""
    from attrreg.figures.sheet import check_output, draw_sheet, reasons, save_sheet, table

    check_output(output, image or ())
    from attrreg.explain import DEFAULT_RULES, Request
    from attrreg.explain import explain as gather
    from attrreg.machine import use_threads

    use_threads(threads)
    sheet = gather(
        Request(
            model=model,
            rules=rule or DEFAULT_RULES,
            images=image or (),
            dataset=dataset,
            samples=samples,
            run=run,
            pretrained=pretrained,
            weights=weights,
            num_classes=num_classes,
            image_size=image_size,
            explained=explained,
            data=data,
        )
    )
    print(f"{sheet.title}\n{table(sheet)}")
    for reason in reasons(sheet):
        print(reason)
    save_sheet(draw_sheet(sheet), output)
    print(f"wrote {output}")


@app.command()
def leak(
    method: Annotated[str, typer.Option("--method", help="`attrreg methods` lists them.")],
    dataset: Annotated[str, typer.Option("--dataset")],
    model: Annotated[str, typer.Option("--model", help="Ours or timm's.")] = "resnet10-narrow",
    train_size: Annotated[int, typer.Option("--train-size", help="Images for the model.")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of the model's training.")] = 300,
    trained_by: Annotated[
        str, typer.Option("--trained-by", help="A method to train the model by; else by --method.")
    ] = "",
    draws: Annotated[int, typer.Option("--draws", min=1, help="Masks per image.")] = 8,
    output: Annotated[
        Path | None, typer.Option("--output", help="A CSV file for the numbers.")
    ] = None,
    data: Data = DATA,
    threads: Threads = 1,
) -> None:
    """Measure what a network reads that sees only the masks of a method: the leak of the label."""
    from attrreg.evaluation.leak import Question, answer, sentences, table
    from attrreg.files import write_rows, writing
    from attrreg.machine import choose_device, use_threads

    use_threads(threads)
    question = Question(method, dataset, model, train_size, seed, steps, trained_by, draws)
    rows = answer(question, data, choose_device("auto"), _patience())
    print("\n".join([table(rows), "", *sentences(rows)]))
    if output is not None:
        with writing(output) as temporary:
            write_rows(temporary, rows)
        print(f"wrote {output}")


@app.command()
def methods() -> None:
    """List the methods, their parts, and what may honestly be said about each."""
    from attrreg import catalogue

    for name, entry in catalogue.PRESETS.items():
        parts = (
            entry.composition.attribution,
            entry.composition.perturbation,
            entry.composition.objective,
        )
        chain = " ▸ ".join(part.name if part else "–" for part in parts)
        print(f"{name:<16} {entry.status:<20} {chain}\n{'':<16} {entry.source}")
    controls = ", ".join(f"<method>/{name}" for name in catalogue.CONTROLS)
    print(f"controls of every guided method: {controls}")


@app.command()
def models(
    like: Annotated[str, typer.Option("--like", help="Only timm names that contain this.")] = "",
    check: Annotated[
        list[str] | None,
        typer.Option(
            "--check",
            help="Check that relevance is right on these, several with commas or options, instead; "
            f"exit with code {UNSUPPORTED} if not on all.",
        ),
    ] = None,
    count: Annotated[
        list[str] | None,
        typer.Option("--count", help="Count parameters and operations of these instead."),
    ] = None,
    image_size: Annotated[
        int, typer.Option("--image-size", min=1, help="At which they are counted.")
    ] = 32,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="Check this rule only; several can be given.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option("--table", help="Check all models of this table, too, and write it again."),
    ] = None,
    threads: Threads = 1,
) -> None:
    """List the models, ours and those of timm, or check whether they can be explained."""
    from attrreg import catalogue

    if check or table:
        _check_models(
            [name for names in check or () for name in names.split(",")], rule, table, threads
        )
        return
    if rule:
        raise ValueError("--rule says what to check: give --check <name>, too")
    if count:
        from attrreg.listings import counted

        for name in count:
            print(counted(name, image_size))
        return
    print(f"{'':<24} {'':<8} {'parameters':>12} {'operations':>12}  at 32 pixels (mnist-cnn: 28)")
    for name, entry in catalogue.MODELS.items():
        size = f"{entry.parameters:>12,} {entry.flops:>12.2e}"
        print(f"{name:<24} {entry.modality:<8} {size}  {entry.title}")
    names = [name for name in catalogue.timm_names() if like in name]
    if like:
        print("\n".join(names))
    else:
        print(
            f"and {len(names)} of timm, such as resnet18; list them with --like resnet; and "
            f"{len(catalogue.torchvision_names())} as torchvision:<name>"
        )


@app.command()
def datasets(data: Data = DATA) -> None:
    """List the datasets: modality, classes, sizes, licence, source, and whether prepared."""
    from attrreg import catalogue
    from attrreg.listings import choices, described

    for name, entry in catalogue.DATASETS.items():
        print(described(name, entry, data))
    for prefix, kind in catalogue.OPTIONS.items():
        print(f"{prefix}:<path>\n{'':<18} options: {choices(kind)}")


def _variant(dataset: str, option: list[str] | None, data: Path) -> "Variant":
    """Return a dataset with options that were given as text."""
    import yaml
    from pydantic import ValidationError

    from attrreg import catalogue
    from attrreg.messages import explain as say
    from attrreg.variant import Variant

    if not option:
        return Variant.named(dataset, data)
    pairs = [each.partition("=") for each in option]
    if wrong := [each for each, (_, equals, _) in zip(option, pairs, strict=True) if not equals]:
        raise ValueError(f"--option {wrong[0]!r}: give it as name=value")
    chosen = {name: yaml.safe_load(value) for name, _, value in pairs}
    try:
        return Variant.of(dataset, chosen)
    except ValidationError as error:
        said = say(error, chosen, catalogue.options_of(dataset), {})
        raise ValueError(f"options of {dataset!r}: {said}") from error


def _check_models(
    names: list[str], rules: list[str] | None, table: Path | None, threads: int
) -> None:
    """Say of each model whether the relevance engine is right on it."""
    from attrreg import catalogue
    from attrreg.attribution.verdict import judge, layerwise, names_in, write_table
    from attrreg.machine import use_threads

    if table and rules:
        raise ValueError("a table is of all rules: give --rule or --table, not both")
    chosen = layerwise(rules or ())
    names = list(dict.fromkeys([*(names_in(table) if table else ()), *names]))
    if not names:
        raise ValueError(f"{table} lists no model yet: give --check <name>, too")
    for name in names:
        catalogue.model(name)  # an unknown one is said before any is checked
    use_threads(threads)
    verdicts = []
    for name in names:
        verdicts.append(judge(name, chosen))
        print(verdicts[-1], flush=True)
    if table:
        write_table(table, verdicts)
        print(f"wrote {table}")
    elif any(each.outcome != "supported" for each in verdicts):
        raise typer.Exit(UNSUPPORTED)


def _plan(config: Path) -> "Plan":
    from attrreg.config import read_experiment
    from attrreg.plan import make_plan

    return make_plan(read_experiment(config))


def _notice(planned: "Plan") -> None:
    from attrreg.config import notices

    for notice in notices(planned.experiment):
        print(f"note: {notice}", file=sys.stderr)


def _work_through(
    work: Callable[["Plan", Any, Any, Any], Mapping[Any, str]],
    stage: str,
    config: Path,
    shard: str,
    results: Path,
    threads: int,
    stamp: Path | None,
) -> None:
    """Do the work of a stage on one shard or on all, and say what became of each run."""
    from attrreg.machine import choose_device, use_threads
    from attrreg.progress import reporter
    from attrreg.terminal import showing

    planned = _plan(config)
    use_threads(threads)
    device = choose_device(planned.experiment.execution.device)
    shards = [planned.shard(shard)] if shard else planned.shards
    with showing(stage, sum(len(each.runs) for each in shards)) as show:
        for each in shards:
            note = reporter(planned.folder(results), each.name, stage)

            def report(run: Any, step: int, steps: int, note: Any = note) -> None:
                note(run, step, steps)
                show(run, step, steps)

            for run, outcome in work(planned, each.runs, device, report).items():
                print(f"{each.name}: {run.name}: {outcome}")
            _stamp(stamp, each.digest)


def _patience(seconds: float = 5.0) -> Callable[[str, int, int], None]:
    """Return a function that says on stderr how far work is, as often as once in some seconds."""
    import time

    last = time.monotonic()

    def report(stage: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            print(f"{stage}: {done} of {total}", file=sys.stderr, flush=True)

    return report


def _stamp(path: Path | None, content: str) -> None:
    from attrreg.files import writing

    if path is not None:
        with writing(path) as temporary:
            temporary.write_text(f"{content}\n")
