"""Devices of a run: the hosts it joins, and what a CPU is split into."""

import os

import jax

from agentrl import config, errors

# XLA ends a process in which one device has waited 40 seconds for another: on a busy
# machine with a large model that may be nobody's fault.
_PATIENCE = "--xla_cpu_collective_call_terminate_timeout_seconds=300"

HOST_TIMEOUT_S = 120.0  # without a sign of life of another host


def split_cpu(mesh: config.MeshConfig) -> None:
    """Makes `mesh.cpu_devices` devices of a CPU; call it before JAX counts its devices.

    XLA gives most operations of a small model one core of a device. With a device for each
    core, rows are spread over them, and each decodes its own. Episodes do not depend on
    the number of devices, updates do by rounding. Elsewhere than on CPUs, and in a process
    whose devices are counted already, nothing changes.
    """
    if mesh.cpu_devices > 1:
        try:
            jax.config.update("jax_num_cpu_devices", mesh.cpu_devices)
        except RuntimeError:
            return  # the program around us has decided
        os.environ["XLA_FLAGS"] = f"{_PATIENCE} {os.environ.get('XLA_FLAGS', '')}"


def join(
    coordinator: str | None = None,
    num_hosts: int | None = None,
    index: int | None = None,
    *,
    host_timeout_s: float = HOST_TIMEOUT_S,
) -> None:
    """Joins the other hosts of a run, if there are any.

    Args:
      coordinator: "address:port" of the first host; None asks the environment, which TPU
        pods, Slurm and Open MPI set up.
      num_hosts: hosts of the run; None takes what the environment says, one if nothing.
      index: of this host; None asks the environment.
      host_timeout_s: of `watch.HostWatch`, which JAX's own watch must not forestall.

    Raises:
      ConfigError: if there are not `num_hosts` hosts.
    """
    if num_hosts != 1 and not jax.distributed.is_initialized():
        try:
            jax.distributed.initialize(
                coordinator,
                num_hosts,
                index,
                heartbeat_timeout_seconds=round(2 * host_timeout_s + 60),
            )
        except ValueError as error:
            if coordinator or num_hosts:
                raise errors.ConfigError(
                    f"cannot join coordinator {coordinator} as host {index} of "
                    f"{num_hosts}: {error}"
                ) from error
    if num_hosts and jax.process_count() != num_hosts:
        raise errors.ConfigError(
            f"{jax.process_count()} hosts are here, expected {num_hosts}."
        )
