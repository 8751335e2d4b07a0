"""What a process says to the machine that it computes on."""

import ctypes
import platform

import torch

__all__ = ["choose_device", "use_threads"]

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
