"""Reads the text of a compiled program (HLO): its instructions, how often each runs, and what devices exchange."""

import dataclasses
import math
import re
from collections.abc import Iterator

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
BITS = {"pred": 8, "s4": 4, "u4": 4, **{f"{k}{n}": n for k in "suf" for n in (8, 16, 32, 64)}, "bf16": 16}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"([a-z][\w\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(?:calls|body|condition|to_apply|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction: its name, opcode, text of its result's type, names of its operands, and all of its line."""

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    line: str

    @property
    def op_name(self) -> str:
        """Where JAX made it, such as "jit(train_step)/jvp(...)/encoder/level0_conv/conv_general_dilated"; or ""."""
        found = _OP_NAME.search(self.line)
        return found.group(1) if found else ""

    @property
    def called(self) -> list[str]:
        """Computations that it names."""
        return [name for group in _CALLED.findall(self.line) for name in re.findall(r"[\w.\-]+", group)]


@dataclasses.dataclass(frozen=True)
class Program:
    """Instructions of every computation, and the name of the first to run."""

    computations: dict[str, list[Instruction]]
    entry: str

    def named(self) -> dict[str, Instruction]:
        """All instructions by name; names are unique in a compiled program but for parameters of fusions."""
        return {i.name: i for instructions in self.computations.values() for i in instructions}


def parse(text: str) -> Program:
    """Read the text of `compiled.as_text()`."""
    computations: dict[str, list[Instruction]] = {}
    entry, own = "", None
    for line in text.splitlines():
        if found := _COMPUTATION.match(line):
            own = computations.setdefault(found.group(2), [])
            entry = found.group(2) if found.group(1) else entry
        elif own is not None and (found := _INSTRUCTION.match(line)):
            own.append(_instruction(found.group(1), found.group(2), line))
    if not entry:
        raise ValueError("no ENTRY computation in this text")
    return Program(computations, entry)


def _instruction(name: str, text: str, line: str) -> Instruction:
    # The type comes first: an array, or a tuple in brackets; with layouts, which hold brackets of their own.
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    opcode = _OPCODE.search(text, end)
    if opcode is None:
        raise ValueError(f"no opcode in {line.strip()[:200]}")
    inside = text[opcode.end() : _closing(text, opcode.end() - 1)]
    return Instruction(name, opcode.group(1), text[:end], tuple(_NAME.findall(inside)), line)


def _closing(text: str, start: int) -> int:
    """Index of the bracket that closes that at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i
    raise ValueError(f"bracket not closed in {text[:200]}")


def array_bytes(type_: str) -> list[int]:
    """Bytes of every array of a type such as "(f32[2,4]{1,0}, bf16[])"; a token or an opaque value has none."""
    return [
        math.ceil(BITS[kind] * math.prod(int(n) for n in shape.split(",") if n) / 8)
        for kind, shape in _ARRAY.findall(type_)
        if kind in BITS
    ]


def trip_count(program: Program, loop: Instruction) -> int:
    """How often a while loop runs: as the compiler noted it, else the constant that its condition compares with."""
    if found := _TRIPS.search(loop.line):
        return int(found.group(1))
    condition = re.search(r"condition=%?([\w.\-]+)", loop.line)
    inside = program.computations[condition.group(1)] if condition else []
    limits = {int(n) for i in inside for n in re.findall(r"s32\[\]\S* constant\((\d+)\)", i.line)}
    if len(limits) != 1:
        raise ValueError(f"cannot tell how often the loop {loop.name} runs")
    return limits.pop()


def walk(program: Program) -> Iterator[tuple[Instruction, int, tuple[Instruction, ...]]]:
    """Every instruction that runs, how often in one run of the program, and the loops around it, outermost first.

    Branches of a conditional count as run.
    """

    def inside(name: str, times: int, loops: tuple[Instruction, ...]):
        for instruction in program.computations[name]:
            yield instruction, times, loops
            if instruction.opcode == "while":
                trips = trip_count(program, instruction)
                for body in re.findall(r"body=%?([\w.\-]+)", instruction.line):
                    yield from inside(body, times * trips, (*loops, instruction))
            elif instruction.opcode in ("call", "conditional", "fusion", "async-start"):
                for called in instruction.called:
                    yield from inside(called, times, loops)

    yield from inside(program.entry, 1, ())


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between devices.

    Attributes:
      name: of the instruction; kind: one of COLLECTIVES.
      parts: (bytes, op_name of where it comes from) of every array in it, since compilers put several into one. Bytes
        are those of the whole array: what is reduced or permuted, or what has been gathered.
      times: how often it runs in one run of the program.
      loops: op_name of the loops around it.
    """

    name: str
    kind: str
    parts: tuple[tuple[int, str], ...]
    times: int
    loops: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Of one run."""
        return sum(size for size, _ in self.parts)


def collectives(program: Program, devices: int) -> list[Collective]:
    """All exchanges of a program that runs on so many devices, which all take part in each."""
    named, found = program.named(), []
    for instruction, times, loops in walk(program):
        kind = instruction.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        parts = [part for operand in instruction.operands for part in _leaves(named, named[operand])]
        if instruction.op_name:
            parts = [(size, name or instruction.op_name) for size, name in parts]
        if kind == "all-gather":
            parts = [(devices * size, name) for size, name in parts]
        found.append(Collective(instruction.name, kind, tuple(parts), times, tuple(loop.op_name for loop in loops)))
    return found


def _leaves(named: dict[str, Instruction], instruction: Instruction) -> list[tuple[int, str]]:
    """Bytes and op_name of an array; of one that only holds others, theirs."""
    size = sum(array_bytes(instruction.type))
    known = [named[o] for o in instruction.operands if o in named]
    only_holds = not instruction.op_name and instruction.opcode != "get-tuple-element"
    if only_holds and known and size == sum(sum(array_bytes(i.type)) for i in known):
        return [leaf for i in known for leaf in _leaves(named, i)]
    return [(size, origin(named, instruction))]


def origin(named: dict[str, Instruction], instruction: Instruction, depth: int = 8) -> str:
    """op_name of an instruction, or of what it works on; "" if neither has one."""
    if instruction.op_name or not depth:
        return instruction.op_name
    for operand in instruction.operands:
        if operand in named and (name := origin(named, named[operand], depth - 1)):
            return name
    return ""
