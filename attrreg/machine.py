"""What a process says to the machine that it computes on."""

import ctypes
import os
import platform
import resource
from pathlib import Path
from typing import Literal

import torch

__all__ = [
    "Precision",
    "choose_device",
    "choose_precision",
    "free_memory",
    "peak_memory",
    "reset_peak_memory",
    "use_deterministic",
    "use_threads",
]

Precision = Literal["float32", "tf32", "bfloat16"]

OWN_MEMORY = Path("/proc/self/clear_refs")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # mallopt(3)


def choose_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` takes the GPU where there is one.

    Raises
    ------
    RuntimeError
        A GPU is asked for and none can be used.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RuntimeError("execution.device is 'cuda' but torch finds no GPU: use 'auto' or 'cpu'")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def choose_precision(name: str, device: torch.device) -> Precision:
    """Return a precision by name; ``auto`` is mixed where a GPU has bfloat16, float32 elsewhere."""
    mixed = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    chosen: dict[str, Precision] = {
        "auto": "bfloat16" if mixed else "float32",
        "float32": "float32",
        "tf32": "tf32",
        "bfloat16": "bfloat16",
    }
    return chosen[name]


def free_memory(device: torch.device) -> int:
    """Return how many bytes a device has left."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def reset_peak_memory(device: torch.device) -> None:
    """Begin to watch how much memory is in use.

    A process gives back what it has kept of freed memory; what cannot be done outside of Linux and
    glibc is left.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    if OWN_MEMORY.exists():
        OWN_MEMORY.write_text("5")  # proc(5): the high-water mark begins anew


def peak_memory(device: torch.device) -> float:
    """Return the most memory in use since then, in MiB: of the GPU, or of this process.

    Where a process cannot reset its mark, it is that since its start.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if OWN_MEMORY.exists():
        lines = OWN_MEMORY.with_name("status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def use_deterministic(deterministic: bool, precision: Precision) -> None:
    """Let a GPU give the same bits for the same work, or be as fast as it can.

    On a CPU results are the same bits in any case, for the same number of threads.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if deterministic != torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(deterministic)  # imports torch's compiler: a second
    torch.backends.cudnn.benchmark = not deterministic
    rounds = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = rounds
    torch.backends.cudnn.allow_tf32 = rounds


def use_threads(threads: int) -> None:
    """Let this process compute with that many threads, and keep the memory that it frees."""
    torch.set_num_threads(threads)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let this process keep what it frees, so that the next step need not ask for it again.

    By default glibc gives large blocks back to the system, which hands them out again page by page,
    each filled with zeros. On a CPU that is about a seventh of the time of some relevance maps
    (``benchmarks/README.md``). Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] == "glibc":
        c = ctypes.CDLL(None)
        c.mallopt(M_TRIM_THRESHOLD, -1)
        c.mallopt(M_MMAP_MAX, 0)
