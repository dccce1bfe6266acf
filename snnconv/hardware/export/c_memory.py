"""Places of the results of steps in one memory, which results that are not needed at the same time share."""

from snnconv.hardware.integer.program import Program

ELEMENTWISE = ("fire", "times", "requantize", "add")  # an element of the result may take the place of that of the input


def sources(program: Program) -> list[int]:
    """The step in whose memory each result lies: a reshape moves nothing."""
    found = list(range(len(program.steps)))
    for number, step in enumerate(program.steps):
        if step.kind == "reshape":
            found[number] = found[step.inputs[0]]
    return found


def places(program: Program) -> tuple[dict[int, int], int]:
    """The first element of each result, by step, and the number of elements in all; images are the caller's."""
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
    """The first element of the first gap that is large enough."""
    start = 0
    for first, end in taken:
        if first - start >= size:
            break
        start = max(start, end)
    return start
