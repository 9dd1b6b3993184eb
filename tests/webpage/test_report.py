import base64
import dataclasses
import hashlib
import re
import sys

import commands
import fake_run
import pages
import pytest

from agentrl import errors, types
from agentrl.envs import base
from agentrl.reporting import metrics, tables
from agentrl.statistics import results
from agentrl.transcripts import episodes
from agentrl.webpage import assets, report


def write(*workdirs, out=None):
    path = out or workdirs[0] / report.FILE
    return pages.Page(report.write(workdirs, path))


def store(workdir, name, trajectory, *, count=1):
    stored = episodes.from_trajectory(
        trajectory, stage="both", iteration=8, env_config=base.EnvConfig()
    )
    episodes.append(workdir / episodes.FOLDER / name, [stored] * count)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    fake_run.write_run(workdir)
    return workdir


@pytest.fixture(scope="module")
def page(run):
    return write(run)


def rows_of(table):
    return {
        row["label"]: [cell.get("text", "") for cell in row["cells"]]
        for row in table["rows"]
    }


def test_page_needs_nothing_but_itself_and_runs_its_own_scripts_only(page):
    assert page.links == []
    assert page.scripts == [assets.read(name) for name in assets.SCRIPTS]
    for script in page.scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in page.policy
    assert "default-src 'none'" in page.policy
    assert "unsafe" not in page.policy


def test_styles_and_scripts_ask_for_nothing_from_elsewhere():
    for path in assets.FOLDER.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//\w+\.\w+/|@import|url\(", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(",
                             text), path  # fmt: skip


def test_page_shows_results_gains_and_forgetting(page):
    results_of = page.state["runs"][0]["results"]
    shown = results_of["tables"]

    (success, _) = shown["results"]
    assert rows_of(success)["textcraft"] == ["75.0", "25.0"]
    assert success["rows"][1]["cells"][0]["note"] == (
        "40.0 to 93.1 \N{MIDDLE DOT} pass@4 100.0 [66.1, 100.0]"
    )
    gains, effects = shown["gains"]
    minus = "\N{MINUS SIGN}"
    assert rows_of(gains)["both"] == ["+25.0", "+75.0"]
    cell = gains["rows"][1]["cells"][1]
    assert (cell["scale"], cell["mean"], cell["note"]) == (
        "change",
        0.75,
        "+69.3 to +80.7",
    )
    assert "One seed: holds for this run only." in gains["note"]
    assert effects["rows"][0]["cells"][0]["mark"] == "trained"
    chain, _, forgetting = shown["chain"]
    assert rows_of(chain)["Held-In"][0] == "+50.0"
    assert rows_of(chain)["backward transfer"][0] == f"{minus}25.0"
    own, best = (row["cells"][0] for row in forgetting["rows"])
    assert (own["text"], own["mark"], own["scale"]) == (
        "+25.0",
        "since textcraft",
        "loss",
    )
    assert best["note"] == "no interval"
    assert results_of["notes"][0].startswith(
        "textcraft: 10 tasks \N{MULTIPLICATION SIGN} 4 samples, split test, tier all"
    )


def test_page_shows_tasks_turns_and_costs(page):
    shown = page.state["runs"][0]
    panel = shown["results"]["panels"][0]

    assert panel["tasks"]["items"][:2] == ["textcraft_0", "textcraft_1"]
    assert panel["tasks"]["means"]["textcraft"] == [0.75] * 10
    assert panel["turns"]["both"] == {"3": [40, 20]}  # half of 40 samples, three turns
    assert panel["subsets"][0].startswith("depth_")
    total = shown["curves"]["totals"][2]
    assert total["seconds"] == 16
    assert total["times"] == {"rest": 2, "rollout": 10, "update": 4}
    assert total["sampled_tokens"] == 8 * 1000 * 1.25


def test_every_stored_episode_is_in_the_page(page, run):
    index = page.unpack("index-0")
    stored = page.unpack("episodes_0_0000")

    assert index["total"] == len(stored) == 96
    assert {file["name"] for file in index["files"]} == {
        "textcraft.jsonl",
        "both.jsonl",
    }
    for number, episode in enumerate(stored):
        column = {name: values[number] for name, values in index["columns"].items()}
        assert index["items"][column["item"]] == episode["item_id"]
        assert index["endings"][column["ending"]] == episode["ending"]
        assert column["success"] == episode["success"]
        assert column["turns"] == len(episode["turns"])
    tagged = index["columns"]["tag"]
    assert index["tags"][max(tagged)] == "timeout"
    assert not (run / "report_data").exists()


def test_many_episodes_lie_beside_the_page_and_stale_ones_go(tmp_path, monkeypatch):
    fake_run.write_run(tmp_path)
    monkeypatch.setattr(report, "EMBEDDED_BYTES", 100)
    monkeypatch.setattr(report, "CHUNK", 40)

    page = write(tmp_path)

    folder = tmp_path / page.state["folder"]
    files = sorted(folder.iterdir())
    assert [len(pages.chunk_of(path)) for path in files] == [40, 40, 16]
    assert page.state["runs"][0]["chunks"] == {"count": 3, "embedded": False}
    assert not any(name.startswith("episodes_") for name in page.blocks)
    written = [path.stat().st_mtime_ns for path in files]
    fake_run.write_iterations(tmp_path, fake_run.make_settings(), first=22)
    write(tmp_path)  # the last two iterations were repeated, just as they were
    assert [path.stat().st_mtime_ns for path in files] == written
    files[0].write_text("damaged")
    write(tmp_path)
    assert len(pages.chunk_of(files[0])) == 40
    monkeypatch.setattr(report, "CHUNK", 100)
    write(tmp_path)
    assert [path.name for path in folder.iterdir()] == ["episodes_0_0000.js"]
    monkeypatch.setattr(report, "EMBEDDED_BYTES", 1 << 20)
    write(tmp_path)
    assert not folder.exists()


def test_held_out_episodes_go_before_training_ones(tmp_path):
    fake_run.write_run(tmp_path)
    trajectory = fake_run.make_trajectory(success=False, actions=("look",), valid=False)
    stored = episodes.from_trajectory(
        trajectory, stage="both", iteration=8, env_config=base.EnvConfig()
    )
    stored = dataclasses.replace(stored, failures=("repeat_loop", "timeout"))
    folder = tmp_path / episodes.FOLDER
    episodes.append(folder / "evaluation.both.textcraft.jsonl", [stored] * 3)

    bars = write(tmp_path).state["runs"][0]["failures"]["bars"]

    (both,) = [bar for bar in bars if bar["stage"] == "both"]
    assert (both["env"], both["counts"], both["succeeded"]) == (
        "textcraft",
        {"repeat_loop": 3},
        0,
    )


def test_stages_whose_names_begin_alike_are_kept_apart(tmp_path):
    settings = fake_run.make_settings()
    names = {"textcraft": "a", "both": "a.2"}
    stages = tuple(
        dataclasses.replace(stage, name=names.get(stage.name, stage.name))
        for stage in settings.stages
    )
    fake_run.write_run(tmp_path, dataclasses.replace(settings, stages=stages))
    folder = tmp_path / episodes.FOLDER
    for stage, count in (("a", 1), ("a.2", 4)):
        stored = episodes.from_trajectory(
            fake_run.make_trajectory(),
            stage=stage,
            iteration=8,
            env_config=base.EnvConfig(),
        )
        episodes.append(
            folder / f"evaluation.{stage}.textcraft.jsonl", [stored] * count
        )

    bars = write(tmp_path).state["runs"][0]["failures"]["bars"]

    counted = {(bar["stage"], bar["env"]): bar["succeeded"] for bar in bars}
    assert counted == {("a", "textcraft"): 1, ("a.2", "textcraft"): 4}


def test_what_environments_lost_is_in_table_and_page_and_counts_nowhere(tmp_path):
    fake_run.write_run(tmp_path)
    result = fake_run.make_result("both", 24, "textcraft", 1.0)
    samples = {
        name: (
            *((None,) * 4,) * 2,
            (None, *getattr(result, name)[2][1:]),
            *getattr(result, name)[3:],
        )
        for name in ("success", "score", "turns", "tokens")
    }
    dataclasses.replace(result, **samples).save(tmp_path)
    lost = fake_run.make_trajectory(success=False, ending=types.Ending.ENV_TIMEOUT)
    store(tmp_path, "evaluation.both.textcraft.jsonl", lost)

    shown = write(tmp_path).state["runs"][0]
    table = tables.format_table(results.load_all(tmp_path, ["textcraft", "babyai"]))

    told = (
        "textcraft after stage both: the environment lost 9 of 40 samples, which do not "
        "count; 2 of 10 tasks have no other"
    )
    assert told in shown["results"]["notes"] and told in table
    cell = shown["results"]["tables"]["results"][0]["rows"][2]["cells"][0]
    assert cell["text"] == "100.0" and cell["note"].endswith("9 lost")
    assert re.search(r"100\.0  \[ 58\.9, 100\.0\]  9 lost", table)
    assert shown["results"]["panels"][0]["turns"]["both"] == {"3": [31, 31]}
    judged = {(bar["stage"], bar["env"]) for bar in shown["failures"]["bars"]}
    assert ("both", "textcraft") not in judged  # no episode to judge


def test_hostile_text_stays_data(tmp_path):
    settings = fake_run.make_settings()
    attack = "</script><script>alert(1)</script><!--\ud800"
    settings = dataclasses.replace(settings, name=attack.removesuffix("\ud800"))
    fake_run.write_run(tmp_path, settings)
    trajectory = fake_run.make_trajectory(
        actions=(attack,), observations=(attack,), final=attack
    )
    store(tmp_path, "evaluation.both.textcraft.jsonl", trajectory)

    page = write(tmp_path)

    assert len(page.scripts) == len(assets.SCRIPTS)
    assert page.state["runs"][0]["overview"]["name"] == settings.name
    assert page.unpack("episodes_0_0000")[-1]["final_observation"] == attack
    assert "<script>alert" not in (tmp_path / report.FILE).read_text()
    with pytest.raises(ValueError, match="holds a '<'"):
        assets.whole_page("x", [("state", '"</script>"')])


def test_a_run_in_its_first_stage_has_a_page(tmp_path):
    fake_run.write_run(tmp_path)
    for path in (tmp_path / results.FOLDER).iterdir():
        path.unlink()
    lines = (tmp_path / metrics.FILE).read_text().splitlines(keepends=True)
    (tmp_path / metrics.FILE).write_text("".join(lines[:3]))
    for path in (tmp_path / episodes.FOLDER).iterdir():
        path.unlink()

    shown = write(tmp_path).state["runs"][0]

    assert [stage["done"] for stage in shown["overview"]["stages"]] == [3, 0, 0]
    assert shown["results"] is None
    assert shown["episodes"]["total"] == 0


def test_directory_without_iterations_is_refused(tmp_path):
    with pytest.raises(errors.ConfigError, match=r"holds no run.json"):
        write(tmp_path)
    fake_run.write_run(tmp_path)
    (tmp_path / metrics.FILE).unlink()
    with pytest.raises(errors.ConfigError, match=r"holds no metrics.jsonl"):
        write(tmp_path)


def test_damaged_files_are_named(tmp_path):
    fake_run.write_run(tmp_path)
    with (tmp_path / metrics.FILE).open("a") as file:
        file.write("oops\n")
    with pytest.raises(errors.DamagedFileError, match=r"metrics.jsonl:25 is not JSON"):
        write(tmp_path)
    fake_run.write_run(tmp_path / "other")
    with (tmp_path / "other" / episodes.FOLDER / "both.jsonl").open("a") as file:
        file.write('{"stage": 3}\n')
    with pytest.raises(errors.DamagedFileError, match="not a stored episode"):
        write(tmp_path / "other")


def test_seeds_are_averaged_and_runs_compared_task_by_task(tmp_path):
    settings = fake_run.make_settings()
    for seed, rates in enumerate([(0.25, 0.5), (0.25, 1.0)]):
        workdir = tmp_path / f"seed{seed}"
        fake_run.write_run(workdir, dataclasses.replace(settings, seed=seed))
        for path in (workdir / results.FOLDER).iterdir():
            path.unlink()
        for stage, step, rate in zip(("warm", "both"), (8, 24), rates, strict=True):
            fake_run.make_result(stage, step, "textcraft", rate).save(workdir)
    other = tmp_path / "other"
    fake_run.write_run(other, dataclasses.replace(settings, num_env_workers=5))
    for path in (other / results.FOLDER).iterdir():
        path.unlink()
    fake_run.make_result("both", 24, "textcraft", 0.5, digest="xyz").save(other)

    runs = [tmp_path / "seed0", tmp_path / "seed1", other]
    together = write(*runs[:2], out=tmp_path / "two.html").state["together"]

    (group,) = together["groups"]
    assert group["members"] == [0, 1]
    gains = group["results"]["tables"]["gains"][0]
    assert rows_of(gains)["both, this recipe"] == ["+50.0"]
    (comparison,) = together["comparisons"]
    warm, both = comparison["panels"]
    assert warm["stages"] == ["warm", "warm"] and not warm["called"]
    assert both["success"]["mean"] == 0.5 and both["called"]
    assert both["means"] == [[0.5] * 10, [1.0] * 10]
    three = write(*runs, out=tmp_path / "three.html").state["together"]
    (refused,) = [
        panel
        for one in three["comparisons"]
        for panel in one["panels"]
        if (one["first"], one["second"]) == (0, 2) and panel["stages"][0] == "both"
    ]
    assert refused["refused"] == "other tasks: panel abc, then xyz"


def test_table_for_a_terminal(run):
    table = tables.format_table(results.load_all(run, ["textcraft", "babyai"]))

    rows = [line.split() for line in table.splitlines()]
    assert ["after", "stage", "textcraft", "babyai"] in rows
    assert [
        "both",
        "50.0",
        "[",
        "20.9,",
        "79.1]",
        "100.0",
        "[",
        "66.1,",
        "100.0]",
    ] in rows
    assert "The score equals success in every sample." in table
    assert "One seed: holds for this run only." in table
    assert tables.format_table([]) == "No evaluation has been stored."


def run_command(*arguments):
    return commands.run([sys.executable, "-m", "agentrl.launch.report", *arguments])


def test_command_writes_the_page_and_prints_the_table(run):
    done = run_command(f"--workdir={run}")

    assert done.returncode == 0, done.stderr
    assert "after stage" in done.stdout
    assert f"Report: {run}/report.html" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--help"], "agentrl report --workdir=runs/demo"),
        (["--workdri=x"], "Did you mean: workdir"),
        ([], "--workdir must have a value"),
        (["--workdir=/nowhere"], "launch.report: /nowhere holds no run.json"),
        (["--workdir=/a", "--workdir=/b"], "2 runs share one page"),
    ],
)
def test_command_refuses_and_teaches(arguments, message):
    done = run_command(*arguments)

    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
