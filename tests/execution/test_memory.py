"""A worker's memory is used again instead of being asked of the system anew."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from metasearch.execution.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(1 << 23).add_(1)  # 32 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = sum(faults() for _ in range(8))
assert keep_freed_memory()
for _ in range(8):  # small things may settle in a freed block, so that the next large one needs another
    faults()
print(before, sum(faults() for _ in range(8)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_the_same_tensor_again_faults_no_pages():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 8 * 16  # fresh pages each time (8192 of 4 KiB, or 16 of 2 MiB)
    assert after < before / 4
