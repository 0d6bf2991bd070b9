"""Writes small ONNX files with nothing but NumPy: the protocol buffers of https://github.com/onnx/onnx, by hand."""

import numpy as np

FLOAT = 1


def message(*fields):
    """Fields are (number, value): an integer, bytes or text."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def node(operator, inputs, output):
    return message(*[(1, name) for name in inputs], (2, output), (3, output), (4, operator))


def tensor(name, values):
    values = np.asarray(values, "<f4")
    return message(*[(1, side) for side in values.shape], (2, FLOAT), (8, name), (9, values.tobytes()))


def rows(name, width):
    """A tensor of any number of rows, so that several requests can run as one batch."""
    shape = message((1, message((2, "rows"))), (1, message((1, width))))
    return message((1, name), (2, message((1, message((1, FLOAT), (2, shape))))))


def network(name, nodes, constants, source, target):
    """The bytes of an ONNX file; `source` and `target` are (name, width) of the only input and output."""
    graph = message(
        *[(1, part) for part in nodes],
        (2, name),
        *[(5, tensor(key, values)) for key, values in constants.items()],
        (11, rows(*source)),
        (12, rows(*target)),
    )
    return message((1, 8), (2, "headway-example"), (7, graph), (8, message((1, ""), (2, 17))))
