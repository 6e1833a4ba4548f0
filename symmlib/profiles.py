"""A profile: one YAML file with the parameters of every notebook, checked before anything starts.

`symmlib run` executes one. The shipped profiles are in notebooks/profiles/; a run's own `params.yaml` is one too.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import yaml

from symmlib import notebooks, safe_yaml
from symmlib.analysis.serving import tier_of
from symmlib.errors import UsageError, unknown
from symmlib.runs import digest

DIRECTORY = notebooks.DIRECTORY / "profiles"
ALLREDUCE = "02_allreduce"
SERVING = "04_serving"
ACCURACY = "05_accuracy"
_KEYS = {"name": str, "description": str, "parameters": dict}


@dataclass(frozen=True)
class Profile:
    """Parameters by notebook, complete with the notebooks' own defaults, so that they say exactly what will run."""

    name: str
    description: str
    parameters: dict[str, dict]

    @cached_property
    def hash(self) -> str:
        """sha256 of what runs; the description does not count."""
        return digest({"name": self.name, "parameters": self.parameters})

    def with_blocks(self, blocks: int) -> "Profile":
        """The same, but its section 04_serving is served in so many blocks, for the verdicts that these earn (`tier`).
        Raises `UsageError` where it has no such section."""
        section = self.serving() | {"blocks": blocks, "tier": tier_of(blocks)}
        return replace(self, parameters=self.parameters | {SERVING: section})

    def with_load(
        self, *, model: str | None = None, tp: list[int] | None = None, qps: list[float] | None = None
    ) -> "Profile":
        """The same for another load: a model, tensor-parallel sizes, request rates, in every section that has them.

        The sizes become the world sizes of 02_allreduce, as the router needs routes for what is served. 05_accuracy,
        whose answers depend little on them, keeps those of its own that are among them, if any. None leaves what the
        profile says. Raises `UsageError` where no section has what is given.
        """
        parameters = {name: dict(section) for name, section in self.parameters.items()}
        changes = {key: value for key, value in (("model", model), ("tp", tp), ("qps", qps)) if value is not None}
        for key, value in changes.items():
            sections = [section for section in parameters.values() if key in section]
            for section in sections:
                section[key] = value
            if key == "tp" and ALLREDUCE in parameters:
                parameters[ALLREDUCE]["world_size"] = value if len(value) > 1 else value[0]
            elif not sections:
                raise UsageError(f"the profile {self.name} has no section with a {key} to change.")
        if tp is not None and (
            kept := [size for size in self.parameters.get(ACCURACY, {}).get("tp", []) if size in tp]
        ):
            parameters[ACCURACY]["tp"] = kept
        said = "".join(f" {key}: {value}." for key, value in changes.items())
        return replace(self, parameters=parameters, description=self.description + said)

    def downloads(self) -> list[str]:
        """What there is to know of models that servers would have to download (`model.to_download`)."""
        from symmlib.serving.model import to_download  # `symmlib doctor` works before torch is there

        models = dict.fromkeys(section["model"] for section in self.parameters.values() if "model" in section)
        return [note for note in map(to_download, models) if note]

    def serving(self) -> dict:
        """Its section 04_serving. Raises `UsageError` where it has none."""
        if SERVING not in self.parameters:
            raise UsageError(f"the profile {self.name} has no section {SERVING}, which says what to serve.")
        return self.parameters[SERVING]

    def dumps(self) -> str:
        """The profile as YAML, as `load` reads it."""
        data = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return yaml.safe_dump(data, sort_keys=False, width=120)


def names() -> list[str]:
    """The shipped profiles."""
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


def load(name: str | Path) -> Profile:
    """The shipped profile `name`, or that in the file `name` (anything with a slash or ending in .yaml).

    Raises `UsageError` for a profile, notebook, or parameter that does not exist, or a value of the wrong type.
    """
    text = str(name)
    is_file = "/" in text or text.endswith((".yaml", ".yml"))
    if not is_file and text not in names():
        raise unknown("profile", text, names())
    path = Path(text) if is_file else DIRECTORY / f"{text}.yaml"
    try:
        data = safe_yaml.parse(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UsageError(f"cannot read the profile {path}: {error.strerror}.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: bytes that are no UTF-8
        raise UsageError(f"{path} is no YAML file: {' '.join(str(error).split())}.") from None
    return parse(data, str(path))


class _Loader(yaml.SafeLoader):
    """YAML, with a key that is given twice refused: the first of two would be lost without a word."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:str" and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value if isinstance(key.value, str) else id(key))
        return super().construct_mapping(node, deep)


def parse(data, source: str) -> Profile:
    """The profile that `data` (as YAML holds it) describes; `source` names it in errors, which are as `load`'s."""
    if not isinstance(data, dict):
        raise UsageError(f"{source}: a profile has the keys {', '.join(_KEYS)}; this one holds {data!r:.40}.")
    for key, value in data.items():
        if key not in _KEYS:
            raise _in(source, unknown("key", key, _KEYS))
        if not isinstance(value, _KEYS[key]):
            raise UsageError(f"{source}: {key} must be of type {_KEYS[key].__name__}, not {value!r:.40}.")
    if missing := [key for key in ("name", "parameters") if not data.get(key)]:
        raise UsageError(f"{source}: a profile needs {' and '.join(missing)}.")
    if not set(data["name"]) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."):
        raise UsageError(
            f"{source}: the name {data['name']!r} becomes part of a directory's: use letters, digits, - _ ."
        )
    complete = {}
    for step, given in sorted(data["parameters"].items(), key=lambda item: str(item[0])):
        if step not in notebooks.names():
            raise _in(source, unknown("notebook", step, notebooks.names()))
        given = {} if given is None else given
        if not isinstance(given, dict):
            raise UsageError(f"{source}: {step} must hold parameters by name, not {given!r:.40}.")
        known = {name: found for name, found in notebooks.parameters_of(step).items() if name != "run_dir"}
        notebooks.check(step, given, source=source, known=known)
        complete[step] = {**{name: parameter.default for name, parameter in known.items()}, **given}
    return Profile(data["name"], data.get("description", ""), complete)


def _in(source: str, error: UsageError) -> UsageError:
    return UsageError(f"{source}: {error}")
