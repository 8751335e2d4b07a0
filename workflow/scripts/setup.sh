#!/bin/sh
# Build .venv, the environment of this project, from requirements.lock; a ready one is left alone.
#
#     [PYTHON=/path/to/python] sh workflow/scripts/setup.sh
#
# .venv/.ready is written last. It names the lock, the Python, the folder and the pyproject.toml that
# .venv was built for. Without it, or with another lock, Python or folder, .venv is built anew; with
# another pyproject.toml only the package itself is installed again. What pip says goes to
# .venv/setup.log. Ends with status 1 and one sentence if the environment cannot be built.

set -eu
CDPATH='' cd -P -- "$(dirname -- "$0")/../.."

venv=.venv
stamp=$venv/.ready
log=$venv/setup.log
# Measured on Linux: .venv with CUDA's libraries, the wheels while pip unpacks them, pip's cache.
case $(uname -s) in
    Linux) needed_gb=12 ;;
    *) needed_gb=4 ;;
esac
job=
started=$(date +%s)
if [ -t 1 ]; then
    interval=1 before=$(printf '\r\033[K') after=
else
    interval=15 before='' after='
'
fi

say() { printf 'setup: %s\n' "$*"; }

fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

elapsed() {
    seconds=$(($(date +%s) - started))
    printf '%d:%02d' $((seconds / 60)) $((seconds % 60))
}

version_of() {
    "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null
}

# Line 1: what .venv as a whole depends on; line 2: what the installed package depends on.
describe() {
    "$venv/bin/python" -I -S -c '
import hashlib, os, sys
def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()
version = "%d.%d.%d" % sys.version_info[:3]
print("lock", digest("requirements.lock"), "python", version, "folder", ascii(os.getcwd()))
print("project", digest("pyproject.toml"))
'
}

# 0: .venv is ready; 1: the package must be installed again; 2: .venv must be built.
state() {
    { [ -f "$stamp" ] && described=$(describe 2>/dev/null); } || return 2
    if [ -n "${PYTHON:-}" ] && [ "$(version_of "$PYTHON")" != "$(version_of "$venv/bin/python")" ]; then
        return 2
    fi
    [ "$described" = "$(cat "$stamp")" ] && return 0
    [ "$(printf '%s\n' "$described" | head -n 1)" = "$(head -n 1 "$stamp")" ] && return 1
    return 2
}

# Set `python` and `version` to the first Python that is new enough and can make environments.
choose_python() {
    too_old=
    bare=
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3.13 python3.12 python3.11 python3
    fi
    for python in "$@"; do
        version=$(version_of "$python") || continue
        minor=${version#*.}
        if [ "${version%%.*}" -ne 3 ] || [ "${minor%%.*}" -lt 11 ]; then
            too_old="Python $version ($python)"
        elif "$python" -c 'import ensurepip, venv' 2>/dev/null; then
            return
        else
            bare=${bare:-"Python $version ($python)"}
        fi
    done
    if [ -n "$bare" ]; then
        fail_without_venv "$bare"
    elif [ -n "$too_old" ]; then
        fail "found $too_old, but Python 3.11 or newer is needed: install one, or name one with 'make PYTHON=/path/to/python3.11'"
    fi
    fail "found no Python (tried: $*), but Python 3.11 or newer is needed: install one, or name one with 'make PYTHON=/path/to/python3.11'"
}

fail_without_venv() {
    fail "$1 cannot make virtual environments, because its modules venv and ensurepip are not both there: install them (on Debian and Ubuntu: sudo apt install python3-venv), then run make again"
}

# $1: how little space there is.
fail_without_space() {
    fail "the disk of $PWD/$venv $1, but about $needed_gb GB are needed: free some space, or make $venv a link to a folder on a larger disk, then run make again"
}

fail_without_index() {
    fail "the package index cannot be reached, but the packages of requirements.lock must be downloaded from it: check the network, the proxy and pip's configuration, then run make again (see $log)"
}

free_gb() { df -Pk "$venv" | LC_ALL=C awk 'NR == 2 { printf "%.1f", $4 / 1048576 }'; }

# Say why the last command failed, as far as its log tells.
explain() {
    if grep -q 'DO NOT MATCH THE HASHES' "$log"; then
        package=$(sed -n '/DO NOT MATCH/,/Expected/s/^ *\([^ ]*\) .*from .*/\1/p' "$log" | head -n 1)
        fail "the downloaded file of ${package:-a package} does not match its sha256 in requirements.lock, so it is incomplete or was changed: run make again, and do not trust that package index if this happens twice (see $log)"
    elif grep -qE 'No space left on device|Disk quota exceeded' "$log"; then
        fail_without_space "is full or its quota is used up ($(free_gb) GB free)"
    elif grep -qE 'ensurepip is not available|No module named .?(venv|ensurepip)' "$log"; then
        fail_without_venv "Python $version ($python)"
    elif grep -qE "connection broken|Max retries exceeded|[Tt]imed out|Connection (refused|reset)|ProxyError|CERTIFICATE_VERIFY_FAILED|Name or service not known|name resolution|IncompleteRead" "$log"; then
        fail_without_index
    elif grep -q 'from versions: none' "$log" && ! grep -qE 'Downloading|Using cached' "$log"; then
        fail_without_index
    elif grep -q 'No matching distribution found' "$log"; then
        package=$(sed -n 's/.*No matching distribution found for \([^ ]*\).*/\1/p' "$log" | head -n 1)
        fail "the package index offers no file of ${package:-a package} for Python $version on $(uname -sm): try another Python with 'make PYTHON=/path/to/python3.11', another package index or another machine (see $log)"
    fi
    fail "$1 failed for a reason that is not known here: read $PWD/$log, whose last lines are
$(tail -n 15 "$log")"
}

# The last thing that the log tells, in a few words.
latest() {
    tail -n 20 "$log" | grep -v WARNING | tail -n 1 |
        sed 's/ (from .*//; s/^ *//; s/^Installing collected.*/Unpacking/' | cut -c 1-50 |
        sed 's/.*/ (&)/'
}

# Run a command with its output in the log; $1 says what it does. Meanwhile tell that it goes on,
# on a terminal by one line that changes every second, elsewhere by a line every 15 seconds.
run_logged() {
    doing=$1
    shift
    "$@" >>"$log" 2>&1 &
    job=$!
    told=$(date +%s)
    while kill -0 "$job" 2>/dev/null; do
        sleep 0.1 2>/dev/null || sleep 1
        silent=$(($(date +%s) - told))
        if [ "$silent" -ge "$interval" ]; then
            told=$((told + silent))
            printf '%ssetup: %s %s%s%s' "$before" "$(elapsed)" "$doing" "$(latest)" "$after"
        fi
    done
    failed=0
    wait "$job" 2>/dev/null || failed=1
    job=
    printf '%s' "$before"
    if [ "$failed" -ne 0 ]; then explain "$doing"; fi
}

interrupt() {
    set +e
    if [ -n "$job" ]; then kill "$job" 2>/dev/null && wait "$job" 2>/dev/null; fi
    printf '%ssetup: interrupted: run make again to start over\n' "$before" >&2
    exit 130
}

# -I and PIP_USER=0 keep the user's PYTHONPATH and own packages out; proxies, certificates and pip's
# configuration stay in force: what comes from elsewhere has to match the hashes all the same.
# PIP_USE_PEP517 makes every version of pip build sources alike.
# Runs as a background job, and `exec` makes pip that very process, so that it can be stopped.
pip_install() {
    export PIP_USER=0 PIP_USE_PEP517=1
    exec "$venv/bin/python" -I -m pip install --disable-pip-version-check --no-input \
        --progress-bar off --no-build-isolation "$@"
}

build_environment() {
    if [ -d "$venv/bin" ]; then say "clearing $venv, which is unfinished or out of date"; fi
    find "$venv/" -mindepth 1 -maxdepth 1 ! -name .setup.lock -exec rm -rf {} +
    if [ "$(free_gb | cut -d . -f 1)" -lt "$needed_gb" ]; then
        fail_without_space "has $(free_gb) GB free"
    fi
    say "building $venv with Python $version ($python): $(grep -c '^[a-z0-9]' requirements.lock) pinned packages, a few minutes, up to $needed_gb GB of disk meanwhile"
    run_logged "making a virtual environment" "$python" -I -m venv "$venv"
    # A temporary folder on the same disk: /tmp is often too small for these wheels.
    TMPDIR=$PWD/$venv/tmp
    export TMPDIR
    mkdir "$TMPDIR"
    # The build backend first: the packages that come as sources are built with the locked one.
    sed -n '/^setuptools==/,/[^\\]$/p' requirements.lock >"$TMPDIR/backend.lock"
    run_logged "installing packages" pip_install --require-hashes -r "$TMPDIR/backend.lock"
    run_logged "installing packages" pip_install --require-hashes -r requirements.lock
}

main() {
    situation=0
    state || situation=$?
    if [ "$situation" -eq 0 ]; then return; fi
    for file in requirements.lock pyproject.toml; do
        [ -f "$file" ] || fail "$PWD/$file is missing: get it back with 'git checkout $file'"
    done

    choose_python
    mkdir -p "$venv" || fail "cannot make the folder $PWD/$venv: make $PWD writable"
    # The lock belongs to the open file, so that it ends with this shell and its children.
    exec 9>"$venv/.setup.lock"
    "$python" -I -c '
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("setup: waiting for another set-up of this folder", flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
' 2>/dev/null || fail "cannot lock $PWD/$venv/.setup.lock: put the project on a file system with file locks"

    situation=0
    state || situation=$?
    if [ "$situation" -eq 0 ]; then return; fi
    trap interrupt HUP INT TERM
    rm -f "$stamp"
    if [ "$situation" -eq 2 ]; then build_environment; fi
    run_logged "installing attrreg" pip_install --no-deps --no-index --editable .
    rm -rf "$venv/tmp"
    describe >"$stamp.new"
    mv "$stamp.new" "$stamp"
    say "$venv is ready after $(elapsed) minutes"
}

main
