"""Allocation of the results of steps in one memory; results that are not needed at the same time share space."""

from snnconv.hardware.integer.program import Program

ELEMENTWISE = ("fire", "times", "requantize", "add")  # an element of the result may overwrite the input element


def sources(program: Program) -> list[int]:
    """The step whose memory holds each result; a reshape uses the memory of its input."""
    owners = list(range(len(program.steps)))
    for number, step in enumerate(program.steps):
        if step.kind == "reshape":
            owners[number] = owners[step.inputs[0]]
    return owners


def places(program: Program) -> tuple[dict[int, int], int]:
    """The offset of each result, by step, and the total number of elements; the memory of images belongs to the caller."""
    origin = sources(program)
    last = {origin[program.output]: len(program.steps)}
    for number, step in enumerate(program.steps):
        for source in step.inputs:
            last[origin[source]] = max(last.get(origin[source], 0), number)
    taken: dict[int, tuple[int, int]] = {}  # first element and end of the results that are still needed
    offsets: dict[int, int] = {}
    for number, step in enumerate(program.steps):
        if step.kind in ("image", "reshape"):
            continue
        reused = number if step.kind in ELEMENTWISE else number - 1  # inputs that are read here for the last time
        taken = {other: place for other, place in taken.items() if last.get(other, other) > reused}
        offsets[number] = _gap(sorted(taken.values()), step.size)
        taken[number] = (offsets[number], offsets[number] + step.size)
    return offsets, max(offsets[number] + program.steps[number].size for number in offsets)


def _gap(taken: list[tuple[int, int]], size: int) -> int:
    """The offset of the first gap that is large enough."""
    start = 0
    for first, end in taken:
        if first - start >= size:
            break
        start = max(start, end)
    return start
