from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

FAULTS = """
import os, resource, torch
from gzsurvey.training.allocator import freed_memory_kept

def faults():
    "Page faults of a block of 64 MiB: the fewest of some, as glibc may need two places in turn for aligned blocks."
    counts = []
    for _ in range(6):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(1 << 24)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(counts)

def resident_mib():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20
"""


def run(code: str) -> list[int]:
    """Run in a process of its own, whose allocator nothing has touched yet."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [own.get("PYTHONPATH")])])
    command = [sys.executable, "-c", FAULTS + code]
    done = subprocess.run(command, env=own | {"PYTHONPATH": path}, capture_output=True, text=True, check=True)
    return [int(word) for word in done.stdout.split()]


@pytest.mark.slow
def test_a_large_block_costs_its_page_faults_once_unless_the_user_decides() -> None:
    code = """
print(faults())
with freed_memory_kept(torch.device("cuda")):
    print(faults())
for name, value in (("MALLOC_TOP_PAD_", "4096"), ("GLIBC_TUNABLES", "glibc.malloc.top_pad=4096")):
    os.environ[name] = value
    with freed_memory_kept(torch.device("cpu")):
        print(faults())
    del os.environ[name]
with freed_memory_kept(torch.device("cpu")):
    print(faults(), resident_mib())
print(resident_mib())
"""
    before, *left_alone, within, held, left = run(code)
    assert len(left_alone) == 3
    assert all(within * 10 < count for count in (before, *left_alone))
    assert held - left > 60


@pytest.mark.long
def test_a_training_on_a_cpu_keeps_its_memory(store_path: Path, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from gzsurvey.recipes.training import PretrainRecipe
from gzsurvey.training import job, pretrain

seen, descend = [], job.descend
def counted(*arguments):
    seen.append(faults())
    return descend(*arguments)
job.descend = counted

recipe = PretrainRecipe.model_validate({{"encoder": {{"name": "test_resnet"}}, "batch_size": 16, "steps": 2}})
print(faults())
pretrain(recipe, Path({str(store_path)!r}), Path({str(tmp_path / "out")!r}), "cpu")
print(max(seen))
"""
    before, within = run(code)
    assert within * 10 < before
