"""Reading our YAML files: plain data only, every fault named by its path in the file."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path

import yaml

from kernelwright.gen.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, which YAML would let the last one win."""


def _no_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[object, object]:
    seen: set[object] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _no_duplicates)


class Node:
    """A value of a data file with its path, so that a complaint names the place.

    Raises:
        ConfigError: from every accessor, when the value is not what is asked for.
    """

    def __init__(self, value: object, file: str, path: str = "$") -> None:
        self.value, self.file, self.path = value, file, path

    def fail(self, problem: str) -> ConfigError:
        return ConfigError(f"{self.file}: {self.path}: {problem}")

    def mapping(self, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Node]:
        """Return the members of a mapping that has all `required` keys and no key besides `optional`."""
        if not isinstance(self.value, Mapping):
            raise self.fail(f"expected a mapping, found {_kind(self.value)}")
        known = [*required, *optional]
        for key in self.value:
            if key not in known:
                raise self.fail(f"unknown key {key!r}; known: {', '.join(known)}")
        for key in required:
            if key not in self.value:
                raise self.fail(f"missing key {key!r}")
        return {str(key): Node(item, self.file, f"{self.path}.{key}") for key, item in self.value.items()}

    def members(self) -> dict[str, Node]:
        """Return the members of a mapping whose keys are free names."""
        if not isinstance(self.value, Mapping):
            raise self.fail(f"expected a mapping, found {_kind(self.value)}")
        return {str(key): Node(item, self.file, f"{self.path}.{key}") for key, item in self.value.items()}

    def items(self) -> list[Node]:
        """Return the elements of a list that is not empty."""
        if not isinstance(self.value, list):
            raise self.fail(f"expected a list, found {_kind(self.value)}")
        if not self.value:
            raise self.fail("expected at least one element, found an empty list")
        return [Node(item, self.file, f"{self.path}[{index}]") for index, item in enumerate(self.value)]

    def one_or_more(self) -> list[Node]:
        """Return the elements of a list, or the value itself as the only one."""
        return self.items() if isinstance(self.value, list) else [self]

    def text(self, allowed: Collection[str] | None = None) -> str:
        if not isinstance(self.value, str):
            raise self.fail(f"expected text, found {_kind(self.value)}")
        if allowed is not None and self.value not in allowed:
            raise self.fail(f"found {self.value!r}; allowed: {', '.join(allowed)}")
        return self.value

    def integer(self, minimum: int | None = None) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            raise self.fail(f"expected an integer, found {_kind(self.value)}")
        if minimum is not None and self.value < minimum:
            raise self.fail(f"found {self.value}; allowed: {minimum} and more")
        return self.value

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.fail(f"expected true or false, found {_kind(self.value)}")
        return self.value


def _kind(value: object) -> str:
    return f"{type(value).__name__} {_brief(value)}"


def _brief(value: object) -> str:
    """Return `repr` of a value, cut short before it is made: a few aliases can stand for billions of elements."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxstring, brief.maxother = 2, 60, 60
    return brief.repr(value)[:80]


def read_yaml(path: Path, schema: int) -> Node:
    """Read a data file that carries `schema: <int>`.

    Raises:
        ConfigError: if the file is missing, is not plain YAML (tags that construct objects are refused), holds a
            key twice, or has another schema.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not plain YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: not plain YAML: nested too deeply") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # of a scalar with a tag that it does not fit
        raise ConfigError(f"{path}: not plain YAML: a value does not fit its type: {str(error)[:200]}") from error
    node = Node(value, path.name)
    found = value.get("schema") if isinstance(value, Mapping) else None
    if found != schema or type(found) is not int:
        raise node.fail(f"schema is {_brief(found)}; this version reads schema {schema}")
    return node
