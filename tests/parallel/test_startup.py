import os
import subprocess
import sys

import jax

from agentrl import config
from agentrl.parallel import startup

COUNT = """
import os
import jax
from agentrl import config
from agentrl.parallel import startup
startup.split_cpu(config.MeshConfig(cpu_devices=3))
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
    startup.split_cpu(config.MeshConfig(cpu_devices=before + 1))
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
