"""Hosts of which one compiles longer than XLA waits for it in a collective."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest

SCRIPT = """
    import sys, time
    import jax
    import numpy as np
    from agentrl.parallel import processes

    jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, everywhere = (
        jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axis))
        for axis in ("data", None)
    )

    def total(x):
        if jax.process_index() == 1:
            time.sleep(35)  # while it is traced
        return x.sum(keepdims=True)

    add = processes.compile_together(jax.jit(total, out_shardings=everywhere))
    given = jax.make_array_from_callback((4,), rows, lambda i: np.arange(4.0)[i])
    for _ in range(2):
        print(float(add(given)[0]), flush=True)
"""


@pytest.mark.slow
def test_a_host_that_compiles_for_long_is_waited_for():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        coordinator = f"localhost:{listener.getsockname()[1]}"
    variables = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    hosts = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SCRIPT), coordinator, str(host)],
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            text=True,
        )
        for host in range(2)
    ]
    for host in hosts:
        printed, _ = host.communicate(timeout=200)
        assert host.returncode == 0
        assert printed.split()[-2:] == ["6.0", "6.0"]
