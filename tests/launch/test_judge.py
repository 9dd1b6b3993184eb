"""`agentrl judge` as a person meets it: runs, labels, resuming, and what it refuses."""

import dataclasses
import json
import os
import pathlib
import re
import socket
import sys

import commands
import fake_run
import pytest
from judge_stub import say, serve

from agentrl import errors
from agentrl.envs import base
from agentrl.judging import judge_prompt, judgements, labelled
from agentrl.transcripts import episodes, failures

ROOT = pathlib.Path(__file__).parents[2]
LABELS = ROOT / "tests" / "reporting" / "labels"
KEY = "sk-very-secret-123"


def make_failed(env, item, *, sample=0, **changes):
    trajectory = fake_run.make_trajectory(
        env,
        item=item,
        sample=sample,
        success=False,
        actions=(f"get {item + 1} moon{sample}",),
        valid=False,
        final="Could not find moon.",
        **changes,
    )
    return episodes.from_trajectory(
        trajectory, stage="both", iteration=3, env_config=base.EnvConfig()
    )


@pytest.fixture
def run_folder(tmp_path):
    """Six failed episodes of TextCraft, two of BabyAI, and what is not drawn."""
    folder = tmp_path / "run" / episodes.FOLDER
    solved = dataclasses.replace(make_failed("textcraft", 90), success=True)
    lost = dataclasses.replace(make_failed("textcraft", 91), ending="env_error")
    textcraft = [make_failed("textcraft", n // 2, sample=n % 2) for n in range(6)]
    episodes.append(
        folder / "evaluation.both.textcraft.jsonl", [solved, lost, *textcraft]
    )
    babyai = [make_failed("babyai", n) for n in range(2)]
    episodes.append(folder / "evaluation.both.babyai.jsonl", babyai)
    episodes.append(folder / "both.jsonl", [make_failed("textcraft", 92)])
    return folder.parent


def run(folder, url, *flags, key=None):
    env = {k: v for k, v in os.environ.items() if k != "OPENAI_API_KEY"}
    env |= {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    if key is not None:
        env["OPENAI_API_KEY"] = key
    out = () if any(f.startswith("--out") for f in flags) else ("--out=judged.jsonl",)
    return commands.run(
        [
            *(sys.executable, "-m", "agentrl.launch.judge"),
            *(f"--server={url}", "--model=small", *out, *flags),
        ],
        cwd=folder.parent,
        env=env,
    )


def told(done):
    """The one line of a refusal."""
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.startswith("launch.judge: ") and done.stderr.count("\n") == 1
    return done.stderr


def rows(text):
    return {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}


def test_a_run_is_judged_and_goes_on_where_it_was_interrupted(run_folder):
    out = run_folder.parent / "judged.jsonl"

    def answer(messages):
        return say("fabrication" if "textcraft" in messages[1]["content"] else "other")

    with serve(answer) as stub:
        done = run(run_folder, stub.url, "--workdir=run", key=KEY)
        assert done.returncode == 0, done.stderr
        assert "8 episodes failed, fewer than --episodes." in done.stdout
        assert len(stub.bodies) == 8 and "moon1" in "".join(stub.questions)
        assert "get [count] [item]" in "".join(stub.questions)  # the rules
        # In BabyAI the rules see an action of another environment, the judge nothing.
        shown = rows(done.stdout)["fabrication"]
        assert shown[1:6] == ["6", "0", "0", "2", "100.0"] and shown[-1] == "8"
        assert rows(done.stdout)["foreign_action"][1:5] == ["0", "2", "0", "6"]
        assert "the same main tag: 75.0 [" in done.stdout
        lines = out.read_text().splitlines(keepends=True)
        assert all(h["Authorization"] == f"Bearer {KEY}" for h in stub.headers)
        for text in (done.stdout, done.stderr, "".join(lines)):
            assert KEY not in text
        record = json.loads(lines[0])
        assert record["server"] == stub.url and record["model"] == "small"
        file, _, number = record["place"].rpartition(":")
        assert (
            "moon"
            in (run_folder.parent / file).read_text().splitlines()[int(number) - 1]
        )

        # As a kill leaves it: five lines and a half.
        out.write_text("".join(lines[:5]) + lines[5][:40])
        again = run(run_folder, stub.url, "--workdir=run")
        assert "8 episodes, 3 of them to ask about" in again.stdout
        assert len(stub.bodies) == 11
        table = done.stdout[done.stdout.index("  rules and judge") :]
        assert again.stdout.endswith(table)
        assert sorted(map(json.loads, out.read_text().splitlines()), key=str) == sorted(
            map(json.loads, lines), key=str
        )


def draw(folder, count, *, seed=0, env=None):
    return judgements.draw(folder, count=count, seed=seed, env=env)


def test_draws_repeat_grow_and_can_be_of_one_environment(run_folder):
    def places(count, **options):
        return [one.place for one in draw(run_folder, count, **options)]

    assert places(4) == places(8)[:4] and len(set(places(100))) == 8
    assert places(8) != places(8, seed=1) and set(places(8)) == set(places(8, seed=1))
    assert all("babyai" in place for place in places(8, env="babyai"))
    assert len(places(8, env="babyai")) == 2


def test_episodes_that_read_the_same_are_asked_about_once(run_folder):
    path = run_folder / episodes.FOLDER / "evaluation.both.babyai.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0] * 5)
    drawn = draw(run_folder, 9, env="babyai")
    questions = judgements.write_questions(drawn, judgements.Rules(), max_chars=2000)
    file = judgements.open_file(run_folder / "judged.jsonl", {})
    assert len(questions) == 5 and len(judgements.find_missing(file, questions)) == 1


@pytest.mark.parametrize("env", ["babyai", "textcraft"])
def test_a_judge_that_says_what_the_labels_say(tmp_path, env):
    files = [f"--labels={LABELS / env}.csv", f"--labelled={LABELS / env}.jsonl.gz"]
    labels = list(labelled.read(LABELS / f"{env}.jsonl.gz", LABELS / f"{env}.csv"))
    drawn = [judgements.Drawn(one.episode, "") for one in labels]
    questions = judgements.write_questions(drawn, judgements.Rules(), max_chars=24_000)
    known = {q.text: one for q, one in zip(questions, labels, strict=True)}

    def answer(messages):
        tags = known[messages[1]["content"]].tags & set(judge_prompt.TAGS)
        return say(*sorted(tags, key=failures.TAGS.index))

    with serve(answer) as stub:
        done = run(tmp_path / "x", stub.url, *files)
    assert done.returncode == 0 and len(stub.bodies) == len(known), done.stderr
    titles = re.findall(r"^  (.*): 100 episodes that both have read", done.stdout, re.M)
    assert titles == ["labels and judge", "labels and rules", "rules and judge"]
    by_judge, by_rules, beside = (
        rows(part) for part in re.split(r" episodes that both have", done.stdout)[1:]
    )
    for tag in judge_prompt.TAGS:
        unclear = sum(tag in one.unclear for one in labels)
        with_tag = sum(tag in one.tags for one in labels)
        _, both, only_labels, only_judge, *_, kappa, count = by_judge[tag]
        assert (only_labels, only_judge) == ("0", "0")
        if tag != "other":
            assert int(both) == with_tag and int(count) == 100 - unclear
        assert kappa == ("1.00" if 0 < int(both) < int(count) else "-")
        # As far from the rules as the labels are, and where those are unclear, further.
        found = by_rules[tag][1:4]
        assert all(
            int(a) >= int(b)
            for a, b in zip(beside[tag][2:4], found[:0:-1], strict=True)
        ) or failures.find_undetectable(env)
    main = re.search(r"the same main tag: ([\d.]+) \[", done.stdout)
    assert 0 < float(main[1]) < 100


def test_a_judge_of_no_use_ends_in_one_line(run_folder):
    path = run_folder / episodes.FOLDER / "evaluation.both.textcraft.jsonl"
    episodes.append(path, [make_failed("textcraft", n) for n in range(10, 40)])
    with serve(lambda _: "I would rather not.") as stub:
        complaint = told(run(run_folder, stub.url, "--workdir=run", "--concurrency=1"))
        assert "none of 10 answers is of use" in complaint
        assert "no JSON object" in complaint and "would rather not" in complaint
        assert 20 <= len(stub.bodies) <= 24  # two for each; a few are in flight


def test_some_answers_of_no_use_are_counted_and_kept(run_folder):
    def answer(messages):
        return "Hm." if "babyai" in messages[1]["content"] else say("fabrication")

    with serve(answer) as stub:
        done = run(run_folder, stub.url, "--workdir=run")
        assert "no answer of use on 2 of 8 episodes" in done.stdout
        assert rows(done.stdout)["fabrication"][1] == "6" and len(stub.bodies) == 10
        run(run_folder, stub.url, "--workdir=run")
        assert len(stub.bodies) == 10


def test_failures_of_the_server_end_in_one_line(run_folder):
    with serve(lambda _: (401, f"{KEY} is wrong")) as stub:
        complaint = told(run(run_folder, stub.url, "--workdir=run", key=KEY))
        assert "Set OPENAI_API_KEY" in complaint and KEY not in complaint
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    assert "Is the server running" in told(run(run_folder, url, "--workdir=run"))
    (run_folder.parent / "notes.txt").write_text("mine")
    complaint = told(run(run_folder, url, "--workdir=run", "--out=notes.txt"))
    assert "choose another --out" in complaint
    assert not (run_folder.parent / "judged.jsonl").exists()


def test_what_is_not_there_is_told(run_folder, tmp_path):
    with pytest.raises(errors.ConfigError, match="agentrl evaluate"):
        draw(tmp_path / "nowhere", 5)
    with pytest.raises(
        errors.ConfigError, match=r"evaluated \['babyai', 'textcraft'\]"
    ):
        draw(run_folder, 5, env="webshop")
    path = run_folder / episodes.FOLDER / "evaluation.both.babyai.jsonl"
    path.unlink()
    episodes.append(path, [dataclasses.replace(make_failed("babyai", 0), success=True)])
    with pytest.raises(
        errors.ConfigError, match="no stored evaluation episode of babyai"
    ):
        draw(run_folder, 5, env="babyai")
    path.write_text('{"stage": 3}\n')
    with pytest.raises(errors.DamagedFileError, match="not a stored episode"):
        draw(run_folder, 5)


SHARED = {"model": "small", "server": "http://host/v1", "instructions": "abc"}
LINE = {"id": "x", "place": "", "tags": ["other"], "why": "", "problem": "", **SHARED}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("my notes", "something else than judgements"),
        ("my notes\n", "something else than judgements"),
        ('{"item_id": "babyai_0"}', "something else than judgements"),
        ('{"id": "x", "tags": []}\n', "something else than judgements"),
        (
            json.dumps(LINE | {"model": "large"}) + "\n",
            "another judge: {'model': 'large'",
        ),
        (
            json.dumps(LINE | {"instructions": "b"}) + "\n",
            "judgements of another judge",
        ),
        (json.dumps(LINE | {"tags": ["laziness"]}) + "\n", "with tags .*laziness"),
        (json.dumps(LINE) + '\n{"id": \n', "2 is not JSON"),
    ],
)
def test_what_out_holds_is_left_as_it_is(tmp_path, content, message):
    out = tmp_path / "judged.jsonl"
    out.write_text(content)
    with pytest.raises((errors.ConfigError, errors.DamagedFileError), match=message):
        judgements.open_file(out, SHARED)
    assert out.read_text() == content


@pytest.mark.parametrize(
    ("table", "texts", "message"),
    [
        (b"id,tags\n", None, r"no table of labels \(its columns are \['id', 'tags'"),
        (b"id,tags,unclear\na,laziness,\n", None, r"there is no tag \['laziness'\]"),
        (b"id,tags,unclear\na\n", None, "no table of labels"),
        (b"id,tags,unclear\na,other,\n", None, "has no row for episode"),
        (None, b"not gzip", "no file of labelled episodes"),
        (None, b"\x1f\x8b\x08\x00cut off", "no file of labelled episodes"),
    ],
)
def test_damaged_labels_are_told(tmp_path, table, texts, message):
    paths = []
    for suffix, content in ((".jsonl.gz", texts), (".csv", table)):
        whole = (LABELS / f"babyai{suffix}").read_bytes()
        paths.append(tmp_path / f"mine{suffix}")
        paths[-1].write_bytes(whole if content is None else content)
    with pytest.raises(errors.DamagedFileError, match=message):
        list(labelled.read(*paths))


@pytest.mark.parametrize(
    "flags",
    [("--workdir=run", "--labelled=b.jsonl"),
     ("--workdir=run", "--labels=a.csv", "--labelled=b.jsonl")],
)  # fmt: skip
def test_a_run_or_labels_are_judged_and_not_both(run_folder, flags):
    done = run(run_folder, "http://127.0.0.1:1/v1", *flags)
    assert (
        done.returncode == 1 and "give --workdir, or both" in done.stdout + done.stderr
    )
    assert "Traceback" not in done.stderr
