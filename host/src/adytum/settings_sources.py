"""Where settings come from: a strict YAML file and the environment. Pure but for reading the one file.

A YAML key given twice refuses. In the environment both `APP_TEE_VSOCK_KMSPORT` and viper's literal
`APP_TEE.VSOCK.KMSPORT` name `tee.vsock.kmsPort`; a name under one of our sections that matches no setting refuses, so
that a typing error in `APP_TEE_ALLOWEDPCRS` cannot silently fall back to the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

PREFIX = "APP"
MAX_FILE_BYTES = 256 * 1024

# Names of other owners that are honoured as they are.
ALIASES: dict[str, tuple[str, ...]] = {
    "MPC_TLS_CERT_FILE": ("http", "tls", "certFile"),
    "MPC_TLS_KEY_FILE": ("http", "tls", "keyFile"),
    "MPC_TLS_CA_CERT_FILE": ("http", "tls", "caCertFile"),
    "AWS_ACCESS_KEY_ID": ("aws", "accessKeyId"),
    "AWS_SECRET_ACCESS_KEY": ("aws", "secretAccessKey"),
    "AWS_SESSION_TOKEN": ("aws", "sessionToken"),
}
_LISTS = {("tee", "allowedPCRs"), ("tee", "enclaves")}

Problems = list[tuple[str, str]]


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    if any(keys.count(key) > 1 for key in keys):
        raise yaml.constructor.ConstructorError(None, None, "a key is given twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path, problems: Problems) -> dict[str, Any]:
    """The file's tree, or {} with the reason appended to `problems`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        problems.append((str(path), f"cannot be read ({error.strerror})"))
        return {}
    if len(data) > MAX_FILE_BYTES:
        problems.append((str(path), f"is larger than {MAX_FILE_BYTES} bytes"))
        return {}
    try:
        tree = yaml.load(data, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        problems.append((str(path), f"is not valid YAML{where}: {getattr(error, 'problem', None) or 'unreadable'}"))
        return {}
    if tree is None:
        return {}
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        problems.append((str(path), "must be a mapping of sections"))
        return {}
    return tree


def leaves(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every setting below `model`."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from leaves(kind, (*prefix, name))
        else:
            yield (*prefix, name)


def environment_tree(model: type[BaseModel], environ: Mapping[str, str], problems: Problems) -> dict[str, Any]:
    """The settings that `environ` names, as a tree. Both spellings of one setting with different values refuse."""
    names: dict[str, tuple[str, ...]] = dict(ALIASES)
    for path in leaves(model):
        for separator in ("_", "."):
            names[f"{PREFIX}_{separator.join(path).upper()}"] = path
    sections = tuple(f"{PREFIX}_{s.upper()}{sep}" for s in model.model_fields for sep in ("_", "."))
    tree: dict[str, Any] = {}
    seen: dict[tuple[str, ...], str] = {}
    for name, text in sorted(environ.items()):
        path = names.get(name, ())
        if not path:
            if name.startswith(sections):
                problems.append((name, "names no setting"))
            continue
        if text == "" and name in ALIASES:
            continue
        if path in seen and environ[seen[path]] != text:
            if name in ALIASES or seen[path] in ALIASES:  # ours wins over the alias
                if name in ALIASES:
                    continue
            else:
                problems.append((name, f"contradicts {seen[path]}"))
                continue
        seen[path] = name
        _put(tree, path, _value(path, name, text, problems))
    return tree


def _value(path: tuple[str, ...], name: str, text: str, problems: Problems) -> Any:
    if path not in _LISTS:
        return text
    if not text.lstrip().startswith("["):
        return text  # a comma list; the model splits it
    try:
        return json.loads(text)
    except ValueError:
        problems.append((name, "is not a JSON list"))
        return []


def _put(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value


def merge(base: dict[str, Any], over: Mapping[str, Any]) -> None:
    """Lay `over` on `base`, in place."""
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value
