"""Derives `alfworld_rooms.json` from the `alfworld` wheel; run it to renew the file.

  python envs/data/derive_alfworld.py

Downloads the wheel without installing it and keeps facts about the 120 floor plans of
AI2-THOR: which receptacles and objects each room has, which receptacles are reached
from the same place, what can hold what, and what can be opened, heated, cooled,
cleaned, sliced or switched on. The wheel's licence is saved beside the facts.
"""

import ast
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping

VERSION = "0.4.2"
FOLDER = pathlib.Path(__file__).parent
_LAYOUT = re.compile(r"alfworld/gen/layouts/FloorPlan(\d+)-objects\.json")


def main() -> None:
    """Downloads the wheel, derives the facts and writes them with the licence."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        subprocess.run([*pip, f"alfworld=={VERSION}", "-d", folder], check=True)
        (path,) = pathlib.Path(folder).glob("*.whl")
        with zipfile.ZipFile(path) as wheel:
            facts = derive(wheel)
            (licence,) = (n for n in wheel.namelist() if n.endswith("info/LICENSE"))
            (FOLDER / "alfworld_LICENSE.txt").write_bytes(wheel.read(licence))
    rooms = facts.pop("rooms")
    lines = (f'"{number}": {_dump(room)}' for number, room in rooms.items())
    head = _dump(facts).removesuffix("}")
    text = head + ',\n"rooms": {\n' + ",\n".join(lines) + "\n}}\n"
    (FOLDER / "alfworld_rooms.json").write_text(text)


def derive(wheel: zipfile.ZipFile) -> dict:
    """Reads the facts from an open wheel."""
    constants = _read_constants(wheel.read("alfworld/gen/constants.py").decode())
    holds = {
        receptacle: sorted(k for k in kinds if not k.endswith("Sliced"))
        for receptacle, kinds in sorted(constants["VAL_RECEPTACLE_OBJECTS"].items())
    }
    tables = holds.pop("TableTop")
    holds |= dict.fromkeys(("CoffeeTable", "DiningTable", "SideTable"), tables)
    for kind in constants["MOVABLE_RECEPTACLES"]:
        del holds[kind]  # no action puts things into objects
    able = constants["VAL_ACTION_OBJECTS"]
    rooms = sorted(int(m[1]) for name in wheel.namelist() if (m := _LAYOUT.match(name)))
    return {
        "about": (
            f"Facts about the floor plans of AI2-THOR as in alfworld {VERSION} (MIT, "
            "see alfworld_LICENSE.txt); written by derive_alfworld.py. In a room, "
            "places[kind][n - 1] is the viewpoint of the receptacle 'kind n'; those of "
            "one viewpoint are reached together. other lists receptacles without known "
            "viewpoint. unseen lists the rooms kept for tests."
        ),
        "holds": {kind: holds[kind] for kind in sorted(holds)},
        "containers": sorted(constants["MOVABLE_RECEPTACLES"]),
        "openable": sorted(constants["OPENABLE_CLASS_LIST"]),
        "unseen": [n for n in rooms if (n - 1) % 100 < 6],
        **{
            word.lower(): sorted(k for k in able[word] if not k.endswith("Sliced"))
            for word in ("Heatable", "Coolable", "Cleanable", "Sliceable", "Toggleable")
        },
        "rooms": {str(n): _derive_room(wheel, n, holds) for n in rooms},
    }


def _derive_room(wheel: zipfile.ZipFile, number: int, holds: Mapping) -> dict:
    base = f"alfworld/gen/layouts/FloorPlan{number}-"
    objects = set(json.loads(wheel.read(base + "objects.json")))
    views = json.loads(wheel.read(base + "openable.json"))
    viewpoints: dict[tuple, int] = {}
    places: dict[str, list[int]] = {}
    # Display numbers count downwards in the order of the identifiers.
    for name in sorted(views, key=_mangle, reverse=True):
        kind = name.split("|")[0]
        if name.endswith("Basin"):
            kind += "Basin"
        if kind in holds:
            viewpoint = viewpoints.setdefault(tuple(views[name]), len(viewpoints))
            places.setdefault(kind, []).append(viewpoint)
    movable = {kind for kinds in holds.values() for kind in kinds}
    return {
        "places": dict(sorted(places.items())),
        "other": sorted(objects & set(holds) - set(places)),
        "objects": sorted(objects & (movable | {"DeskLamp"})),
    }


def _mangle(name: str) -> str:
    """The identifier of an object in PDDL files."""
    signs = {"|": "_bar_", "+": "_plus_", "-": "_minus_", ".": "_dot_"}
    return "".join(signs.get(c, c) for c in name).lower()


def _read_constants(source: str) -> dict:
    """Evaluates the assignments of literals in a Python file, without running it."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue  # not a literal; none of those is needed
    return found


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


if __name__ == "__main__":
    main()
