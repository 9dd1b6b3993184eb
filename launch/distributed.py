"""Joins the hosts of a run."""

import jax

from agentrl import errors


def join(
    coordinator: str | None = None,
    num_hosts: int | None = None,
    index: int | None = None,
) -> None:
    """Joins the other hosts of a run, if there are any.

    Args:
      coordinator: "address:port" of the first host; None asks the environment, which TPU
        pods, Slurm and Open MPI set up.
      num_hosts: hosts of the run; None takes what the environment says, one if nothing.
      index: of this host; None asks the environment.

    Raises:
      ConfigError: if there are not `num_hosts` hosts.
    """
    if num_hosts != 1 and not jax.distributed.is_initialized():
        try:
            jax.distributed.initialize(coordinator, num_hosts, index)
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
