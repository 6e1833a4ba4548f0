"""YAML that somebody else may have written: data alone, by PyYAML's safe loaders, and not more of it than was written.

A few aliases of aliases (`[*a, *a]`) are a few lists to PyYAML, but billions of entries to whatever prints or saves
them. Called by `profiles`, and by the report for a run's params.yaml.
"""

import yaml

_FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SHORT = 10_000  # characters that libyaml cannot be crashed with: some 20 000 open brackets overflow its stack
MOST = 100_000  # entries of lists and mappings, each alias counted as what it stands for


def parse(text: str, loader: type | None = None):
    """The data in `text`, by `loader` or the fastest that is safe for so much text.

    Raises `yaml.YAMLError` for what is no YAML, has dates that are none, is nested too deeply or is too much.
    """
    loader = loader or (_FAST if len(text) < _SHORT else yaml.SafeLoader)
    try:
        reader = loader(text)
        try:
            node = reader.get_single_node()
            if node is not None and _entries(node, {}) > MOST:
                raise yaml.YAMLError(f"its aliases stand for more than {MOST} entries")
            return None if node is None else reader.construct_document(node)
        finally:
            reader.dispose()
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    except ValueError as error:  # such as the 45th of month 13
        raise yaml.YAMLError(str(error)) from None


def _entries(node: yaml.Node, counted: dict[yaml.Node, int | None]) -> int:
    """How many nodes `node` stands for; `counted`: those below which was counted, None while that goes on."""
    if node in counted:
        if counted[node] is None:
            raise yaml.YAMLError(f"an alias stands for what it is part of{node.start_mark}")
        return counted[node]
    counted[node] = None
    below = node.value if isinstance(node, yaml.CollectionNode) else []
    children = [child for item in below for child in (item if isinstance(item, tuple) else (item,))]
    counted[node] = 1 + sum(_entries(child, counted) for child in children)
    return counted[node]
