"""Every reason that the controllers can write into a condition, read from their source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from kaito.controllers.workspace.pods import CLASSES
from kaito.provisioner import errors

SOURCE = Path(__file__).resolve().parent.parent / "src" / "kaito" / "controllers"
OUTCOMES = {
    "Wait": (0,),
    "Fail": (0,),
    "Proceed": (0,),
    "Finding": (2,),
    "Trouble": (0,),
    "NodeSource": (4, 5),
    "_wait": (1,),
    "_drifted": (0,),
}
"""What makes a condition, and which of its arguments are reasons."""
ATTRIBUTES = ("pending", "failed")
"""Of steps."""
OTHERS = {"NoSchedule", "ReplicaFailure"}
"""Words that stand beside a text and are no reasons: an effect of taints, a condition of Deployments."""
WORD = re.compile(r"[A-Z][a-z]+([A-Z][a-z]+)+")


def reasons() -> set[str]:
    trees = [ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))]
    constants = {name: value for tree in trees for name, value in _constants(tree)}
    found = {reason for tree in trees for reason in _written(tree, constants)}
    clouds = {name for name in vars(errors) if isinstance(vars(errors)[name], type) and _is_error(vars(errors)[name])}
    return {reason for reason in (*found, *CLASSES, *clouds) if reason} - OTHERS


def _is_error(kind: type) -> bool:
    return issubclass(kind, errors.ProviderError)


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield target.id, value.value
            elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                for name, each in zip(target.elts, value.elts, strict=True):
                    if isinstance(name, ast.Name) and isinstance(each, ast.Constant) and isinstance(each.value, str):
                        yield name.id, each.value


def _written(tree: ast.Module, constants: dict[str, str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in OUTCOMES:
            named = [each.value for each in node.keywords if each.arg == "reason"]
            for each in (*named, *(node.args[place] for place in OUTCOMES[node.func.id] if place < len(node.args))):
                yield from _texts(each, constants)
        elif (
            isinstance(node, ast.Tuple)
            and len(node.elts) == 2
            and isinstance(node.elts[1], ast.JoinedStr | ast.Constant)
        ):
            # A reason with its message.
            yield from (text for text in _texts(node.elts[0], constants) if WORD.fullmatch(text))
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.AnnAssign | ast.Assign) and part.value is not None:
                    names = [part.target] if isinstance(part, ast.AnnAssign) else part.targets
                    if any(isinstance(name, ast.Name) and name.id in ATTRIBUTES for name in names):
                        yield from _texts(part.value, constants)


def _texts(node: ast.expr, constants: dict[str, str]) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Name) and node.id in constants:
        yield constants[node.id]
    elif isinstance(node, ast.BoolOp | ast.IfExp):
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.expr):
                yield from _texts(part, constants)
