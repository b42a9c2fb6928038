"""Reading the YAML file: every key with the line where it stands.

The file is read as a tree of nodes, not as Python values: only so are line numbers and duplicate keys known, values
keep the text that was written (`0640` stays `0640`), and no tag can make an object.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from incomingd.config.errors import Problem
from incomingd.config.keys import groups, keys
from incomingd.config.raw import Raw, Reading, unknown_key

FILE_BYTES_MAX: Final = 1 << 20
_PLAIN_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp")
)


def read_file(path: Path) -> Reading:
    """Read a file. What is wrong with it comes back as problems; nothing is raised."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        return Reading.failed(Problem("bad_file", str(path), "", f"cannot be read: {error.strerror}"))
    if len(content) > FILE_BYTES_MAX:
        return Reading.failed(Problem("bad_file", str(path), "", f"is larger than {FILE_BYTES_MAX >> 20} MiB"))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return Reading.failed(Problem("bad_file", f"{path}:{line}", "", "is not UTF-8 text"))
    return _read_text(text, path)


def _read_text(text: str, path: Path) -> Reading:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(filter(None, [error.context, error.problem]))
        return Reading.failed(
            Problem("bad_file", f"{path}:{mark.line + 1}" if mark else str(path), "", f"is not YAML: {said}")
        )
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return Reading.failed(Problem("bad_file", f"{path}:{line}", "", "holds a character that YAML does not allow"))
    except RecursionError:
        return Reading.failed(Problem("bad_file", str(path), "", "is nested too deeply"))
    reading = Reading()
    if root is None or _is_null(root):
        return reading
    if not isinstance(root, yaml.MappingNode):
        source = f"{path}:{root.start_mark.line + 1}"
        reading.problems.append(Problem("bad_file", source, "", "does not hold keys", "key: value, one a line"))
        return reading
    _read_group(root, "", path, reading)
    return reading


def _read_group(group: yaml.MappingNode, prefix: str, path: Path, reading: Reading) -> None:
    seen: dict[str, int] = {}
    for key_node, value_node in group.value:
        line = key_node.start_mark.line + 1
        source = f"{path}:{line}"
        if not isinstance(key_node, yaml.ScalarNode):
            reading.problems.append(Problem("bad_value", source, prefix.rstrip("."), "a key must be a plain word"))
            continue
        name = prefix + key_node.value
        if name in seen:
            message = f"{name} stands here a second time; the first is in line {seen[name]}"
            reading.problems.append(Problem("duplicate_key", source, name, message))
            continue
        seen[name] = line
        _read_pair(name, value_node, source, path, reading)


def _read_pair(name: str, node: yaml.Node, source: str, path: Path, reading: Reading) -> None:
    if name in groups():
        if isinstance(node, yaml.MappingNode):
            _read_group(node, f"{name}.", path, reading)
        elif not _is_null(node):
            example = next(key for key in keys() if key.startswith(f"{name}.")).removeprefix(f"{name}.")
            message = f"{name} is a group of keys, not a value"
            reading.problems.append(
                Problem("bad_value", source, name, message, f"keys such as {example}, each indented below {name}")
            )
    elif name not in keys():
        reading.problems.append(unknown_key(name, source))
    elif _is_null(node) and not keys()[name].optional:
        reading.problems.append(Problem("bad_value", source, name, f"{name} has no value", keys()[name].expects))
    elif isinstance(node, yaml.MappingNode):
        reading.problems.append(
            Problem("bad_value", source, name, f"{name} has no keys below it", keys()[name].expects)
        )
    else:
        try:
            reading.values[name] = Raw(_value(node), source)
        except ValueError as error:
            reading.problems.append(
                Problem("bad_value", source, name, f"{name} is wrong: {error}", keys()[name].expects)
            )


def _value(node: yaml.Node) -> str | list[str]:
    if isinstance(node, yaml.SequenceNode):
        return list(_items(node))
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node)


def _items(node: yaml.SequenceNode) -> Iterator[str]:
    for item in node.value:
        if not isinstance(item, yaml.ScalarNode):
            msg = "an entry of this list is itself a list or a group"
            raise ValueError(msg)  # noqa: TRY004 - the caller reports a mistake of the file, not of the program
        yield _scalar(item)


def _scalar(node: yaml.ScalarNode) -> str:
    if node.tag not in _PLAIN_TAGS:
        msg = f"the tag {node.tag} has no place here"
        raise ValueError(msg)
    # An empty value and `null` mean "none" to the kinds that know it; others refuse it like any wrong text.
    return "null" if _is_null(node) else str(node.value)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"
