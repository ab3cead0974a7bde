"""What a compiled program reads from main memory and writes there: `traffic`.

XLA's own count takes an array whole where a kernel only needs a slice of it, and is
missing on some platforms. Here the text of the program is read instead, kernel by
kernel. A slice counts with its size; what stays in a TPU's vector memory does not
count; a matrix product counts each factor once, whatever its tiles read again.
"""

import functools
import re
from typing import NamedTuple

__all__ = ["Traffic", "traffic"]

# How many bytes an entry takes; other types (tokens, flags) are not in memory.
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8, "c64": 8}
# What moves no data.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"}
FREE |= {"optimization-barrier", "partition-id", "copy-done", "slice-done"}
FREE |= {"async-done", "async-update"}
# What needs no more entries of its operands than are wanted of its result.
ENTRYWISE = {"abs", "add", "and", "bitcast", "bitcast-convert", "broadcast"}
ENTRYWISE |= {"ceil", "clamp", "compare", "convert", "copy", "divide"}
ENTRYWISE |= {"exponential", "floor", "is-finite", "log", "maximum", "minimum"}
ENTRYWISE |= {"multiply", "negate", "not", "or", "power", "reduce-precision"}
ENTRYWISE |= {"remainder", "reshape", "reverse", "rsqrt", "select", "sign", "sqrt"}
ENTRYWISE |= {"subtract", "tanh", "transpose", "xor"}
SLICES = {"slice", "dynamic-slice", "gather"}
HOST = "5"  # The number of the host's memory among a TPU's; 0 is left out.


class Buffer(NamedTuple):
    """An array of a program: its number of entries, and its bytes in main memory."""

    size: int
    bytes: int


class Instruction(NamedTuple):
    """A line of a compiled program."""

    name: str
    opcode: str
    result: list[Buffer]
    operands: list[str]
    arguments: str
    attributes: str
    is_root: bool

    @property
    def size(self) -> int:
        """The number of entries of the largest array in the result."""
        return max((buffer.size for buffer in self.result), default=0)

    @property
    def bytes(self) -> int:
        return sum(buffer.bytes for buffer in self.result)

    def called(self, role: str = "calls|to_apply") -> str:
        """The name of the computation that it runs."""
        match = re.search(rf"(?:{role})=%?([\w.\-]+)", self.attributes)
        assert match, f"{self.opcode} {self.name} names no computation"
        return match[1]


class Traffic(NamedTuple):
    """What a program costs.

    Attributes:
      bytes: read from and written to main memory.
      copies: how many arrays of the parameters' size are copied there.
      kernels: how many of its kernels read or write as much as a byte for each entry.
    """

    bytes: float
    copies: int
    kernels: int

    def __add__(self, other: "Traffic") -> "Traffic":  # type: ignore[override]
        return Traffic(
            self.bytes + other.bytes,
            self.copies + other.copies,
            self.kernels + other.kernels,
        )


Computation = dict[str, Instruction]


def buffers(shape: str) -> list[Buffer]:
    """The arrays of a shape as it is printed: `(f32[8,2]{1,0:T(8,128)S(1)}, s32[])`."""
    result = []
    for dtype, sizes, layout in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\](\S*)", shape):
        size = functools.reduce(
            lambda n, m: n * int(m), sizes.split(",") * bool(sizes), 1
        )
        space = re.search(r"^\{[^}]*S\((\d+)\)", layout)
        outside = space is not None and space[1] != HOST
        result.append(Buffer(size, 0 if outside else size * BYTES.get(dtype, 0)))
    return result


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """The computations of a compiled program, and the name of its entry."""
    computations: dict[str, Computation] = {}
    entry = ""
    here: Computation = {}
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$", line):
            here = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif match := re.match(
            r"\s+(ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)$", line
        ):
            root, name, shape, opcode, rest = match.groups()
            arguments, attributes = until_closed(rest)
            operands = re.findall(r"%([\w.\-]+)", arguments)
            here[name] = Instruction(
                name,
                opcode,
                buffers(shape),
                operands,
                arguments,
                attributes,
                bool(root),
            )
    return computations, entry


def until_closed(text: str) -> tuple[str, str]:
    """What is before the parenthesis that closes an open one, and what is after it."""
    depth = 1
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[:i], text[i + 1 :]
    return text, ""


def wanted_of_operands(
    instruction: Instruction, wanted: float, here: Computation
) -> list[float]:
    """How many entries of each operand it takes for so many of its result."""
    sizes = [here[name].size for name in instruction.operands]
    opcode = instruction.opcode
    if opcode in ENTRYWISE:
        return [min(wanted, size) for size in sizes]
    if opcode in SLICES:
        return [min(wanted, sizes[0]), *sizes[1:]]
    if opcode == "dynamic-update-slice":  # In place.
        return [0, *sizes[1:]]
    if opcode == "reduce":
        return [size * wanted / max(instruction.size, 1) for size in sizes]
    return list(map(float, sizes))


def written(instruction: Instruction, here: Computation) -> int:
    """Bytes of its result; of an update in place those of the update."""
    if instruction.opcode == "dynamic-update-slice":
        return here[instruction.operands[1]].bytes
    return instruction.bytes


def of_fusion(fusion: Instruction, here: Computation, fused: Computation) -> float:
    """Bytes of one kernel: of its operands what is wanted of them, and its result."""
    wanted = dict.fromkeys(fused, 0.0)
    for name, instruction in reversed(fused.items()):  # Users before what they use.
        if instruction.is_root:
            wanted[name] = instruction.size
        each = wanted_of_operands(instruction, wanted[name], fused)
        for operand, entries in zip(instruction.operands, each, strict=True):
            # Samples of one array add up; whole arrays are read once.
            size, before = fused[operand].size, wanted[operand]
            whole = max(entries, before) > size / 2
            wanted[operand] = max(entries, before) if whole else entries + before
    total = 0.0
    for name, instruction in fused.items():
        if instruction.opcode == "parameter":
            given = here[fusion.operands[int(instruction.arguments)]]
            total += given.bytes * wanted[name] / max(instruction.size, 1)
        if instruction.is_root:
            parts = [fused[o] for o in instruction.operands]
            roots = parts if instruction.opcode == "tuple" else [instruction]
            in_place = sum(root.bytes - written(root, fused) for root in roots)
            total += max(fusion.bytes - in_place, 0)
    return total


def traffic(program: str, size: int) -> Traffic:
    """What a compiled program costs; `size` entries and more count as an array."""
    computations, entry = parse(program)

    def of_computation(name: str) -> Traffic:
        here = computations[name]
        costs = (of_instruction(instruction, here) for instruction in here.values())
        return sum(costs, start=Traffic(0, 0, 0))

    def of_instruction(instruction: Instruction, here: Computation) -> Traffic:
        opcode = instruction.opcode
        if opcode in FREE:
            return Traffic(0, 0, 0)
        if opcode in ("call", "async-start"):
            return of_computation(instruction.called())
        if opcode == "while":
            known = re.search(r"known_trip_count\D*(\d+)", instruction.attributes)
            once = of_computation(instruction.called("body"))
            return once._replace(bytes=once.bytes * int(known[1] if known else 1))
        if opcode == "conditional":
            branches = re.findall(r"%([\w.\-]+)", instruction.attributes.split("}")[0])
            return max(map(of_computation, branches))
        touched = [instruction, *(here[o] for o in instruction.operands)]
        large = max(x.size for x in touched) >= size
        if opcode in ("copy-start", "slice-start"):
            parts = [b.bytes for b in instruction.result]
            moved = sum(parts) if opcode == "copy-start" else 2 * parts[-2]
            # To or from a TPU's vector memory is no copy, but a part of reading it.
            copied = large and opcode == "copy-start" and min(parts[:2]) > 0
            return Traffic(moved, int(copied), int(copied))
        if opcode == "fusion":
            fused = computations[instruction.called()]
            opcodes = {x.opcode for x in fused.values()}
            copied = large and opcodes <= {"parameter", "copy", "bitcast"}
            cost = of_fusion(instruction, here, fused)
            return Traffic(cost, int(copied), int(cost >= size))
        each = wanted_of_operands(instruction, instruction.size, here)
        cost = written(instruction, here)
        for operand, entries in zip(instruction.operands, each, strict=True):
            cost += here[operand].bytes * entries / max(here[operand].size, 1)
        return Traffic(cost, int(large and opcode == "copy"), int(cost >= size))

    return of_computation(entry)
