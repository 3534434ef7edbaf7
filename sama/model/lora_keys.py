"""Keys of LoRA files: what each of them stands for, and which files cannot be used.

Names, types and shapes are enough for this, so a file is checked by its header, and torch is not imported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

COMPUTED = ("float64", "float32", "float16", "bfloat16")
CONVERTED = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
"""Types that weights may be stored in but are not computed in."""

_STORED_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip
_INTEGERS = ("int64", "int32", "int16", "int8", "uint8")  # an alpha may be one

# `.lora_A.weight`, `.lora_A.<adapter>.weight`, `.lora_down.weight`, `.lora_B.bias`, `.alpha`; diffusers before 2024:
# `.lora.down.weight`, `.lora_linear_layer.up.weight`, `.processor.to_q_lora.down.weight`.
_PART = re.compile(
    r"(?:\.lora_(?P<side>A|B|down|up)(?:\.[^.]+)?\.(?P<leaf>weight|bias)"
    r"|\.(?:lora|lora_linear_layer)\.(?P<old_side>down|up)\.(?P<old_leaf>weight|bias)"
    r"|\.processor\.(?P<projection>to_[a-z]+)_lora\.(?P<oldest_side>down|up)\.(?P<oldest_leaf>weight|bias)"
    r"|\.(?P<other>alpha|diff|diff_b|diff_m))$"
)
_SIDES = {"A": "down", "B": "up", "down": "down", "up": "up"}
# Marks in keys that say of another method, in the order in which they are looked for.
_OTHER_METHODS = {
    "lokr_": "LoKr",
    "hada_": "LoHa",
    "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA",
    "lora_mid": "LoCon with a core matrix",
    "glora_": "GLoRA",
    "oft_": "OFT",
    "ia3_": "IA3",
    "vera_lambda": "VeRA",
}


class Part(NamedTuple):
    """The meaning of a key. layer: the name of its layer, in the file's own style. role: "down.weight", "up.weight",
    "down.bias", "up.bias", "alpha", "diff" (of a weight), "diff_b" (of a bias) or "diff_m" (of a modulation)."""

    layer: str
    role: str


class Stored(NamedTuple):
    """Type (torch's name of it) and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of_header(cls, dtype: str, shape: Sequence[int]) -> Stored:
        """The type and shape that a safetensors header gives."""
        return cls(_STORED_TYPES.get(dtype, dtype.lower()), tuple(shape))


def part_of(key: str) -> Part | None:
    """The meaning of a key of a LoRA file, or None for one that belongs to no LoRA."""
    found = _PART.search(key)
    if found is None:
        return None
    layer = key[: found.start()]
    if found["other"]:
        return Part(layer, found["other"])
    if found["projection"]:
        projection = "to_out.0" if found["projection"] == "to_out" else found["projection"]
        return Part(f"{layer}.{projection}", f"{found['oldest_side']}.{found['oldest_leaf']}")
    side, leaf = found["side"] or found["old_side"], found["leaf"] or found["old_leaf"]
    return Part(layer, f"{_SIDES[side]}.{leaf}")


def complaint(tensors: Mapping[str, Stored]) -> str | None:
    """Why the tensors of a file cannot be used as a LoRA, as the rest of a sentence that begins with the file's name;
    None if nothing speaks against them."""
    other = _other_method(tensors)
    if other is not None:
        return other
    parts = {key: part_of(key) for key in tensors}
    foreign = [key for key, part in parts.items() if part is None]
    if foreign or not parts:
        shown = f" ({', '.join(map(plain, foreign[:3]))})" if foreign else ""
        return f"is not a LoRA for SAMA or Wan: it holds other weights{shown}; choose a file made by LoRA training."
    for key, part in parts.items():
        said = _unusable(part.role, tensors[key]) if part else None
        if said is not None:
            return f"{said} ({plain(key)}); save the LoRA again from its trainer."
    return None


def plain(words: str, longest: int = 120) -> str:
    """Words of a file as one short line: no control characters, single spaces, the end cut off."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def _other_method(keys: Mapping[str, Stored]) -> str | None:
    for mark, method in _OTHER_METHODS.items():
        key = next((key for key in keys if re.search(rf"(?:^|[._]){mark}", key)), None)
        if key is not None:
            return (
                f"is a {method}, which is another method than LoRA ({plain(key)}); "
                "convert it to a LoRA, or choose a file trained as one."
            )
    return None


def _unusable(role: str, tensor: Stored) -> str | None:
    allowed = (*COMPUTED, *CONVERTED, *(_INTEGERS if role == "alpha" else ()))
    if tensor.dtype not in allowed:
        return f"holds {tensor.dtype} numbers, which are no weights of a LoRA"
    count = 1
    for side in tensor.shape:
        count *= side
    if role == "alpha" and count != 1:
        return f"has an alpha of {count} numbers instead of one"
    if role in ("down.weight", "up.weight"):
        if len(tensor.shape) > 2:
            return "changes a convolution, where only linear layers can be changed"
        if len(tensor.shape) == 2 and tensor.shape[0 if role == "down.weight" else 1] == 0:
            return "has a matrix of rank 0"
    if count == 0:
        return "holds an empty tensor"
    return None
