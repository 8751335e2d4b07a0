"""Set-up: the lock and environment.yml agree, and setup.sh says clearly why it cannot go on."""

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()

specification = importlib.util.spec_from_file_location("lock", ROOT / "workflow/scripts/lock.py")
assert specification is not None
assert specification.loader is not None
lock = importlib.util.module_from_spec(specification)
specification.loader.exec_module(lock)

HASHES = f"    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{'1' * 64}\n"
SMALL_LOCK = f"numpy==2.0 \\\n{HASHES}setuptools==80.0 \\\n{HASHES}torch==2.15.0 \\\n{HASHES}"

# Stands for a system's Python and for the one inside .venv. It records what it is asked to do,
# makes environments that hold a copy of itself, and leaves the rest to the Python of the tests.
FAKE_PYTHON = f"""#!/bin/sh
if [ "$1" = -c ]; then
    case "$2" in
        *version_info*) [ -z "$FAKE_VERSION" ] || {{ echo "$FAKE_VERSION"; exit 0; }} ;;
        *ensurepip*) [ -z "$FAKE_BARE" ] || exit 1 ;;
    esac
fi
case "$*" in
    *"-m venv"*)
        echo venv >>"$FAKE_CALLS"
        eval "$FAKE_VENV"
        mkdir -p .venv/bin && cp "$0" .venv/bin/python
        ;;
    *"-m pip"*)
        echo "pip $*" >>"$FAKE_CALLS"
        eval "$FAKE_PIP"
        ;;
    *) exec "{sys.executable}" "$@" ;;
esac
"""


class Project:
    """A copy of what set-up needs, in a folder of its own, with fake tools before the real ones."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.tools = folder / "tools"
        self.calls_file = folder / "calls"
        self.tools.mkdir()
        (self.root / "workflow/scripts").mkdir(parents=True)
        shutil.copy(ROOT / "workflow/scripts/setup.sh", self.root / "workflow/scripts")
        (self.root / "requirements.lock").write_text(SMALL_LOCK)
        (self.root / "pyproject.toml").write_text("[project]\n")
        for name in ("python3", "python3.11", "python3.12", "python3.13"):
            self.tool(name, FAKE_PYTHON)
        self.disk(free_gb=100)
        self.environment = {
            "PATH": f"{self.tools}:{os.environ['PATH']}",
            "HOME": str(folder),
            "LC_ALL": "C",
            "FAKE_CALLS": str(self.calls_file),
        }

    def tool(self, name: str, text: str) -> None:
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def disk(self, free_gb: int) -> None:
        blocks = free_gb * 1024**2
        self.tool("df", f"#!/bin/sh\necho Head\necho /dev/disk 9 9 {blocks} 9% /\n")

    def start(self, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["sh", str(self.root / "workflow/scripts/setup.sh")],
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(**environment)
        output, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    def calls(self) -> list[str]:
        """Return what the fake Python was asked to do since the last call of this method."""
        if not self.calls_file.exists():
            return []
        calls = self.calls_file.read_text().splitlines()
        self.calls_file.unlink()
        return calls

    @property
    def ready(self) -> bool:
        return (self.root / ".venv/.ready").exists()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def names_of(calls: list[str]) -> list[str]:
    """Shorten recorded calls to the word that tells them apart, in the order they came."""
    return [re.findall("venv|backend|requirements|editable", call)[-1] for call in calls]


WHOLE = ["venv", "backend", "requirements", "editable"]


def test_lock_holds_only_hashed_pins() -> None:
    assert lock.read_pins(LOCK)
    assert "://" not in LOCK
    assert set(re.findall(r"--[a-z-]+", LOCK)) == {"--hash"}


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://packages.example/simple",
        "--find-links wheels",
        "torch @ file:///wheels/torch.whl \\",
        "torch==2.15.0+cpu \\",
        "torch>=2 \\",
        "torch==2.15.0",
        "torch==2.15.0 \\",
        "# from an index",
    ],
)
def test_lock_with_anything_else_is_refused(line: str) -> None:
    for text in (f"{line}\n{SMALL_LOCK}", f"{SMALL_LOCK}{line}\n"):
        with pytest.raises(ValueError, match="the lock"):
            lock.read_pins(text)


def test_environment_and_lock_are_in_step() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, packages = environment["dependencies"]
    assert environment["name"] == "attrreg"
    assert environment["channels"] == ["conda-forge"]
    assert re.fullmatch(r"python=\d+\.\d+\.\d+", python)
    assert python.removeprefix("python=") in SpecifierSet(PROJECT["requires-python"])
    assert pip == "pip"
    assert packages == {"pip": lock.read_pins(LOCK)}
    assert lock.environment(lock.read_pins(LOCK)) == (ROOT / "environment.yml").read_text()


def test_declared_dependencies_are_locked() -> None:
    locked: dict[str, set[str]] = {}
    for pin in map(Requirement, lock.read_pins(LOCK)):
        (specifier,) = pin.specifier
        locked.setdefault(canonicalize_name(pin.name), set()).add(specifier.version)
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    extras = [entry for group in PROJECT["optional-dependencies"].values() for entry in group]
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras, *build]):
        versions = locked.get(canonicalize_name(requirement.name), set())
        assert versions, f"{requirement} is not in requirements.lock: run `make lock`"
        for version in versions:
            assert requirement.specifier.contains(version, prereleases=True), str(requirement)


def test_setup_builds_once(project: Project) -> None:
    first = project.run()
    assert (first.returncode, first.stderr) == (0, "")
    assert project.ready
    assert names_of(project.calls()) == WHOLE
    assert not (project.root / ".venv/tmp").exists()

    second = project.run()
    assert (second.returncode, second.stdout, second.stderr) == (0, "", "")
    assert project.calls() == []


def test_everything_but_the_project_needs_hashes(project: Project) -> None:
    project.run()
    _, *downloads, package = project.calls()
    assert all("--require-hashes" in download for download in downloads)
    assert "--no-deps" in package
    assert "--no-index" in package


def test_locked_build_backend_comes_first(project: Project) -> None:
    project.run(
        FAKE_PIP=f'case "$*" in *backend*) cat .venv/tmp/backend.lock >{project.root}/seen;; esac'
    )
    assert (project.root / "seen").read_text() == f"setuptools==80.0 \\\n{HASHES}"


def test_changed_lock_builds_anew(project: Project) -> None:
    project.run()
    project.calls()
    (project.root / "requirements.lock").write_text(SMALL_LOCK.replace("2.0", "2.1"))
    assert project.run().returncode == 0
    assert names_of(project.calls()) == WHOLE


def test_changed_project_file_installs_the_package_only(project: Project) -> None:
    project.run()
    project.calls()
    (project.root / "pyproject.toml").write_text("[project]\nname = 'attrreg'\n")
    assert project.run().returncode == 0
    assert names_of(project.calls()) == ["editable"]
    assert project.run().stdout == ""


def test_moved_folder_builds_anew(project: Project) -> None:
    project.run()
    project.calls()
    project.root = project.root.rename(project.root.with_name("elsewhere"))
    assert project.run().returncode == 0
    assert names_of(project.calls()) == WHOLE


@pytest.mark.parametrize("step", ["-m venv", "backend.lock", "-r requirements.lock", "--editable"])
def test_killed_setup_is_done_again(project: Project, step: str) -> None:
    kill = f'case "$*" in *"{step}"*) kill -9 "$PPID"; exit 1;; esac'
    assert project.run(FAKE_PIP=kill, FAKE_VENV=kill).returncode == -signal.SIGKILL
    assert not project.ready
    project.calls()
    assert project.run().returncode == 0
    assert project.ready
    assert names_of(project.calls()) == WHOLE


def test_stopped_setup_stops_pip_and_is_done_again(project: Project) -> None:
    process = project.start(FAKE_PIP="exec sleep 30")
    while not project.calls_file.exists() or "pip" not in project.calls_file.read_text():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "setup: interrupted: run make again to start over\n"
    assert not project.ready
    assert project.run().returncode == 0


def test_two_setups_at_once_build_once(project: Project) -> None:
    processes = [project.start(FAKE_PIP="sleep 0.5") for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert names_of(project.calls()) == WHOLE
    assert sum("waiting for another set-up" in output for output, _ in outputs) == 1


def assert_one_sentence(
    project: Project, result: subprocess.CompletedProcess[str], *words: str
) -> None:
    assert result.returncode == 1
    assert result.stderr.startswith("setup: ")
    assert len(result.stderr.splitlines()) == 1, result.stderr
    for word in words:
        assert word in result.stderr
    assert not project.ready


def test_oldest_allowed_python_is_that_of_the_project(project: Project) -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    major, minor = map(int, oldest.split("."))
    refused = project.run(FAKE_VERSION=f"{major}.{minor - 1}.9")
    assert_one_sentence(project, refused, f"found Python {major}.{minor - 1}.9", f"Python {oldest}")
    assert project.calls() == []
    assert project.run(FAKE_VERSION=f"{major}.{minor}.0").returncode == 0


def test_named_python_is_the_one_that_is_used(project: Project) -> None:
    project.tool("old", FAKE_PYTHON.replace("$FAKE_VERSION", "2.7.18"))
    refused = project.run(PYTHON=str(project.tools / "old"))
    assert_one_sentence(project, refused, "Python 2.7.18", "tools/old", "3.11")
    missing = project.run(PYTHON="/nowhere/python")
    assert_one_sentence(project, missing, "/nowhere/python", "3.11")


def test_unusable_pythons_are_passed_over(project: Project) -> None:
    project.tool("python3.13", "#!/bin/sh\necho 'command not found' >&2\nexit 127\n")
    project.tool("python3.12", FAKE_PYTHON.replace("$FAKE_BARE", "bare"))
    result = project.run()
    assert result.returncode == 0
    assert "(python3.11)" in result.stdout


@pytest.mark.parametrize(
    "environment",
    [
        {"FAKE_BARE": "yes"},
        {
            "FAKE_VENV": "echo 'The virtual environment was not created successfully because "
            "ensurepip is not available.'; exit 1"
        },
        {"FAKE_VENV": "echo \"/usr/bin/python3: No module named 'venv'\"; exit 1"},
    ],
)
def test_missing_venv(project: Project, environment: dict[str, str]) -> None:
    assert_one_sentence(project, project.run(**environment), "python3-venv", "sudo apt install")


def test_too_little_space_before_anything_is_downloaded(project: Project) -> None:
    project.disk(free_gb=3)
    assert_one_sentence(project, project.run(), "3.0 GB free", "GB are needed")
    assert project.calls() == []


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (
            "ERROR: Could not install packages: [Errno 28] No space left on device",
            ["is full", "GB are needed", "free some space"],
        ),
        (
            "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by "
            "NewConnectionError: Failed to establish a new connection: [Errno -2] Name or service "
            "not known: /simple/numpy/\n"
            "ERROR: No matching distribution found for numpy==2.0",
            ["cannot be reached", "network", "setup.log"],
        ),
        (
            "pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool: Read timed out.",
            ["cannot be reached", "network"],
        ),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. (…)\n"
            "    numpy==2.0 from https://packages.example/numpy.whl (from -r requirements.lock):\n"
            "        Expected sha256 00\n             Got        11",
            ["numpy==2.0", "sha256", "requirements.lock"],
        ),
        (
            "ERROR: Could not find a version that satisfies the requirement torch==2.15.0 "
            "(from versions: 2.0, 2.1)\nERROR: No matching distribution found for torch==2.15.0",
            ["torch==2.15.0", "PYTHON="],
        ),
    ],
)
def test_failing_pip(project: Project, output: str, words: list[str]) -> None:
    (project.root / "output").write_text(output + "\n")
    assert_one_sentence(project, project.run(FAKE_PIP="cat output; exit 1"), *words)


def test_unknown_failure_shows_the_log(project: Project) -> None:
    result = project.run(FAKE_PIP="seq 100; echo 'error: command gcc failed'; exit 1")
    sentence, *tail = result.stderr.splitlines()
    assert result.returncode == 1
    assert str(project.root / ".venv/setup.log") in sentence
    assert tail[-1] == "error: command gcc failed"
    assert len(tail) < 20
    assert not project.ready


def test_unreachable_index_with_the_real_pip(project: Project) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        result = project.run(
            PYTHON=sys.executable,
            PIP_CONFIG_FILE=os.devnull,
            PIP_RETRIES="0",
            PIP_INDEX_URL=f"http://127.0.0.1:{closed.getsockname()[1]}/simple",
        )
    assert_one_sentence(project, result, "cannot be reached")


def test_every_listed_target_exists() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    targets = re.findall(r"^  make (\S+)", listed.stdout, flags=re.MULTILINE)
    assert {"demo", "test", "setup", "lock", "run", "resume", "lint"} <= set(targets)
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, check=True)


def test_continuous_integration_calls_make_test(tmp_path: Path) -> None:
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\necho "$PWD" "$@"\n')
    make.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    called = subprocess.run(
        [ROOT / ".ci/run"],
        cwd=tmp_path,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert called.stdout == f"{ROOT} test\n"
