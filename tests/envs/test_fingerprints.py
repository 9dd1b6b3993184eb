"""No test task is a training task under another id; which ids were exchanged for it.

The whole panels of all environments are compared by `test_conformance.py`, in the slow
tier.
"""

import pytest

from agentrl.envs import base, checks, registry
from agentrl.envs.babyai import world

NAMES = ("textcraft", "babyai", "alfworld", "searchqa", "webshop", "sokoban")


@pytest.mark.parametrize("name", NAMES)
def test_a_fingerprint_does_not_depend_on_the_profile(name):
    spec = registry.get_spec(name)
    assert spec.fingerprint is not None
    for item_id in spec.panel("test", base.EnvConfig()).item_ids[:5]:
        found = {spec.fingerprint(item_id, base.EnvConfig(p)) for p in base.PROFILES}
        assert len(found) == 1 and len(found.pop()) == 16


def test_no_test_asks_for_what_a_training_task_asks_for_in_the_same_room():
    checks.compare_splits("alfworld", base.EnvConfig())


def test_no_test_world_is_a_training_world():
    checks.compare_splits("babyai", base.EnvConfig())
    pairs = [("babyai_43", "babyai_1323"), ("babyai_1683", "babyai_1083")]
    for once_for_the_test, of_the_training in pairs:
        fingerprints = {
            world.fingerprint(i, base.EnvConfig())
            for i in (once_for_the_test, of_the_training)
        }
        assert len(fingerprints) == 1


def test_only_two_test_tasks_were_exchanged():
    """Training and the other 88 test tasks are those of version 1."""
    spec = registry.get_spec("babyai")
    train, test = (spec.panel(s, base.EnvConfig()) for s in ("train", "test"))
    assert (train.version, train.digest) == ("babyai-1", "3f0f97ac486c")
    assert (test.version, test.digest) == ("babyai-2", "9e03975be3c8")
    first = {"babyai_43", "babyai_1683"} | set(test.item_ids)
    first -= {"babyai_2003", "babyai_2043"}
    ids = tuple(sorted(first, key=lambda i: base.parse_item_id("babyai", i)))
    former = base.TaskPanel("babyai", "test", "babyai-1", ids)
    assert (len(ids), former.digest) == (90, "310dd482406a")
