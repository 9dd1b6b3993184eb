"""The rooms of docs/architecture.md: who may import whom, and how large they may be."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "agentrl"

# Every room, from the lowest to the highest, and the rooms it may import: all of them
# stand above it in this table, so that there is no upward import and no cycle.
MAY_IMPORT = {
    "envs": "",
    "errors": "",
    "storage": "errors",
    "refusals": "envs errors",
    "types": "",
    "ops": "",
    "kernels": "",
    "models": "errors types ops kernels",
    "config": "envs errors models",
    "parallel": "envs refusals errors types config",
    "hardware": "envs errors models",
    "clusters": "errors",
    "initial": "types models",
    "pretrained": "errors storage types models",
    "sources": "errors types models pretrained",
    "chat": "envs storage errors pretrained sources",
    "supervised": "envs errors types config sources chat",
    "engine": "errors types models config parallel",
    "rollout": "envs errors types config parallel chat engine",
    "pending": "envs errors types config parallel chat engine rollout",
    "learner": "errors types ops config",
    "experiment": (
        "envs storage errors types models config parallel hardware pretrained sources "
        "learner"
    ),
    "checkpoints": "errors storage types models experiment",
    "buckets": "errors storage",
    "transcripts": "envs errors storage types config",
    "statistics": "errors storage config transcripts",
    "loggers": "storage errors types config",
    "reporting": (
        "envs storage errors types config experiment transcripts statistics loggers"
    ),
    "judging": "envs errors types transcripts statistics",
    "webpage": (
        "envs refusals storage errors types config hardware experiment transcripts "
        "statistics reporting"
    ),
    "live": "refusals webpage",
    "run": (
        "envs checkpoints storage errors types ops models config parallel hardware "
        "initial pretrained sources chat supervised engine rollout pending learner "
        "experiment "
        "transcripts "
        "statistics "
        "reporting"
    ),
    "preflight": "envs errors types config chat supervised run",
    "programs": "types config parallel hardware engine learner run",
    "planning": (
        "envs errors types models config parallel hardware pretrained engine learner "
        "experiment run programs"
    ),
    "export": (
        "errors checkpoints storage types models config parallel pretrained sources chat "
        "experiment run"
    ),
    "evaluation": (
        "envs checkpoints storage errors types ops models config parallel chat rollout "
        "learner experiment transcripts statistics reporting run"
    ),
    "play": (
        "envs checkpoints errors types ops models config parallel pretrained sources chat "
        "engine rollout experiment run"
    ),
    "advice": (
        "envs errors types config models chat supervised learner experiment run"
    ),
    "actor": "types parallel hardware learner rollout pending reporting run",
    "loop": (
        "checkpoints errors types config parallel hardware supervised learner "
        "evaluation statistics reporting pending run actor"
    ),
    "session": (
        "errors preflight planning checkpoints supervised storage types models config "
        "parallel hardware pretrained sources learner experiment statistics loggers "
        "reporting webpage run loop"
    ),
    "study": (
        "envs checkpoints storage errors config hardware experiment transcripts "
        "statistics reporting"
    ),
    "findings": "envs errors storage experiment transcripts statistics reporting study",
    "study_page": "storage errors experiment transcripts statistics study findings",
    "api": "envs errors buckets config experiment statistics evaluation play session",
    "launch": (
        "envs buckets config clusters programs planning refusals errors export "
        "evaluation "
        "parallel hardware pretrained experiment transcripts statistics reporting judging "
        "webpage live run play advice session study "
        "findings study_page "
        "api"
    ),
    "experiments": "envs config models pretrained study",
}
READING_PATH = ("loop.py", "actor.py", "types.py", "rollout", "learner", "ops")
MAX_FUNCTION, MAX_MODULE = 60, 500
MAX_ROOM, MAX_READING_PATH = 1600, 4000
UNLIMITED_ROOMS = ("envs", "launch", "experiments")  # each module stands by itself


def files_of(room):
    base = PACKAGE / room
    return (
        sorted(base.resolve().rglob("*.py"))
        if base.is_dir()
        else [base.with_suffix(".py")]
    )


def first_party_imports(path):
    """Dotted names of what a file imports of this repository."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (n for n in names if n.split(".")[0] in TOP_LEVEL)


TOP_LEVEL = {path.stem for path in ROOT.iterdir()} - {"docs"}


def lines_of(path):
    return path.read_text().count("\n")


def test_every_room_is_in_the_table_and_below_who_imports_it():
    rooms = {
        path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"
    } - {"__init__", "__pycache__", "py"}
    assert rooms == set(MAY_IMPORT)
    order = list(MAY_IMPORT)
    for room, imported in MAY_IMPORT.items():
        for other in imported.split():
            assert order.index(other) < order.index(room), f"{room} imports {other}"


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_they_may(room):
    allowed = {room, *MAY_IMPORT[room].split()}
    for path in files_of(room):
        for name in first_party_imports(path):
            package, _, rest = name.partition(".")
            assert package == "agentrl", f"{path} imports {name}: say agentrl.{name}"
            if rest:  # else the package itself, for its version
                assert rest.split(".")[0] in allowed, f"{path} must not import {name}"


def python_files():
    """Of all code that people read, tests and benchmarks included."""
    for folder in ("agentrl", "envs", "launch", "experiments", "benchmarks", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not any(parent.is_symlink() for parent in path.parents):
                yield path


@pytest.mark.parametrize(
    "path", list(python_files()), ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_functions_and_modules_stay_small(path):
    assert lines_of(path) <= MAX_MODULE
    for name, length in functions_of(path).items():
        assert length <= MAX_FUNCTION, f"{name} has {length} lines"


def functions_of(path):
    """Lines of each function; of those with one name, of the longest."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            found[node.name] = max(length, found.get(node.name, 0))
    return found


@pytest.mark.parametrize(
    "path", list(python_files()), ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_modules_are_imported_under_their_own_names(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [(f"{node.module}.{a.name}", a.asname) for a in node.names]
        elif isinstance(node, ast.Import):
            names = [(a.name, a.asname) for a in node.names]
        else:
            continue
        for name, alias in names:
            ours = name.split(".")[0] in TOP_LEVEL
            assert not (ours and alias), f"import {name} as itself, not as {alias}"


@pytest.mark.parametrize("room", sorted(set(MAY_IMPORT) - set(UNLIMITED_ROOMS)))
def test_rooms_stay_small(room):
    assert sum(map(lines_of, files_of(room))) <= MAX_ROOM


def test_the_reading_path_is_short():
    assert reading_path() <= MAX_READING_PATH


def reading_path():
    names = [name.removesuffix(".py") for name in READING_PATH]
    return sum(lines_of(path) for name in names for path in files_of(name))


def test_what_comes_next_to_its_limit():
    """Prints it with `-s`: what to split next."""
    functions, modules = {}, {}
    for path in python_files():
        name = path.relative_to(ROOT).as_posix()
        modules[name] = lines_of(path)
        functions |= {f"{name} {f}": n for f, n in functions_of(path).items()}
    rooms = {
        room: sum(map(lines_of, files_of(room)))
        for room in MAY_IMPORT
        if room not in UNLIMITED_ROOMS
    }
    print()
    for kind, found, limit in (
        ("function", functions, MAX_FUNCTION),
        ("module", modules, MAX_MODULE),
        ("room", rooms, MAX_ROOM),
    ):
        longest = sorted(found, key=found.__getitem__)[:-4:-1]
        shown = ", ".join(f"{name} {found[name]}" for name in longest)
        print(f"longest {kind} (limit {limit}): {shown}")
        assert len(found) > 20
    print(f"reading path (limit {MAX_READING_PATH}): {reading_path()}")


def test_environments_and_workers_load_without_jax():
    code = (
        "import sys; from agentrl.envs import pool, registry, worker;"
        "[registry.get_spec(name) for name in registry.names()];"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "name", [path.stem for path in (ROOT / "launch").glob("[a-z]*.py")]
)
def test_commands_import_jax_only_when_they_run(name):
    code = f"import sys, agentrl.launch.{name}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
