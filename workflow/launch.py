"""Run an experiment through Snakemake, show how far it is, and write its report.

    python workflow/launch.py configs/demo.yaml --cores 2

The same command goes on after an interruption. One launcher works in a folder at a time: it holds a
lock that its Snakemake inherits, so that an orphan whose launcher was killed still counts as one,
and only then frees what a killed Snakemake left locked.

Exit codes: 0 all well, 1 the workflow broke, 2 the experiment file is wrong, 3 some runs failed and
everything else is collected, 130 interrupted.
"""

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from attrreg.config import ConfigError, notices, read_experiment
from attrreg.plan import Plan, make_plan
from attrreg.progress import Survey, survey

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path("results")
FAILED_RUNS = 3
# Snakemake centres what it shows, and of a figure taller than the window hides the upper part.
STYLE = "<style>.overflow-auto { align-items: safe center !important }</style>"
QUIET_INTERVAL = 20.0  # seconds between two lines where there is no terminal


def main() -> int:
    """Run the experiment named on the command line and return the exit code."""
    arguments = _arguments()
    os.chdir(ROOT)
    console = Console(highlight=False)
    try:
        plan = make_plan(read_experiment(arguments.config))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    folder = plan.folder(RESULTS)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    for notice in notices(plan.experiment):
        console.print(f"note: {notice}", style="yellow", soft_wrap=True)
    with _hold_lock(console) as lock:
        return _run(plan, folder, arguments, console, lock)


def _run(
    plan: Plan, folder: Path, arguments: argparse.Namespace, console: Console, lock: TextIO
) -> int:
    snakemake = [sys.executable, "-m", "snakemake", "--cores", arguments.cores]
    snakemake += ["--config", f"experiment={arguments.config}"]
    if any(Path(".snakemake/locks").glob("*")):
        subprocess.run([*snakemake, "--unlock", "--quiet"], check=True, capture_output=True)
    again = _shards_with_failures(plan, folder) if arguments.retry_failed else []
    log = folder / "logs" / "workflow.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [*snakemake, *(["--forcerun", *again] if again else [])],
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lock.fileno()],
            env=_environment(arguments.retry_failed),
        )
        try:
            _follow(process, plan, folder, console)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            process.wait()
            console.print("interrupted; nothing finished is lost, the same command goes on")
            return 130
    state = survey(plan, folder)
    report = folder / "report.html"
    nothing_done = "Nothing to be done" in log.read_text()
    if process.returncode == 0 and nothing_done and report.exists():
        console.print(f"{plan.experiment.name} is up to date, nothing to do: {report}")
        return 0
    if process.returncode != 0 and not state.failures:
        tail = "\n".join(log.read_text().splitlines()[-25:])
        console.print(f"{tail}\nthe workflow broke; its whole log is {log}", markup=False)
        return 1
    _write_report(snakemake, report, log)
    return _conclude(state, folder, arguments.config, console)


def _conclude(state: Survey, folder: Path, config: Path, console: Console) -> int:
    console.print(
        f"{state.evaluated} of {state.total} runs trained and evaluated; tables in "
        f"{folder}/tables, figures in {folder}/figures\n{_headline(folder)}"
        f"report: {folder}/report.html",
        soft_wrap=True,
    )
    if not state.failures:
        return 0
    for name, stage, error in state.failures:
        console.print(f"failed in {stage}: {name}: {error}", style="red", soft_wrap=True)
    console.print(
        f"{len(state.failures)} of {state.total} runs failed, everything else is collected; "
        f"{folder}/tables/failures.csv lists them; `make run CONFIG={config} RETRY=1` tries them "
        "again",
        soft_wrap=True,
    )
    return FAILED_RUNS


def _headline(folder: Path) -> str:
    """Return how many claims got which verdict, as a line; empty where none were answered."""
    answers = folder / "tables" / "claims.txt"
    if not answers.is_file():
        return ""
    first = answers.read_text(encoding="utf-8").partition("\n\n")[0]
    return f"claims: {' '.join(first.split())}\n"


def _follow(process: subprocess.Popen[bytes], plan: Plan, folder: Path, console: Console) -> None:
    """Show what runs, what is left and until when, until the process has ended."""
    begun, first = time.time(), survey(plan, folder)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=1.0)
        said = time.time()
        pause = 0.5
        while not _has_ended(process, pause):
            looked = time.perf_counter()
            state = survey(plan, folder)
            # of a large grid every look takes long; watching must not take more than a twentieth
            pause = max(0.5, 20 * (time.perf_counter() - looked))
            line = _line(plan, state, first, begun)
            progress.update(task, completed=state.done, description=line)
            if not console.is_terminal and time.time() - said > QUIET_INTERVAL:
                said = time.time()
                console.print(line, soft_wrap=True)


def _has_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait for a process for so long, and say whether it has ended."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _line(plan: Plan, state: Survey, first: Survey, begun: float) -> str:
    running = ", ".join(f"{each['run']}" for each in state.working) or "tables and figures"
    gained = state.done - first.done
    until = ""
    if gained > 0.02 and state.done < 1:
        rest = (time.time() - begun) / gained * (1 - state.done)
        until = f", until about {datetime.now() + timedelta(seconds=rest):%H:%M:%S}"
    failed = f", {state.failed} failed" if state.failed else ""
    return (
        f"{plan.experiment.name}: {state.trained} of {state.total} runs trained, "
        f"{state.evaluated} evaluated{failed}, {1 - state.done:.0%} of the work left{until}; "
        f"now {running}"
    )


def _hold_lock(console: Console) -> TextIO:
    """Return the open lock file of this folder, after waiting for whoever holds it."""
    path = RESULTS / ".launch.lock"
    path.parent.mkdir(exist_ok=True)
    lock = path.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        console.print(f"waiting for an earlier launch to end ({lock.read().strip()})")
        fcntl.flock(lock, fcntl.LOCK_EX)
    lock.seek(0)
    lock.truncate()
    lock.write(f"process {os.getpid()}, since {datetime.now():%Y-%m-%d %H:%M:%S}\n")
    lock.flush()
    return lock


def _shards_with_failures(plan: Plan, folder: Path) -> list[str]:
    """Return the stamps of the shards in which a run failed."""
    failed = {name for name, _, _ in survey(plan, folder).failures}
    return [
        str(folder / "stamps" / stage / f"{shard.name}.txt")
        for shard in plan.shards
        if failed & {run.name for run in shard.runs}
        for stage in ("train_shard", "evaluate_shard")
    ]


def _environment(retry_failed: bool) -> dict[str, str]:
    """Return the environment of the jobs: this installation's commands, one thread per run."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    retry = {"ATTRREG_RETRY_FAILED": "1"} if retry_failed else {}
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **retry}


def _write_report(snakemake: list[str], report: Path, log: Path) -> None:
    """Write the report, which Snakemake can only do after a workflow has ended."""
    temporary = report.with_name(f".{report.stem}.partial.html")
    made = subprocess.run(
        [*snakemake, "--report", str(temporary), "--", "draw_figures"],
        capture_output=True,
        text=True,
        check=False,
    )
    with log.open("a") as output:
        output.write(made.stdout + made.stderr)
    if made.returncode != 0:
        raise SystemExit(f"the report could not be written; see the end of {log}")
    temporary.write_text(temporary.read_text().replace("</head>", f"{STYLE}</head>", 1))
    temporary.replace(report)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="the experiment file")
    parser.add_argument("--cores", default="all", help="how many shards work at once")
    parser.add_argument(
        "--retry-failed", action="store_true", help="try runs again that failed before"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
