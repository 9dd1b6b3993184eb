import subprocess
import sys

import jax

from agentrl import config
from launch import distributed

COUNT = """
import jax
from agentrl import config
from launch import distributed
distributed.split_cpu(config.MeshConfig(cpu_devices=3))
print(jax.device_count())
"""


def test_a_cpu_is_split_into_devices():
    command = [sys.executable, "-c", COUNT]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.split() == ["3"]


def test_devices_that_are_counted_stay():
    before = jax.device_count()
    distributed.split_cpu(config.MeshConfig(cpu_devices=before + 1))
    assert jax.device_count() == before
