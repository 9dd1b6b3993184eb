"""The error budget of an iteration: what counts, and what its message says."""

import dataclasses

import fake_run
import pytest

from agentrl import errors, types
from agentrl.envs import base
from agentrl.envs.faults import Fault
from agentrl.run import checks

ENDINGS = {
    Fault.RAISED: types.Ending.ENV_ERROR,
    Fault.TIMED_OUT: types.Ending.ENV_TIMEOUT,
    Fault.DIED: types.Ending.ENV_ERROR,
}


def lost(*faults):
    return [
        dataclasses.replace(
            fake_run.make_trajectory(success=False, ending=ENDINGS[fault]),
            fault=str(fault),
            error=f"error {number}",
        )
        for number, fault in enumerate(faults)
    ]


def played(count):
    return [fake_run.make_trajectory() for _ in range(count)]


def test_a_share_up_to_the_limit_passes():
    checks.check_env_error_rate([*played(9), *lost(Fault.TIMED_OUT)], 0.1)


def test_timeouts_count_as_errors_do():
    with pytest.raises(errors.EnvWorkerError, match="2 of 10 episodes were lost"):
        checks.check_env_error_rate([*played(8), *lost(*[Fault.TIMED_OUT] * 2)], 0.1)


def test_the_message_counts_kinds_and_quotes_the_first_of_each():
    broken = lost(Fault.RAISED, Fault.TIMED_OUT, Fault.TIMED_OUT, Fault.DIED)
    with pytest.raises(errors.EnvWorkerError) as caught:
        checks.check_env_error_rate(broken, 0.5)
    assert str(caught.value) == (
        "4 of 4 episodes were lost to their environments, more than "
        "max_env_error_fraction = 0.5. By kind: 2 timed out, 1 raised, 1 ended the "
        "worker process.\n"
        "The first that timed out:\nerror 1\n"
        "The first that raised:\nerror 0\n"
        "The first that ended the worker process:\nerror 3"
    )


@pytest.mark.parametrize(
    "field, value",
    [
        ("num_env_workers", 0),
        ("env_timeout_s", 0.0),
        ("env_observation_bytes", 0),
        ("env_worker_memory_mb", 0),
    ],
)
def test_limits_that_cannot_work_are_refused(field, value):
    names = fake_run.ENVIRONMENTS
    settings = dataclasses.replace(
        fake_run.make_settings(),
        environments={name: base.EnvConfig() for name in names},
        **{field: value},
    )
    with pytest.raises(
        errors.ConfigError, match=f"{field} = {value}; it must be posit"
    ):
        settings.validate(num_devices=1)
