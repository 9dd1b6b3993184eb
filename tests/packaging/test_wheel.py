"""What pip installs is one package, which a user's own folders cannot break."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import zipfile

import pytest

from agentrl.launch import console

ROOT = pathlib.Path(__file__).parents[2]
IGNORED = shutil.ignore_patterns(
    ".git", ".venv", "build", "runs", "*.egg-info", "__pycache__", ".[a-z]*_cache"
)
pytestmark = pytest.mark.slow  # asks a package index for the build's requirements


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the checkout, so that no earlier build gets into the wheel."""
    copy = tmp_path_factory.mktemp("source") / "agentrl-jax"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=IGNORED)
    return copy


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-deps", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", "wheel", *options, source)
    (path,) = folder.glob("agentrl_jax-*.whl")
    return path


def make_environment(folder, *arguments):
    """An environment that sees this one's libraries, but not its agentrl."""
    run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", *arguments)
    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    libraries = run(sys.executable, "-c", ask).strip()
    inner = pathlib.Path(run(python, "-c", ask).strip())
    # Only the folder is added: `.pth` files inside it, of editable installs, do not count.
    (inner / "libraries_of_the_tests.pth").write_text(libraries + "\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    return make_environment(tmp_path_factory.mktemp("installed") / "venv", wheel)


@pytest.fixture(scope="module")
def editable(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("editable") / "venv"
    return make_environment(folder, "--editable", source)


@pytest.fixture(scope="module")
def users_directory(tmp_path_factory):
    """A directory whose names meet ours; to import any of them is an error."""
    folder = tmp_path_factory.mktemp("user")
    for name in ("envs", "launch", "conversations", "experiments", "pretrained"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('the user's')")
    for name in ("reporting", "tests", "session", "config"):
        (folder / f"{name}.py").write_text("raise SystemExit('the user's')")
    return folder


def without_paths():
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}


def test_the_wheel_holds_one_package_and_its_data(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"agentrl"}
    expected = {
        "agentrl/experiments/demo/demo.py",
        *(f"agentrl/envs/data/{p.name}" for p in (ROOT / "envs/data").iterdir()),
        *(
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / "agentrl").rglob("*.*")
            if path.is_file() and "__pycache__" not in path.parts
        ),
    }
    assert not expected - set(names)


@pytest.mark.parametrize("kind", ["installed", "editable"])
def test_commands_run_beside_a_users_own_modules(kind, users_directory, request):
    binaries = request.getfixturevalue(kind)
    options = {"cwd": users_directory, "env": without_paths()}
    assert "agentrl train demo" in run(binaries / "agentrl", "--help", **options)
    run(binaries / "agentrl", "list", "experiments", **options)
    module = [binaries / "python", "-m", "agentrl.launch.play"]
    for command in ([binaries / "agentrl", "play"], module):
        played = run(*command, "--env=textcraft", "--oracle=observational", **options)
        assert "solved" in played
    described = run(binaries / "agentrl", "train", "demo", "--dry_run", **options)
    assert "Memory of each of" in described
    plan = ["plan", "--model=qwen2.5-0.5b", "--accelerator=h100"]
    assert "peak" in run(binaries / "agentrl", *plan, **options)
    ask = "import agentrl, sys; print(agentrl.__file__, 'jax' in sys.modules)"
    where, imports_jax = run(binaries / "python", "-c", ask, **options).split()
    assert (kind == "installed") == where.startswith(str(binaries.parent))
    assert imports_jax == "False"


@pytest.mark.parametrize("kind", ["installed", "editable"])
def test_every_environment_finds_its_data(kind, users_directory, request, tmp_path):
    """Away from a checkout, and where nothing has been built before."""
    command = request.getfixturevalue(kind) / "agentrl"
    options = {
        "cwd": users_directory,
        "env": without_paths() | {"AGENTRL_CACHE": str(tmp_path)},
    }
    for name in ("textcraft", "babyai", "alfworld", "webshop", "searchqa"):
        played = run(
            command, "play", f"--env={name}", "--oracle=observational", **options
        )
        assert "solved" in played
    listed = run(command, "list", "environments", **options)
    assert "alfworld" in listed
    assert "webshop/" in run(command, "list", "subsets", **options)


def test_help_comes_at_once_and_imports_nothing_of_the_user(installed, users_directory):
    options = {"cwd": users_directory, "env": without_paths()}
    for name in console.COMMANDS:
        command = [installed / "agentrl", name, "--help"]
        seconds = []
        for _ in range(3):  # the best of three: other work runs on the machine
            started = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, **options)
            seconds.append(time.perf_counter() - started)
        assert "Traceback" not in done.stderr and re.search(
            rf"agentrl(\.launch\.| ){name}\b", done.stdout
        )
        assert min(seconds) < 1, f"{name} --help takes {seconds}"


@pytest.mark.parametrize("module", ["agentrl.launch.train", "agentrl.launch.train"])
def test_commands_run_in_the_checkout(source, module):
    command = [sys.executable, "-m", module, "demo", "--dry_run"]
    assert "Memory of each of" in run(*command, cwd=source, env=without_paths())
