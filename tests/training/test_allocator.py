import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from fer_lightning.training.allocator import keep_freed_memory

def faults(times=5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        b"x" * (16 << 20), b"y" * (40 << 10)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / times

first = faults()
keep_freed_memory()
faults(1)
print(first, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc returns memory to the system")
def test_freed_memory_causes_no_page_faults_when_reused() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert after < 100 < 1000 < before
