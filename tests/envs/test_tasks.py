"""Choosing tasks: splits, tiers, files of ids, limits, and what goes wrong."""

import dataclasses
import hashlib
import itertools
import json

import pytest

from agentrl.envs import base, registry, tasks

CONFIG = base.EnvConfig()
IDS = {
    "train": tuple(f"toy_{k}" for k in range(10, 30)),
    "test": ("toy_3", "toy_1", "toy_2", "toy_0"),
}


def find_subset(item_id, config):
    if int(item_id[4:]) >= 50:
        raise base.UnknownItemError(f"{item_id} is out of range; there are 50.")
    return "odd" if int(item_id[4:]) % 2 else "even"


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """An environment of which only the panels matter: odd tasks are hard."""
    spec = base.EnvSpec(
        name="toy",
        make=lambda config: pytest.fail("no instance is needed to choose tasks"),
        splits=("train", "test"),
        panel=lambda split, _: base.TaskPanel("toy", split, "toy-1", IDS[split]),
        tier=lambda item_id, _: "hard" if int(item_id[4:]) % 2 else "easy",
        subset=find_subset,
        oracles={},
        subsets=lambda _: ("even", "odd"),
    )
    monkeypatch.setattr(registry, "get_spec", {"toy": spec}.__getitem__)
    monkeypatch.setattr(registry, "names", lambda: ("toy", "other"))


def select(split="test", **options):
    return tasks.select_tasks("toy", split, CONFIG, **options)


def write(path, text):
    path.write_text(text)
    return path


def tier_line(item_id, tier):
    return json.dumps({"item_id": item_id, "n": 8, "pass_rate": 0.5, "tier": tier})


def test_a_split_is_the_panel_of_the_environment():
    assert select() == base.TaskPanel("toy", "test", "toy-1", IDS["test"])


def test_structural_tiers_keep_the_order():
    easy, hard = select(tier="easy"), select(tier="hard")
    assert easy == base.TaskPanel(
        "toy", "test", "toy-1, easy by structure", ("toy_2", "toy_0")
    )
    assert hard.item_ids == ("toy_3", "toy_1")
    assert len({easy.digest, hard.digest, select().digest}) == 3


def test_subsets_are_kept_of_the_environments_they_name():
    odd = select(subsets=("toy/odd", "other/even"))
    assert odd.version == "toy-1, odd"
    assert odd.item_ids == tuple(i for i in IDS["test"] if int(i[4:]) % 2)
    assert select(subsets=("other/even",)) == select()
    assert select(subsets=("toy/odd", "toy/even")).item_ids == IDS["test"]


def test_calibrated_tiers_leave_out_what_was_not_measured(tmp_path):
    lines = [tier_line("toy_0", "hard"), tier_line("toy_3", "easy")]
    path = write(tmp_path / "base_model.jsonl", "\n".join(lines) + "\n")

    hard = select(tier="hard", tier_file=path)

    assert hard.item_ids == ("toy_0",)
    assert hard.version == f"toy-1, hard by base_model.jsonl {tasks.digest_file(path)}"
    assert select(tier="easy", tier_file=path).item_ids == ("toy_3",)


def test_agentgym_files_are_taken_in_their_order(tmp_path):
    path = write(
        tmp_path / "toy_test.json", '[{"item_id": "toy_9"}, {"item_id": "toy_4"}]'
    )

    panel = select(item_file=path)

    assert panel.item_ids == ("toy_9", "toy_4")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert panel.version == f"ids of toy_test.json {digest}"
    assert select(item_file=path, tier="easy").item_ids == ("toy_4",)


@pytest.mark.parametrize("by", ["tier", "subset"])
def test_a_limited_panel_may_hold_as_many_of_each_part(by):
    for limit in (6, 7):
        panel = select("train", limit=limit, stratify=by)
        odd = sum(int(i[4:]) % 2 for i in panel.item_ids)
        assert len(panel.item_ids) == limit and abs(limit - 2 * odd) <= 1
        assert panel.version == f"toy-1, {limit} of 20, equal by {by}"
    assert set(select("train", limit=6, stratify=by).item_ids) < set(panel.item_ids)
    with pytest.raises(tasks.TaskSelectionError, match="no effect without a number"):
        tasks.check_selection({"toy": CONFIG}, split="test", stratify=by)


def test_limits_are_nested_and_not_the_first_tasks():
    panels = [select("train", limit=n) for n in range(1, 21)]
    chosen = [set(panel.item_ids) for panel in panels]

    assert [len(ids) for ids in chosen] == list(range(1, 21))
    assert all(a < b for a, b in itertools.pairwise(chosen))
    assert panels[4].item_ids != IDS["train"][:5]
    assert panels[4].version == "toy-1, 5 of 20"
    assert sorted(panels[4].item_ids) == list(panels[4].item_ids)  # the split's order
    assert select("train", limit=20) == select("train", limit=99) == select("train")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"split": "tets"}, r"no split 'tets'.*'test'\?.*\['train', 'test'\]"),
        ({"tier": "medium"}, r"no tier 'medium'.*\['all', 'easy', 'hard'\]"),
        ({"limit": 0}, "limit = 0"),
        ({"subsets": ("toy/ood",)}, r"no subset 'ood'.*'odd'\?.*\['even', 'odd'\]"),
        ({"subsets": ("tyo/odd",)}, r"'tyo/odd' .*Did you mean 'toy/odd'\?.*'other'"),
        ({"subsets": ("odd",)}, r"'odd' does not name an environment"),
        ({"subsets": ("toy/",)}, r"'toy/' does not name an environment"),
        ({"subsets": "toy/odd"}, r"is one string; give a list"),
        ({"item_file": "/nowhere/items.json"}, "cannot read .*/nowhere/items.json"),
        (
            {"tier": "easy", "tier_file": "/nowhere.jsonl"},
            r"cannot read .*/nowhere\.jsonl",
        ),
    ],
)
def test_what_cannot_be_chosen_is_told(options, message):
    with pytest.raises(tasks.TaskSelectionError, match=message):
        select(**options)


@pytest.mark.parametrize(
    "text, message",
    [
        ("[1]", r"expected a JSON list of \{'item_id': 'toy_0'\}"),
        ("{]", "expected a JSON list"),
        ('{"item_id": 0}', "ids are text such as 'toy_0', not 0"),
        ("toy_0, toy_1", "'toy_0, toy_1' is a task of no environment"),
        ("tyo_0", r"'tyo_0' is a task of no environment\. Did you mean 'toy'"),
        ("toy_x\ntoy_1", "'toy_x' is not a task of environment 'toy'"),
        ("toy_77", "items.json .*there are 50"),
        ("toy_1\n\ntoy_1", r"more than once: \['toy_1'\]"),
        ("", "no task is of environment 'toy'; there is none at all"),
        ("other_1", r"no task is of environment 'toy', all are of \['other'\]"),
        ('[{"id": "toy_0"}]', "KeyError: 'item_id'"),
        (
            '[{"item_id": "toy_0"}, {"item_id": "toy_0"}]',
            r"more than once: \['toy_0'\]",
        ),
        ("[]", "no task is of environment 'toy'"),
    ],
)
def test_bad_files_of_ids_are_told(tmp_path, text, message):
    with pytest.raises(tasks.TaskSelectionError, match=message):
        select(item_file=write(tmp_path / "items.json", text))


@pytest.mark.parametrize(
    "text",
    [
        '[{"item_id": "toy_9"}, {"item_id": "toy_4"}]',
        '["toy_9", "other_1", "toy_4"]',
        "toy_9\ntoy_4",
        "\ufeff# chosen by hand\r\n\r\n toy_9 # the first\r\nother_7\r\ntoy_4\r\n",
        '{"item_id": "toy_9", "pass_rate": 0.1}\n{"item_id": "toy_4"}\n',
    ],
)
def test_lists_of_ids_come_in_several_forms(tmp_path, text):
    path = tmp_path / "items"
    path.write_bytes(text.encode())
    assert select(item_file=path).item_ids == ("toy_9", "toy_4")
    assert select(item_file=str(path)).digest == select(item_file=[path]).digest


def test_several_lists_are_read_as_one(tmp_path):
    one = write(tmp_path / "one", "toy_9\nother_1")
    two = write(tmp_path / "two", "other_2\ntoy_4")
    panel = select(item_file=(one, two))
    assert panel.item_ids == ("toy_9", "toy_4")
    digests = [tasks.digest_file(path) for path in (one, two)]
    assert panel.version == f"ids of one {digests[0]} and two {digests[1]}"
    with pytest.raises(tasks.TaskSelectionError, match="more than once"):
        select(item_file=(one, one))


def test_a_digest_tells_lists_of_one_name_apart(tmp_path):
    path = write(tmp_path / "items", "toy_9\ntoy_4")
    first = select(item_file=path)
    write(path, "toy_9\ntoy_5")
    assert select(item_file=path).version != first.version


def test_tiers_of_several_environments_are_read_together(tmp_path):
    lines = tier_line("toy_0", "hard") + "\n" + tier_line("other_0", "easy")
    both = write(tmp_path / "both.jsonl", lines)
    toy = write(tmp_path / "toy.jsonl", tier_line("toy_2", "hard"))

    assert select(tier="hard", tier_file=both).item_ids == ("toy_0",)
    assert select(tier="hard", tier_file=[both, toy]).item_ids == ("toy_2", "toy_0")
    check(tier="hard", tier_file=[both, toy])
    other = write(tmp_path / "other.jsonl", tier_line("other_0", "easy"))
    with pytest.raises(tasks.TaskSelectionError, match=r"no task of environment 'toy'"):
        check(tier="hard", tier_file=other)
    with pytest.raises(tasks.TaskSelectionError, match=r"both.jsonl:1: second line"):
        select(tier="hard", tier_file=[both, both])


@pytest.mark.parametrize(
    "lines, message",
    [
        (["{}"], r"tiers.jsonl:1: .*KeyError: 'item_id'"),
        ([tier_line("toy_0", "easy"), "easy"], r"tiers.jsonl:2: .*JSONDecodeError"),
        (
            [tier_line("toy_0", "medium")],
            r"tiers.jsonl:1: 'toy_0' has tier 'medium'",
        ),
        ([tier_line("toy_0", "easy")] * 2, r"tiers.jsonl:2: second line for 'toy_0'"),
        (
            [tier_line("toy_0", "hard")],
            r"no task is left \(toy-1, easy by tiers.jsonl \w{8}\)",
        ),
    ],
)
def test_bad_tier_files_are_told(tmp_path, lines, message):
    path = write(tmp_path / "tiers.jsonl", "\n".join(lines))
    with pytest.raises(tasks.TaskSelectionError, match=message):
        select(tier="easy", tier_file=path)


# The whole selection, before anything is built.


def check(**options):
    tasks.check_selection({"toy": CONFIG}, **{"split": "test", **options})


def test_a_selection_without_mistakes_passes(tmp_path):
    path = write(tmp_path / "tiers.jsonl", tier_line("toy_0", "easy"))
    items = write(tmp_path / "items.json", '[{"item_id": "toy_0"}]')
    check()
    check(tier="easy", tier_file=path, subsets=("toy/odd",), item_file=items, limit=3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"split": "tets"}, r"no split 'tets'.*'test'\?.*\['train', 'test'\]"),
        ({"tier": "hrad"}, r"no tier 'hrad'.*'hard'\?.*\['all', 'easy', 'hard'\]"),
        ({"limit": 0}, "limit = 0"),
        ({"subsets": ("toy/ood",)}, r"no subset 'ood'.*'odd'\?.*\['even', 'odd'\]"),
        ({"subsets": ("tyo/odd",)}, r"'tyo/odd' .*Did you mean 'toy/odd'\?"),
        ({"subsets": ("other/odd",)}, r"environment 'other', which is not played"),
        ({"item_file": "/nowhere/items.json"}, "cannot read .*/nowhere/items.json"),
        ({"tier_file": "/nowhere.jsonl"}, r"cannot read .*/nowhere\.jsonl"),
    ],
)
def test_a_whole_selection_is_refused_in_one_line(monkeypatch, options, message):
    spec = dataclasses.replace(
        registry.get_spec("toy"), panel=lambda *_: pytest.fail("the panel was built")
    )
    monkeypatch.setattr(registry, "get_spec", {"toy": spec}.__getitem__)
    with pytest.raises(tasks.TaskSelectionError, match=message) as caught:
        check(**options)
    assert "\n" not in str(caught.value)


def test_an_unknown_environment_is_refused():
    with pytest.raises(tasks.TaskSelectionError, match=r"'tyo'.*mean 'toy'\?"):
        tasks.check_selection({"tyo": CONFIG}, split="test")


@pytest.mark.parametrize(
    "ids, message",
    [
        ((), "is empty; add tasks to it"),
        (
            ("toy_3", "toy_1", "toy_2", "toy_2", "toy_1"),
            "lists 'toy_1' more than once; 2 of its 5 entries are repetitions",
        ),
        (("toy_3", "tyo_4"), "'tyo_4' is not a task of environment 'toy'; ids look"),
        ((3,), "'3' is not a task of environment 'toy'"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"limit": 3}, {"tier": "easy"}])
def test_a_panel_that_its_author_has_to_correct_is_refused(
    monkeypatch, ids, message, options
):
    monkeypatch.setitem(IDS, "test", ids)
    expected = rf"environment 'toy', split 'test': its own panel \(toy-1\).*{message}"
    with pytest.raises(tasks.TaskSelectionError, match=expected) as refused:
        select(**options)
    assert "loosen" not in str(refused.value)
