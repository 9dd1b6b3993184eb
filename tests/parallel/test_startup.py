import os
import subprocess
import sys

import jax
import pytest

from agentrl import config
from agentrl.parallel import startup

COUNT = """
import os
import jax
from agentrl import config
from agentrl.parallel import startup
startup.prepare_cpu(config.MeshConfig(cpu_devices=3))
print(jax.device_count())
print(os.environ["XLA_FLAGS"])
"""


def test_a_cpu_is_split_into_devices_with_a_longer_timeout():
    own = "--xla_cpu_collective_call_terminate_timeout_seconds=60"
    done = subprocess.run(
        [sys.executable, "-c", COUNT],
        env=os.environ | {"XLA_FLAGS": own},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    count, ours, last = done.stdout.split()
    assert count == "3"
    assert ours != own == last  # of two, XLA takes the last


def test_devices_that_are_counted_stay():
    before = jax.device_count()
    startup.prepare_cpu(config.MeshConfig(cpu_devices=before + 1))
    assert jax.device_count() == before


def test_hosts_that_do_not_come_are_told_in_one_line():
    join = "from agentrl.parallel import startup\nstartup.join('127.0.0.1:9', 3, 1, host_timeout_s=0.2)"  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-c", join], stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 69
    last = done.stderr.splitlines()[-1]
    assert last.startswith("launch.train: not all hosts have joined within 0 s")
    assert "host 1 of 3, the coordinator is 127.0.0.1:9" in last


FREE_AND_TAKE = """
import resource
import numpy as np
from agentrl.parallel import startup
startup.keep_freed_memory()
for _ in range(11):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24).sum()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
@pytest.mark.parametrize("own", [{}, {"MALLOC_TOP_PAD_": "0"}])
def test_freed_memory_is_kept_unless_the_environment_decides(own):
    """A block of 128 MiB is taken eleven times; the last time without page faults."""
    set_here = [n for n in os.environ if n.startswith(("MALLOC_", "GLIBC_TUNABLES"))]
    env = {name: v for name, v in os.environ.items() if name not in set_here} | own
    done = subprocess.run(
        [sys.executable, "-c", FREE_AND_TAKE],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    faults, whole = int(done.stdout), 2**27 // os.sysconf("SC_PAGE_SIZE")
    assert faults > whole / 600 if own else faults < whole / 1000
