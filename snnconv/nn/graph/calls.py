"""Calls of ATen operators in an exported graph: names, arguments, and tensors that share memory."""

from typing import Any

from torch import fx


def operation(node: fx.Node) -> str:
    """Name of the operator that `node` calls, without overload: "conv2d", "relu" (also for relu_), "add"."""
    schema = getattr(node.target, "_schema", None)
    name = schema.name.partition("::")[2] if schema else str(getattr(node.target, "__name__", node.target))
    return name.removesuffix("_") if not name.startswith("__") else name


def is_mutable(node: fx.Node) -> bool:
    """Whether `node` changes its first argument in place."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def bound(node: fx.Node) -> dict[str, Any]:
    """Arguments of `node` by name, including defaults."""
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((argument.name for argument in arguments), node.args, strict=False))
    return {a.name: node.kwargs.get(a.name, given.get(a.name, a.default_value)) for a in arguments}


def _viewed(node: fx.Node) -> fx.Node | None:
    """The node of which `node` is a view; None if it is not a view."""
    schema = getattr(node.target, "_schema", None)
    if schema is None or not any(result.alias_info for result in schema.returns) or not node.args:
        return None
    return node.args[0] if isinstance(node.args[0], fx.Node) else None


def alias(source: fx.Node, node: fx.Node) -> fx.Node | None:
    """A node that shares memory with `source` and is used after `node`, which changes `source` in place; None if there is none."""
    root = source
    while (base := _viewed(root)) is not None:
        root = base
    waiting, family = [root], set()
    while waiting:
        member = waiting.pop()
        family.add(member)
        waiting += [user for user in member.users if _viewed(user) is member]
    same = set(unchanged(source)) | {node}
    return next((m for m in family - same if m < node and any(user > node for user in m.users)), None)


def unchanged(source: fx.Node) -> list[fx.Node]:
    """`source` and the nodes of which it is the result of changes in place: all are the same tensor."""
    nodes = [source]
    while is_mutable(nodes[-1]) and isinstance(nodes[-1].args[0], fx.Node):
        nodes.append(nodes[-1].args[0])
    return nodes
