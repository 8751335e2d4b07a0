"""Write requirements.lock and environment.yml from the dependencies in pyproject.toml.

`make lock` keeps the pins that still fit; `make lock UPGRADE=1` takes the newest versions. The lock
holds every transitive version for every platform and Python ≥ 3.11, each with the hashes of its
files, and says nothing about where the files come from.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OLDEST_PYTHON = "3.11"
CONDA_PYTHON = "3.11.14"

ENTRY = re.compile(r"(?P<pin>[A-Za-z0-9._-]+==[A-Za-z0-9.!]+)(?: ; (?P<marker>[^\\]+?))? \\")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")

ENVIRONMENT_HEAD = f"""\
# Written by `make lock` from requirements.lock: change pyproject.toml, then run it again.
# conda env create -f environment.yml && conda activate attrreg && \
pip install --no-deps --no-build-isolation -e .
name: attrreg
channels:
  - conda-forge
dependencies:
  - python={CONDA_PYTHON}
  - pip
  - pip:
"""


def read_pins(lock: str) -> list[str]:
    """Return the pins of a lock, refusing a lock that holds anything else.

    Parameters
    ----------
    lock : str
        Text of a hashed requirements file.

    Returns
    -------
    list of str
        One `name==version` or `name==version ; marker` per entry, in the order of the file.

    Raises
    ------
    ValueError
        If a line is neither a pin of a public version nor its hash (an address, an index option,
        a local version such as `2.0+cpu`, an unpinned name), or if an entry has no hash.
    """
    pins: list[str] = []
    hashed = True
    for number, line in enumerate(lock.splitlines(), start=1):
        if HASH.fullmatch(line) and pins:
            hashed = True
        elif (entry := ENTRY.fullmatch(line)) and hashed:
            marker = entry["marker"]
            pins.append(f"{entry['pin']} ; {marker}" if marker else entry["pin"])
            hashed = False
        else:
            raise ValueError(
                f"line {number} of the lock is {line!r}, allowed are 'name==version ; marker \\' "
                "and its sha256 hashes: look for extra indexes, find-links or sources in the "
                "configuration of uv (uv.toml, UV_* variables) and in pyproject.toml"
            )
    if not pins or not hashed:
        raise ValueError("the lock is empty or its last entry has no hash: run `make lock` again")
    return pins


def environment(pins: list[str]) -> str:
    """Return the text of environment.yml: one Python, and the lock's pins inline.

    The pins stand inline because Snakemake copies the file to another folder, where a reference to
    requirements.lock would lead nowhere.
    """
    return ENVIRONMENT_HEAD + "".join(f'      - "{pin}"\n' for pin in pins)


def compile_lock(folder: Path, upgrade: bool) -> str:
    """Resolve pyproject.toml with uv, in a scratch folder, and return the text of the new lock.

    Raises
    ------
    subprocess.CalledProcessError
        If uv finds no solution or cannot reach the package index; uv has then said why.
    """
    output = folder / "requirements.lock"
    if (ROOT / output.name).exists():
        shutil.copyfile(ROOT / output.name, output)
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml"),
        *("--extra", "develop", "--universal", "--python-version", OLDEST_PYTHON),
        *("--generate-hashes", "--no-header", "--no-annotate", "--quiet"),
        *("--no-emit-index-url", "--no-emit-find-links", "--no-emit-build-options"),
        *("--no-emit-index-annotation", "--output-file", str(output)),
        *(["--upgrade"] if upgrade else []),
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    return output.read_text(encoding="utf-8")


def replace(path: Path, text: str, folder: Path) -> None:
    """Put a text in place of a file at once, so that nobody ever reads half of it."""
    scratch = folder / f"new-{path.name}"
    scratch.write_text(text, encoding="utf-8")
    scratch.chmod(0o644)
    os.replace(scratch, path)


def main() -> int:
    """Write both files; return 1 after one sentence on standard error if that is not possible."""
    parser = argparse.ArgumentParser(description="Write requirements.lock and environment.yml.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT, prefix=".lock-") as name:
        folder = Path(name)
        try:
            lock = compile_lock(folder, arguments.upgrade)
            pins = read_pins(lock)
        except subprocess.CalledProcessError as error:
            print(
                f"lock: uv ended with status {error.returncode} (its message is above); "
                "requirements.lock and environment.yml are as they were",
                file=sys.stderr,
            )
            return 1
        except ValueError as error:
            print(f"lock: {error}; requirements.lock is as it was", file=sys.stderr)
            return 1
        replace(ROOT / "environment.yml", environment(pins), folder)
        replace(ROOT / "requirements.lock", lock, folder)
    print(f"lock: {len(pins)} pins in requirements.lock and environment.yml")
    return 0


if __name__ == "__main__":
    sys.exit(main())
