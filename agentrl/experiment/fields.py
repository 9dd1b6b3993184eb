"""Frozen dataclasses by their annotations: values checked, single fields replaced.

Serves both directions in which a configuration enters from outside: stored JSON
(`convert`) and `--set` overrides (`override`).
"""

import ast
import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from agentrl import config, errors
from agentrl.config import algorithm_configs

T = TypeVar("T")


def override(node: T, text: str) -> T:
    """Returns a copy of the dataclass `node` with one field replaced.

    Args:
      node: a frozen dataclass.
      text: `path.to.field=value`. The value is a Python literal; text needs no quotes.

    Raises:
      ConfigError: if the path names nothing, or the value is of another type.
    """
    path, found, value = text.partition("=")
    if not found or not path.strip():
        raise errors.ConfigError(
            f"--set={text}: expected field.path=value, such as --set=seed=1."
        )
    change = _Change(tuple(path.strip().split(".")), value.strip())
    return change.apply(node, type(node), 0)


def convert(value: Any, annotation: Any, where: str) -> Any:
    """Checks `value` against a type annotation, building dataclasses and tuples.

    Args:
      value: a value as JSON or a Python literal gives it.
      annotation: a class, `Literal`, union, `tuple[...]` or `Mapping[...]`.
      where: path of the value, for messages.

    Raises:
      ConfigError: naming the path, if the value does not fit.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        if value in arguments:
            return value
        raise _mismatch(where, value, f"one of {list(arguments)}")
    if origin in (types.UnionType, typing.Union):
        return _convert_union(value, arguments, where)
    if origin is tuple:
        return _convert_tuple(value, arguments, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _mismatch(where, value, "a mapping")
        return {k: convert(v, arguments[1], f"{where}.{k}") for k, v in value.items()}
    if annotation is config.AlgorithmConfig:
        return _convert_algorithm(value, where)
    if dataclasses.is_dataclass(annotation):
        return _convert_dataclass(value, annotation, where)
    if annotation is float and type(value) is int:
        return float(value)
    if type(value) is not annotation:
        wanted = "None" if annotation is types.NoneType else annotation.__name__
        raise _mismatch(where, value, wanted)
    return value


def explain_construction(error: TypeError) -> str | None:
    """Says in one line what was wrong with the arguments of a configuration class.

    Returns:
      None if the error comes from anything else.
    """
    found = re.match(r"(\w+)\.__init__\(\) (.*)", str(error))
    known = {annotation.__name__: annotation for annotation in _find_classes()}
    if found is None or found[1] not in known:
        return None
    name, complaint = found.groups()
    if unknown := re.search(r"unexpected keyword argument '(\w+)'", complaint):
        names = [field.name for field in dataclasses.fields(known[name])]
        return f"{name} has no field {unknown[1]!r}.{_suggest(unknown[1], names)}"
    if "missing" in complaint:
        missing = re.findall(r"'(\w+)'", complaint)
        return f"{name} needs {', '.join(missing)}."
    if "positional" in complaint:
        return f"{name} takes keyword arguments only, such as {name}(field=value)."
    return None


def _find_classes() -> set[type]:
    """All configuration classes that a `RunConfig` may hold."""
    found: set[type] = set()
    waiting: list[Any] = [config.RunConfig]
    waiting += [algorithm_configs.find(name) for name in algorithm_configs.names()]
    while waiting:
        annotation = waiting.pop()
        waiting += typing.get_args(annotation)
        if dataclasses.is_dataclass(annotation) and annotation not in found:
            assert isinstance(annotation, type)
            found.add(annotation)
            waiting += typing.get_type_hints(annotation).values()
    return found


@dataclasses.dataclass(frozen=True)
class _Change:
    """One override on its way down the tree."""

    path: tuple[str, ...]
    text: str

    def apply(self, node: Any, annotation: Any, depth: int) -> Any:
        """The node at `depth` of the path, with what lies below it replaced."""
        if depth == len(self.path):
            return self._parse(annotation)
        key, where = self.path[depth], ".".join(self.path[:depth]) or "the run"
        if node is None and (part := _optional_part(annotation)):
            node = self._make_part(part, where)
        if isinstance(node, config.AlgorithmConfig) and key == "name":
            return self._switch(node, where)
        if dataclasses.is_dataclass(node) and not isinstance(node, type):
            hints = typing.get_type_hints(type(node))
            names = [field.name for field in dataclasses.fields(node)]
            if key not in names:
                raise self._unknown("field", key, where, names)
            child = self.apply(getattr(node, key), hints[key], depth + 1)
            return dataclasses.replace(node, **{key: child})
        if isinstance(node, tuple):
            chosen = self._choose(node, key, where)
            kinds = _member_types(annotation, len(node))
            return tuple(
                self.apply(child, kind, depth + 1) if index in chosen else child
                for index, (child, kind) in enumerate(zip(node, kinds, strict=True))
            )
        if isinstance(node, Mapping):
            kind = typing.get_args(annotation)[1]
            last = depth + 1 == len(self.path)
            if key not in node and not last:
                raise self._unknown("entry", key, where, node)
            return {**node, key: self.apply(node.get(key), kind, depth + 1)}
        raise errors.ConfigError(
            f"--set={'.'.join(self.path)}={self.text}: {where} is {node!r} and has no "
            f"field {key!r}; end the path at {where}."
        )

    def _make_part(self, part: type, where: str) -> Any:
        """An optional part with its defaults, where one of its fields is set."""
        try:
            return part()
        except TypeError as error:
            raise errors.ConfigError(
                f"--set={'.'.join(self.path)}={self.text}: {where} is None, and "
                f"{explain_construction(error) or error} Set it as a whole first: "
                f"--set={where}={{'field': value, ...}}."
            ) from error

    def _switch(self, node: config.AlgorithmConfig, where: str) -> Any:
        """Another algorithm, with the fields that were set if it has them."""
        chosen = algorithm_configs.find(self.text)
        own = {field.name for field in dataclasses.fields(chosen)}
        changed = {
            field.name: getattr(node, field.name)
            for field in dataclasses.fields(node)
            if getattr(node, field.name) != field.default
        }
        if foreign := sorted(changed.keys() - own):
            raise errors.ConfigError(
                f"--set={'.'.join(self.path)}={self.text}: {where} sets "
                f"{', '.join(f'{n} = {changed[n]!r}' for n in foreign)}, which "
                f"{self.text!r} does not have. Say --set={where}={self.text} for its "
                "published settings."
            )
        return chosen(**changed)

    def _choose(self, node: tuple, key: str, where: str) -> set[int]:
        names = [getattr(child, "name", None) for child in node]
        if key == "*":
            return set(range(len(node)))
        if key in names:
            return {names.index(key)}
        if key.isdecimal() and int(key) < len(node):
            return {int(key)}
        known = [name for name in names if name is not None]
        raise self._unknown("member", key, where, known or map(str, range(len(node))))

    def _parse(self, annotation: Any) -> Any:
        where = ".".join(self.path)
        try:
            literal = ast.literal_eval(self.text)
        except (ValueError, SyntaxError):
            return convert(self.text, annotation, f"--set={where}")
        try:
            return convert(literal, annotation, f"--set={where}")
        except errors.ConfigError:
            # Text that looks like another literal: a run named 7.
            if _admits_text(annotation):
                return convert(self.text, annotation, f"--set={where}")
            raise

    def _unknown(
        self, kind: str, key: str, where: str, known: Iterable[str]
    ) -> errors.ConfigError:
        return errors.ConfigError(
            f"--set={'.'.join(self.path)}={self.text}: {where} has no {kind} {key!r}."
            f"{_suggest(key, list(known))}"
        )


def _optional_part(annotation: Any) -> Any:
    """The configuration class of a field that may be None, if it has one."""
    choices = typing.get_args(annotation)
    parts = [choice for choice in choices if dataclasses.is_dataclass(choice)]
    return parts[0] if len(parts) == 1 and types.NoneType in choices else None


def _admits_text(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return str in typing.get_args(annotation)
    return annotation is str


def _member_types(annotation: Any, length: int) -> tuple[Any, ...]:
    arguments = typing.get_args(annotation)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return (arguments[0],) * length
    return arguments


def _convert_union(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    # The exact type first: True must not become 1.0, nor 3 become 3.0.
    if type(value) in choices:
        return value
    others = [choice for choice in choices if choice is not type(None)]
    if len(others) == 1 and isinstance(value, Mapping):
        return convert(value, others[0], where)  # its error names the field inside
    for choice in choices:
        try:
            return convert(value, choice, where)
        except errors.ConfigError:
            continue
    wanted = " or ".join(getattr(choice, "__name__", str(choice)) for choice in choices)
    raise _mismatch(where, value, wanted.replace("NoneType", "None"))


def _convert_tuple(value: Any, arguments: tuple[Any, ...], where: str) -> tuple:
    if not isinstance(value, list | tuple):
        raise _mismatch(where, value, "a tuple")
    if arguments == ((),):
        arguments = ()
    kinds = arguments
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        kinds = (arguments[0],) * len(value)
    if len(kinds) != len(value):
        raise _mismatch(where, value, f"a tuple of {len(kinds)}")
    return tuple(
        convert(member, kind, f"{where}.{index}")
        for index, (member, kind) in enumerate(zip(value, kinds, strict=True))
    )


def _convert_algorithm(value: Any, where: str) -> config.AlgorithmConfig:
    if isinstance(value, config.AlgorithmConfig):
        return value
    if isinstance(value, str):
        return algorithm_configs.find(value)()
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise _mismatch(where, value, "an algorithm's name, or its fields with `name`")
    given = {key: part for key, part in value.items() if key != "name"}
    return _convert_dataclass(given, algorithm_configs.find(value["name"]), where)


def _convert_dataclass(value: Any, annotation: Any, where: str) -> Any:
    if isinstance(value, annotation):
        return value
    if not isinstance(value, Mapping):
        raise _mismatch(where, value, annotation.__name__)
    hints = typing.get_type_hints(annotation)
    known = [field.name for field in dataclasses.fields(annotation)]
    if unknown := [key for key in value if key not in known]:
        raise errors.ConfigError(
            f"{where}: {annotation.__name__} has no field {unknown[0]!r}."
            f"{_suggest(unknown[0], known)}"
        )
    given = {k: convert(v, hints[k], f"{where}.{k}") for k, v in value.items()}
    missing = [
        field.name
        for field in dataclasses.fields(annotation)
        if field.name not in given
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise errors.ConfigError(
            f"{where}: {annotation.__name__} needs {', '.join(missing)}."
        )
    return annotation(**given)


def _suggest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"{hint} It has: {', '.join(known)}."


def _mismatch(where: str, value: Any, wanted: str) -> errors.ConfigError:
    return errors.ConfigError(f"{where}: {value!r} is not {wanted}; give {wanted}.")
