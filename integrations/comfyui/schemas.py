"""A node's description as a class of ComfyUI's: V3 schema, or classic."""

from __future__ import annotations

from typing import Any

from .described import CATEGORY, WIDGETS, Field, Node


def v3_node(node: Node) -> type:
    """The node as a subclass of `comfy_api.latest.io.ComfyNode`."""
    from comfy_api.latest import io

    def define_schema(cls: type) -> Any:  # noqa: ARG001 - a class method of ComfyUI's
        return io.Schema(
            node_id=node.id,
            display_name=node.title,
            category=CATEGORY,
            description=node.description,
            inputs=[_v3_input(io, field) for field in node.inputs],
            outputs=[
                _v3_type(io, output.kind).Output(display_name=output.name, tooltip=output.tooltip)
                for output in node.outputs
            ],
        )

    def execute(cls: type, **values: Any) -> Any:  # noqa: ARG001
        return io.NodeOutput(*node.execute(values))

    return type(
        node.id, (io.ComfyNode,), {"define_schema": classmethod(define_schema), "execute": classmethod(execute)}
    )


def classic_node(node: Node) -> type:
    """The node as a class with INPUT_TYPES, RETURN_TYPES and FUNCTION."""

    def input_types(cls: type) -> dict[str, dict[str, Any]]:  # noqa: ARG001
        types: dict[str, dict[str, Any]] = {"required": {}, "optional": {}}
        for field in node.inputs:
            types["optional" if field.optional else "required"][field.name] = _classic_input(field)
        return types

    def run(self: Any, **values: Any) -> tuple[Any, ...]:  # noqa: ARG001
        return node.execute(values)

    return type(
        node.id,
        (),
        {
            "INPUT_TYPES": classmethod(input_types),
            "RETURN_TYPES": tuple(output.kind for output in node.outputs),
            "RETURN_NAMES": tuple(output.name for output in node.outputs),
            "OUTPUT_TOOLTIPS": tuple(output.tooltip for output in node.outputs),
            "FUNCTION": "run",
            "CATEGORY": CATEGORY,
            "DESCRIPTION": node.description,
            "run": run,
        },
    )


def _v3_type(io: Any, kind: str) -> Any:
    known = {
        "INT": "Int", "FLOAT": "Float", "STRING": "String", "COMBO": "Combo", "IMAGE": "Image", "MASK": "Mask",
        "VIDEO": "Video",
    }  # fmt: skip
    return getattr(io, known[kind]) if kind in known else io.Custom(kind)


def _v3_input(io: Any, field: Field) -> Any:
    options: dict[str, Any] = {"optional": field.optional, "tooltip": field.tooltip}
    if field.kind in WIDGETS:
        options["default"] = field.default
    if field.kind in ("INT", "FLOAT"):
        options |= {"min": field.low, "max": field.high, "step": field.step}
    if field.seed:
        options["control_after_generate"] = True
    if field.kind == "STRING":
        options["multiline"] = field.multiline
    if field.choices is not None:
        options["options"] = list(field.choices())
    return _v3_type(io, field.kind).Input(field.name, **options)


def _classic_input(field: Field) -> tuple[Any, dict[str, Any]]:
    options: dict[str, Any] = {
        "tooltip": field.tooltip, "default": field.default, "min": field.low, "max": field.high, "step": field.step,
    }  # fmt: skip
    options = {name: value for name, value in options.items() if value is not None}
    if field.seed:
        options["control_after_generate"] = True
    if field.kind == "STRING":
        options["multiline"] = field.multiline
    return (list(field.choices()) if field.choices is not None else field.kind), options
