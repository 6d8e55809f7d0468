"""Sorting networks: fixed sequences of comparisons and exchanges that depend only on the number of values.

Batcher's merge exchange (Knuth, The Art of Computer Programming 3, 5.2.2, Algorithm M) for any number of values,
without the comparators that only affect the order among values that are all kept or all dropped.
"""

from functools import lru_cache

Layer = tuple[tuple[int, int], ...]  # pairs of places, disjoint: the smaller value goes to the first
KEPT = "kept"
DROPPED = "dropped"
COMPARED = "compared"


def merge_exchange(count: int) -> list[tuple[int, int]]:
    """The comparators that sort `count` values, in order."""
    comparators = []
    span = 1 << max(0, (count - 1).bit_length() - 1)
    half = span
    while half > 0:
        step = span
        offset = 0
        distance = half
        while True:
            comparators += [(i, i + distance) for i in range(count - distance) if i & half == offset]
            if step == half:
                break
            distance = step - half
            step = step // 2
            offset = half
        half //= 2
    return comparators


@lru_cache(maxsize=64)
def middle(count: int, trim: int) -> tuple[Layer, ...]:
    """Layers after which the places from `trim` to `count - trim` hold the values of those ranks, in any order.

    The network is pruned from its end: a comparator of two places that are both kept or both dropped is not needed,
    unless a later comparator uses one of them.
    """
    use = [KEPT if trim <= place < count - trim else DROPPED for place in range(count)]
    needed = []
    for low, high in reversed(merge_exchange(count)):
        if use[low] == use[high] != COMPARED:
            continue
        use[low] = use[high] = COMPARED
        needed.append((low, high))
    return _layered(needed[::-1], count)


def _layered(comparators: list[tuple[int, int]], count: int) -> tuple[Layer, ...]:
    """Put each comparator into the earliest layer that the comparators before it allow."""
    layers: list[list[tuple[int, int]]] = []
    ready = [0] * count
    for low, high in comparators:
        depth = max(ready[low], ready[high])
        if depth == len(layers):
            layers.append([])
        layers[depth].append((low, high))
        ready[low] = ready[high] = depth + 1
    return tuple(tuple(layer) for layer in layers)
