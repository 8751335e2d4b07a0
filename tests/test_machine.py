"""What a process knows of its machine."""

import os
import platform
from pathlib import Path

import pytest
import torch

from attrreg.machine import free_memory, peak_memory, reset_peak_memory, use_threads

CPU = torch.device("cpu")
MIB = 2**20


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux resets a high-water mark")
def test_a_run_does_not_inherit_the_memory_of_the_one_before():
    use_threads(1)
    reset_peak_memory(CPU)
    before = peak_memory(CPU)
    large = torch.ones(400 * MIB // 4)
    del large
    assert peak_memory(CPU) > before + 300
    reset_peak_memory(CPU)
    assert peak_memory(CPU) < before + 300
    large = torch.ones(400 * MIB // 4)
    assert peak_memory(CPU) > before + 300
    del large


def test_memory_is_left():
    assert 2**24 < free_memory(CPU) < 2**50


def resident():
    """Return how much memory the process holds now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep it")
def test_freed_memory_stays_with_the_process():
    use_threads(1)
    assert torch.get_num_threads() == 1
    reset_peak_memory(CPU)
    before = resident()
    large = torch.ones(200 * MIB // 4)
    del large
    assert resident() > before + 150
    reset_peak_memory(CPU)
    assert resident() < before + 50
