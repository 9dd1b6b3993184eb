"""What one host tells the others before they train."""

import jax
import pytest

from agentrl import errors
from agentrl.parallel import processes


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.ConfigError("seed = -1"), "seed = -1"),
        (KeyError("step"), "KeyError: 'step'"),  # a fault of ours: nobody waits for it
    ],
)
def test_what_goes_wrong_on_one_host_is_told_to_all(monkeypatch, error, reason):
    told = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "gather", lambda items: told.extend(items) or told)
    with pytest.raises(type(error)), processes.agreed():
        raise error
    assert told == [reason]

    monkeypatch.setattr(processes, "gather", lambda items: [reason, *items])
    refused = pytest.raises(errors.ConfigError, match=f"host 0 refuses: {reason}")
    with refused, processes.agreed():
        pass
