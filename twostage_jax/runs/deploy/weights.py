"""The weights of a run as a file in the format of safetensors."""

import json
from collections.abc import Mapping

import jax
import numpy as np

from twostage_jax.errors import UserError
from twostage_jax.trees import PyTree

TYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32",
    "int32": "I32", "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16",
    "float32": "F32", "float64": "F64",
}  # fmt: skip
ALIGNMENT = 8


def safetensors_bytes(arrays: Mapping[str, PyTree], metadata: Mapping[str, object]) -> bytes:
    """Return the content of a safetensors file.

    The format is a length of 8 bytes, a header in JSON, and the arrays one after the other.

    Args:
        arrays: by name.
        metadata: texts, or values that become JSON.

    Raises:
        UserError: an array of a type that the format does not have.
    """
    texts = {name: x if isinstance(x, str) else json.dumps(x) for name, x in metadata.items()}
    header: dict[str, object] = {"__metadata__": texts}
    parts = []
    start = 0
    for name, leaf in arrays.items():
        array = np.asarray(jax.device_get(leaf))
        if array.dtype.name not in TYPES:
            raise UserError(f"{name} is {array.dtype}, a type that safetensors does not have")
        content = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        header[name] = {
            "dtype": TYPES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [start, start + len(content)],
        }
        parts.append(content)
        start += len(content)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])
