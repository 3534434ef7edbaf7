"""YAML text into plain values, by the rules of YAML 1.2 where those of PyYAML (1.1) surprise: `2e-5` is a number,
`1:30` and dates are text, and a key that stands twice is an error."""

from __future__ import annotations

import re
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*$")
_FLOAT = re.compile(
    r"([-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)


class YamlError(ValueError):
    """Text that is no YAML. line: where, counted from 1; 0 where it is not known."""

    def __init__(self, problem: str, line: int = 0) -> None:
        super().__init__(problem)
        self.line = line


def parse_yaml(text: str) -> Any:
    """The one document of a text in dictionaries, lists and scalars; None for empty text. Raises YamlError."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "it is broken"
        if problem.startswith("but ") and error.context:
            problem = f"{error.context}, {problem}"
        raise YamlError(problem, mark.line + 1 if mark else 0) from error
    except yaml.YAMLError as error:
        raise YamlError(str(error).splitlines()[0]) from error
    except RecursionError as error:
        raise YamlError("it is nested too deeply") from error


class _Loader(yaml.SafeLoader):
    """A SafeLoader with the numbers of YAML 1.2 and unique keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as the parent declares it
        first: [(tag, pattern) for tag, pattern in known if tag.removeprefix(_TAG) not in ("int", "float", "timestamp")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping as PyYAML does, but raise an error for a key that stands twice, where PyYAML keeps the
        last."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} stands here for the second time", problem_mark=key.start_mark
                    )
                seen.add((key.tag, key.value))
        return node


def _whole_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_Loader.add_implicit_resolver(f"{_TAG}int", _INT, list("-+0123456789"))
_Loader.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))
_Loader.add_constructor(f"{_TAG}int", _whole_number)
