"""What every environment must keep, as one suite that all of them pass.

Each `check_*` takes the name of a registered environment and a configuration, and
raises `ConformanceError` on the first broken promise. `check_environment` runs them
all; the tests run them for every environment, profile and list policy, and a new
environment is checked before anything is trained on it:

    python -m agentrl.envs.checks NAME ...
"""

import contextlib
import dataclasses
import itertools
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence

from agentrl.envs import base, episodes, faults, hostile, parsing, registry, tasks

MAX_INSTANCE_BYTES = 1 << 20  # what one more instance may cost in a process
MAX_FINGERPRINTS = 100  # tasks of each split that the suite compares
MIN_OBSERVATIONAL = 0.8  # share of sampled tasks that the text-only oracle must solve


class ConformanceError(AssertionError):
    """An environment breaks a promise of the contract."""


def check_environment(name: str, config: base.EnvConfig) -> None:
    """Runs every check of this module.

    Raises:
      ConformanceError: on the first promise that is broken, whatever was raised for it.
    """
    for check in CHECKS:
        with _explained(f"{name}, {check.__name__}"):
            check(name, config)


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    """Makes one `ConformanceError` of whatever the code of an environment raises."""
    try:
        yield
    except (ConformanceError, base.MissingDataError):
        raise
    except (base.EnvConfigError, base.InvalidResultError) as error:
        raise ConformanceError(f"{where}: {error}") from error
    except Exception as error:  # a border: authors' mistakes can raise anything
        raise ConformanceError(f"{where}: {faults.brief(error)}") from error


# A pure function of (item id, config).


def check_purity(name: str, config: base.EnvConfig) -> None:
    """The same task and answers give the same text, from fresh and used instances."""
    used = registry.make(name, config)
    for item_id in episodes.sample_tasks(name, config):
        script = episodes.record_script(name, config, item_id)
        expected = episodes.play_script(registry.make(name, config), item_id, script)
        for again in (registry.make(name, config), used, used):
            _require_equal(
                episodes.play_script(again, item_id, script),
                expected,
                f"{name}: {item_id} differs between instances or between resets",
            )


def check_interleaving(name: str, config: base.EnvConfig) -> None:
    """Two instances played turn by turn do not touch each other."""
    first_id, second_id = episodes.sample_tasks(name, config, 2)
    first_script = episodes.record_script(name, config, first_id)
    second_script = episodes.record_script(name, config, second_id)
    alone = [
        episodes.play_script(registry.make(name, config), first_id, first_script),
        episodes.play_script(registry.make(name, config), second_id, second_script),
    ]
    pair = [registry.make(name, config), registry.make(name, config)]
    mixed: list[episodes.Transcript] = [
        [pair[0].reset(first_id)],
        [pair[1].reset(second_id)],
    ]
    for turn in range(max(map(len, alone)) - 1):
        for which, script in enumerate((first_script, second_script)):
            if turn + 1 < len(alone[which]):
                mixed[which].append(pair[which].step(script[turn]))
    _require_equal(
        mixed, alone, f"{name}: two interleaved instances influence each other"
    )


def check_processes(name: str, config: base.EnvConfig) -> None:
    """Another process with another `PYTHONHASHSEED` sees the same text."""
    here = episodes.transcript_digest(name, config)
    for seed in ("0", "4242"):
        there = _run_elsewhere("transcript_digest", name, config, hash_seed=seed)
        _require_equal(
            there,
            here,
            f"{name}: the text depends on PYTHONHASHSEED={seed} or the process",
        )


def check_config(name: str, config: base.EnvConfig) -> None:
    """The configuration survives pickling; what it cannot mean is refused."""
    copy = pickle.loads(pickle.dumps(config))
    _require_equal(copy, config, f"{name}: the configuration changes when pickled")
    (item_id,) = episodes.sample_tasks(name, config, 1)
    _require_equal(
        registry.make(name, copy).reset(item_id),
        registry.make(name, config).reset(item_id),
        f"{name}: a pickled configuration plays differently",
    )
    for field, value in (
        ("profile", "lenient"),
        ("list_actions", "sometimes"),
        ("max_turns", 0),
        ("options", {"no_such_option": 1}),
    ):
        wrong = dataclasses.replace(config, **{field: value})
        _require_raises(
            base.EnvConfigError,
            lambda wrong=wrong: registry.make(name, wrong),
            f"{name}: {field} = {value!r} is not refused",
        )


# Bad input.


def check_hostile_texts(name: str, config: base.EnvConfig) -> None:
    """No text crashes the environment; an answer it refuses changes nothing."""
    (item_id,) = episodes.sample_tasks(name, config, 1)
    config = dataclasses.replace(config, max_turns=10_000)
    script = episodes.record_script(name, config, item_id)
    expected = episodes.play_script(registry.make(name, config), item_id, script)
    env = registry.make(name, config)
    env.reset(item_id)
    for text in hostile.TEXTS:
        result = env.step(text)
        _require_clean(name, text, result)
        if result.done or result.info.valid_action:
            env.reset(item_id)
            continue
        _require(
            result.reward <= 0,
            f"{name}: the refused answer {text[:60]!r} earns {result.reward}",
        )
    for answer, wanted in zip(script, expected[1:], strict=False):
        _require_equal(
            env.step(answer), wanted, f"{name}: a refused answer changed the state"
        )


def check_unknown_ids(name: str, config: base.EnvConfig) -> None:
    """Ids that name no task are refused, and leave the instance usable."""
    malformed = ("", "_", "x", "-1", "1.5", "0x1", " 1", "1 ", "٣", "9" * 30)
    unknown = [name, "", "other_0", f"{name}0", f"x{name}_0", f"{name}__0"]
    unknown += [f"{name}_{suffix}" for suffix in malformed]
    env = registry.make(name, config)
    for item_id in unknown:
        _require_raises(
            base.UnknownItemError,
            lambda item_id=item_id: env.reset(item_id),
            f"{name}: the id {item_id!r} is not refused",
        )
    (good,) = episodes.sample_tasks(name, config, 1)
    _require_equal(
        env.reset(good),
        registry.make(name, config).reset(good),
        f"{name}: a refused id changes the next task",
    )


def check_call_order(name: str, config: base.EnvConfig) -> None:
    """Steps outside an episode are refused; a reset within one starts afresh."""
    (item_id,) = episodes.sample_tasks(name, config, 1)
    env = registry.make(name, dataclasses.replace(config, max_turns=2))
    _require_raises(
        base.CallOrderError,
        lambda: env.step(""),
        f"{name}: step() before reset() works",
    )
    first = env.reset(item_id)
    _require_equal(env.reset(item_id), first, f"{name}: a second reset() differs")
    env.step("")
    _require_equal(env.reset(item_id), first, f"{name}: reset() in an episode differs")
    for _ in range(2):
        result = env.step("")
    _require(
        result.done, f"{name}: max_turns = 2, and two turns do not end the episode"
    )
    _require_raises(
        base.CallOrderError, lambda: env.step(""), f"{name}: step() after the end works"
    )


def check_turn_limit(name: str, config: base.EnvConfig) -> None:
    """The limit of the profile holds, and running into it truncates, no more."""
    env = registry.make(name, dataclasses.replace(config, max_turns=None))
    _require_equal(
        env.max_turns,
        type(env).turn_limits[config.profile],
        f"{name}: the turn limit is not the profile's",
    )
    (item_id,) = episodes.sample_tasks(name, config, 1)
    for limit in (1, 3):
        env = registry.make(name, dataclasses.replace(config, max_turns=limit))
        env.reset(item_id)
        results = [env.step("") for _ in range(limit)]
        _require_equal(
            [(r.terminated, r.truncated, r.info.success) for r in results],
            [(False, False, False)] * (limit - 1) + [(False, True, False)],
            f"{name}: (terminated, truncated, success) of empty answers, limit {limit}",
        )


# Tasks and actions.


def check_panels(name: str, config: base.EnvConfig) -> None:
    """Splits are fixed, versioned, disjoint lists of tasks with tier and subset."""
    spec = registry.get_spec(name)
    _require_equal(spec.name, name, f"{name}: the spec has another name")
    _require_equal(
        spec.splits[:2], ("train", "test"), f"{name}: the first splits have other names"
    )
    for split in spec.splits:
        panel = spec.panel(split, config)
        where = f"{name}, split '{split}'"
        _require(bool(panel.item_ids) and bool(panel.version), f"{where}: empty")
        _require_equal((panel.env, panel.split), (name, split), f"{where}: mislabelled")
        ids = panel.item_ids
        _require(len(set(ids)) == len(ids), f"{where}: repeated tasks")
        again = spec.panel(split, config)
        _require_equal(again.digest, panel.digest, f"{where}: unstable")
        for item_id in panel.item_ids:
            try:
                base.parse_item_id(name, item_id)
            except base.UnknownItemError as error:
                raise ConformanceError(f"{where}: {error}") from error
        for item_id in panel.item_ids[:20]:
            labels = spec.tier(item_id, config), spec.subset(item_id, config)
            _require(
                labels[0] in ("easy", "hard") and bool(labels[1]),
                f"{where}: {item_id} has (tier, subset) {labels}",
            )
        _check_subsets(spec, config, panel)
    train, test = (set(spec.panel(s, config).item_ids) for s in ("train", "test"))
    _require_equal(sorted(train & test), [], f"{name}: tasks in both train and test")


def _check_subsets(
    spec: base.EnvSpec, config: base.EnvConfig, panel: base.TaskPanel
) -> None:
    """The subsets of a fixed sample of tasks are among those that the spec publishes."""
    if (published := spec.subsets(config)) is None:
        return
    for item_id in sorted(panel.item_ids, key=base.stable_hash)[:MAX_FINGERPRINTS]:
        subset = spec.subset(item_id, config)
        _require(
            subset in published,
            f"{spec.name}, split '{panel.split}': {item_id} is of subset {subset!r}, "
            f"which spec.subsets does not name: {published}",
        )


def check_fingerprints(name: str, config: base.EnvConfig) -> None:
    """No sampled task of another split is also a sampled training task."""
    compare_splits(name, config, limit=MAX_FINGERPRINTS)


def compare_splits(
    name: str, config: base.EnvConfig, *, limit: int | None = None
) -> dict[str, int]:
    """Compares the tasks of each split with the training tasks by their fingerprints.

    Args:
      name: of the environment.
      config: its configuration.
      limit: tasks of each split to look at, a fixed sample; None looks at all.

    Returns:
      How many tasks of each split were compared; nothing for an environment that has
      no fingerprints.

    Raises:
      ConformanceError: if tasks of another split equal training tasks.
    """
    spec = registry.get_spec(name)
    make_fingerprint = spec.fingerprint
    if make_fingerprint is None:
        return {}
    trained: dict[str, str] = {}
    counts = {}
    for split in spec.splits:
        panel = tasks.select_tasks(name, split, config, limit=limit)
        prints = {i: make_fingerprint(i, config) for i in panel.item_ids}
        counts[split] = len(prints)
        if split == "train":
            trained = {fingerprint: i for i, fingerprint in prints.items()}
            continue
        equal = {i: trained[f] for i, f in prints.items() if f in trained}
        _require(
            not equal,
            f"{name}: {len(equal)} tasks of split '{split}' equal training tasks: "
            f"{dict(list(equal.items())[:5])}",
        )
    return counts


def check_listed_actions(name: str, config: base.EnvConfig) -> None:
    """Every listed action is accepted, and listing them changes nothing."""
    (item_id,) = episodes.sample_tasks(name, config, 1)
    env = registry.make(name, config)
    env.reset(item_id)
    for action in (env.available_actions() or ())[:50]:
        env.reset(item_id)
        _require_accepted(name, action, env.step(_write(env, action)))
    for item_id in episodes.sample_tasks(name, config):
        env.reset(item_id)
        for turn in range(env.max_turns):
            actions = env.available_actions()
            if not actions:
                break
            _require_equal(
                env.available_actions(),
                actions,
                f"{name}: listing actions changes them",
            )
            action = actions[base.stable_hash(item_id, turn) % len(actions)]
            result = env.step(_write(env, action))
            _require_accepted(name, action, result)
            if result.done:
                break


def _write(env: base.Environment, action: str) -> str:
    """The answer with an action, in the form that the configuration asks for."""
    return env.perturbation.write(parsing.render_react("", action))


def check_action_lists(name: str, config: base.EnvConfig) -> None:
    """Observations list the available actions when the configuration says so."""
    (item_id,) = episodes.sample_tasks(name, config, 1)
    env = registry.make(name, config)
    wanted = config.list_actions
    if wanted == "native":
        wanted = env.native_list
    observation = env.reset(item_id)
    for turn, answer in enumerate(("", *episodes.record_script(name, config, item_id))):
        actions = env.available_actions()
        if actions is None:
            return
        listed = observation.endswith(env.format_listed(actions))
        expected = wanted == "always" or (wanted == "first" and turn == 0)
        _require_equal(
            listed, expected, f"{name}: list policy '{wanted}' at turn {turn}: listed"
        )
        result = env.step(answer)
        if result.done:
            return
        observation = result.observation


def check_oracles(name: str, config: base.EnvConfig) -> None:
    """The privileged oracle solves each sampled task, the text-only one most.

    Tasks that the text-only one refuses do not count, if it does not refuse all.
    """
    ids = episodes.sample_tasks(name, config, 5)
    for kind in registry.get_spec(name).oracles:
        solved, expected = 0, len(ids)
        for item_id in ids:
            try:
                turns = episodes.play_oracle(name, config, item_id, kind)
            except base.OracleRefusalError:
                expected -= kind == "observational"
                continue
            solved += turns[-1][1].info.success
            for answer, result in turns:
                _require(
                    not result.info.parse_error,
                    f"{name}: the {kind} oracle's {answer!r} is not understood",
                )
        needed = expected * (1.0 if kind == "privileged" else MIN_OBSERVATIONAL)
        _require(
            solved > 0 and solved >= needed,
            f"{name}: the {kind} oracle solves {solved} of {expected} sampled tasks",
        )


# Cost.


def check_memory(name: str, config: base.EnvConfig) -> None:
    """Many instances in one process share what is read-only."""
    cost = measure_instance_bytes(name, config)
    _require(
        cost <= MAX_INSTANCE_BYTES,
        f"{name}: one more instance costs {cost} bytes; up to {MAX_INSTANCE_BYTES} are "
        "fine. Keep read-only data at module level, behind functools.cache.",
    )


CHECKS: tuple[Callable[[str, base.EnvConfig], None], ...] = (
    check_panels,  # first: the others play tasks of the panels
    check_config,
    check_fingerprints,
    check_purity,
    check_interleaving,
    check_processes,
    check_hostile_texts,
    check_unknown_ids,
    check_call_order,
    check_turn_limit,
    check_listed_actions,
    check_action_lists,
    check_oracles,
    check_memory,
)


def measure_instance_bytes(name: str, config: base.EnvConfig) -> int:
    """What one more instance costs, measured in a process of its own."""
    return int(_run_elsewhere("instance_bytes", name, config))


def _run_elsewhere(
    function: str, name: str, config: base.EnvConfig, *, hash_seed: str = "random"
) -> str:
    """What a function of `agentrl.envs.episodes` returns in a new process, as text."""
    done = episodes.start_elsewhere(function, (name, config), hash_seed=hash_seed)
    _require(
        done.returncode == 0, f"{name}: {function} failed:\n{done.stderr.decode()}"
    )
    return done.stdout.decode().split()[-1]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConformanceError(message)


def _require_equal(found: object, expected: object, message: str) -> None:
    if found != expected:
        raise ConformanceError(
            f"{message}:\n  found    {found!r}\n  expected {expected!r}"
        )


def _require_raises(
    error: type[Exception], call: Callable[[], object], message: str
) -> None:
    try:
        call()
    except error:
        return
    raise ConformanceError(f"{message} with {error.__name__}")


def _require_clean(name: str, text: str, result: base.StepResult) -> None:
    """An observation can be stored, shown and encoded; a hostile text never wins."""
    where = f"{name}, after the answer {text[:60]!r}"
    _require_equal(
        base.clean_text(result.observation),
        result.observation,
        f"{where}: the observation holds control characters or lone surrogates",
    )
    _require(not result.info.success, f"{where}: the task counts as solved")


def _require_accepted(name: str, action: str, result: base.StepResult) -> None:
    _require(
        result.info.valid_action and not result.info.parse_error,
        f"{name}: the listed action {action!r} is refused: {result.observation[:99]!r}",
    )


def main(names: Sequence[str]) -> int:
    """Checks environments, by default all; returns 1 if one breaks a promise, else 0."""
    status = 0
    for name in names or registry.names():
        try:
            with _explained(name):
                registry.make(name).close()
            for profile, policy in itertools.product(base.PROFILES, base.LIST_ACTIONS):
                check_environment(name, base.EnvConfig(profile, policy))
                print(f"{name} {profile} {policy}: ok", flush=True)
        except base.MissingDataError as error:
            print(f"{name}: left out, {error}", flush=True)
        except ConformanceError as error:
            print(error, file=sys.stderr, flush=True)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
