"""The compiled inner loops of :mod:`.neighbours` and of the search for overlapping loci.

Letters are uint8 codes: 0 to 3 for A, C, G, T, and 4 for N, which matches nothing. Sequences lie end to end in one array;
``ends`` (N + 1) holds where each begins and ends. Numba is imported with this module, so import it on use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

NOTHING = 4  # the code of N
MISMATCH, GAP = -1, -2  # points of a column; a match has 1
MAX_PAIRS = 32  # neighbours that are kept for a window
SIDE = 32  # letters beside a seed that are compared first
MAX_UNLIKE = 9  # differing letters among these: 4 on average at 80 % identity, 15 of random letters
MAX_UNLIKE_SHORT = 12  # the same for windows so short that the letters may lie outside
SHORT = 64
UNRELATED = 0.4  # share of letters that match where the best of some diagonals is taken
LOST = 0.08  # share of letters that match on no one diagonal because of a gap beside them
MIN_GAIN = 7  # letters of 32 that match on another diagonal only; 5 by chance
WIDEST_BAND = 32
MAX_WAITING = 1024  # candidates for an alignment with gaps, which the cells allow for the shortest windows
ACCEPTED = np.int64(1) << 40


def compiled(function: Callable) -> Any:
    """The function as machine code that releases the GIL, kept in Numba's cache where that can be written and read."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except (RuntimeError, OSError):  # neither the package's folder nor the user's cache folder can be written
        return numba.njit(nogil=True)(function)


@compiled
def pack(codes):
    """Two bits a letter, 32 letters a word, N as A; uint64 with two words to spare."""
    words = np.zeros(len(codes) // 32 + 3, np.uint64)
    for position in range(len(codes)):
        words[position >> 5] |= np.uint64(codes[position] & 3) << np.uint64(2 * (position & 31))
    return words


@compiled
def _word(words, position):
    """The 32 letters from a position on."""
    index, shift = position >> 5, np.uint64(2 * (position & 31))
    if shift == 0:
        return words[index]
    return (words[index] >> shift) | (words[index + 1] << (np.uint64(64) - shift))


@compiled
def _unlike(one, other):
    """How many of 32 letters differ."""
    bits = one ^ other
    bits = (bits | (bits >> np.uint64(1))) & np.uint64(0x5555555555555555)
    bits = (bits & np.uint64(0x3333333333333333)) + ((bits >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bits = (bits + (bits >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (bits * np.uint64(0x0101010101010101)) >> np.uint64(56)


@compiled
def _seed(codes, position, offsets):
    """The letters of a spaced seed as a number; -1 if one is N."""
    value = 0
    for offset in offsets:
        code = codes[position + offset]
        if code == NOTHING:
            return -1
        value = value * 4 + code
    return value


@compiled
def build(codes, ends, offsets, stride):
    """(first, places): the places of seed s are ``places[first[s] : first[s + 1]]``, in ascending order.

    Every ``stride``-th place of each sequence is kept.
    """
    span = offsets[-1] + 1
    first = np.zeros(4 ** len(offsets) + 1, np.uint32)
    for sequence in range(len(ends) - 1):
        for position in range(ends[sequence], ends[sequence + 1] - span + 1, stride):
            seed = _seed(codes, position, offsets)
            if seed >= 0:
                first[seed + 1] += np.uint32(1)
    for seed in range(1, len(first)):
        first[seed] += first[seed - 1]
    places = np.empty(first[-1], np.uint32)
    for sequence in range(len(ends) - 1):
        for position in range(ends[sequence], ends[sequence + 1] - span + 1, stride):
            seed = _seed(codes, position, offsets)
            if seed >= 0:
                places[first[seed]] = position
                first[seed] += np.uint32(1)
    for seed in range(len(first) - 1, 0, -1):  # each has moved to where the next began
        first[seed] = first[seed - 1]
    first[0] = 0
    return first, places


@compiled
def owners(ends):
    """For every 64 letters the sequence that the first of them belongs to."""
    found = np.zeros((ends[-1] >> 6) + 1, np.int32)
    sequence = 0
    for block in range(len(found)):
        while sequence + 2 < len(ends) and ends[sequence + 1] <= block << 6:
            sequence += 1
        found[block] = sequence
    return found


@compiled
def _best(points, count):
    """(start, end, matches) of the stretch of columns with the most points; a match has 1, other columns less than 0."""
    best, start, end, score, begin = 0, 0, 0, 0, 0
    for column in range(count):
        score += points[column]
        if score <= 0:
            score, begin = 0, column + 1
        elif score > best:
            best, start, end = score, begin, column + 1
    alike = 0
    for column in range(start, end):
        alike += points[column] > 0
    return start, end, alike


@compiled
def _promising(words, place, own_words, position, count, band, share):
    """Whether an alignment with gaps may do where a diagonal does not.

    That is so if some 32 letters match much better on another diagonal within the band, and ``share`` of all letters match where
    each 32 choose their diagonal.
    """
    unlike, most, shifted = 0, (1 - share) * (count // SIDE * SIDE), False
    for start in range(0, count - SIDE + 1, SIDE):
        letters = _word(own_words, position + start)
        here = least = np.int64(_unlike(_word(words, place + start), letters))
        for shift in range(-band, band + 1):
            if place + start + shift >= 0:
                least = min(least, np.int64(_unlike(_word(words, place + start + shift), letters)))
        shifted |= here - least >= MIN_GAIN
        unlike += least
        if unlike > most:
            return False
    return shifted


@compiled
def _gapped(query, target, diagonal, band, trace, points, of_shorter):
    """Columns of the best alignment, ends free, within ``band`` of a diagonal.

    Fills, from the last column to the first, ``points`` and ``of_shorter`` (whether the column holds a letter of the
    shorter sequence), and returns their number.
    """
    rows, columns, width = len(query), len(target), 2 * band + 1
    worst = -(1 << 30)
    above = np.full(width + 1, worst, np.int32)
    best, best_row, best_cell = worst, 0, 0
    for row in range(rows + 1):
        left = worst
        for cell in range(width):
            column = row + diagonal + cell - band
            if column < 0 or column > columns:
                above[cell], left = worst, worst
                continue
            if row == 0 or column == 0:
                score, way = 0, 0
            else:
                code = query[row - 1]
                score, way = above[cell] + (1 if code == target[column - 1] and code != NOTHING else MISMATCH), 1
                if above[cell + 1] + GAP > score:
                    score, way = above[cell + 1] + GAP, 2  # a letter of the query against a gap
                if left + GAP > score:
                    score, way = left + GAP, 3
            above[cell], trace[row, cell], left = score, way, score
            if (row == rows or column == columns) and score > best:
                best, best_row, best_cell = score, row, cell
    count, row, cell = 0, best_row, best_cell
    while best > worst and trace[row, cell] != 0:
        way, column = trace[row, cell], row + diagonal + cell - band
        if way == 1:
            points[count] = 1 if query[row - 1] == target[column - 1] and query[row - 1] != NOTHING else MISMATCH
        else:
            points[count] = GAP
        of_shorter[count] = way == 1 or (way == 2) == (rows <= columns)
        count += 1
        if way == 1:
            row -= 1
        elif way == 2:
            row, cell = row - 1, cell + 1
        else:
            cell -= 1
    return count


@compiled
def search(
    codes,
    ends,
    words,
    owner,
    first,
    places,
    offsets,
    queries,
    query_ends,
    begin,
    stop,
    within,
    identity,
    coverage,
    matches,
    max_places,
    max_cells,
    half_from,
):
    """The neighbours of the queries from ``begin`` to ``stop`` among the indexed sequences.

    ``within``: the queries are the indexed sequences, and each is compared with those before it. A seed is looked up in up to
    ``max_places`` places, evenly spaced; of queries of ``half_from`` letters or more, every other seed is. A strand is aligned
    with gaps in up to ``max_cells`` cells. Returns arrays: query and sequence (pairs, 2); identity, coverage and reverse
    (pairs, 3); and (3,) how many queries have more than a quarter of their seeds in more places, more than MAX_PAIRS
    neighbours, and more to align.
    """
    span, count = offsets[-1] + 1, len(ends) - 1
    seen, seen_on = np.full(count, -1, np.int64), np.zeros(count, np.int64)
    longest = 2
    for number in range(begin, stop):
        longest = max(longest, query_ends[number + 1] - query_ends[number])
    found = np.empty((64, 2), np.int64)
    shares = np.empty((64, 3), np.float64)
    total, capped = 0, np.zeros(3, np.int64)
    points, of_shorter = np.empty(2 * longest + 80, np.int8), np.empty(2 * longest + 80, np.uint8)
    trace = np.empty((longest + 1, 2 * WIDEST_BAND + 1), np.uint8)
    enough = identity * coverage + UNRELATED * (1 - coverage) - LOST
    waiting, waiting_on = np.empty(MAX_WAITING, np.int64), np.empty(MAX_WAITING, np.int64)
    for number in range(begin, stop):
        forward = queries[query_ends[number] : query_ends[number + 1]]
        length, own, looked_up, frequent, crowded = len(forward), total, 0, 0, False
        limit = np.int64(ends[number]) if within else np.int64(ends[-1])
        allowed = MAX_UNLIKE if length >= SHORT else MAX_UNLIKE_SHORT
        for reverse in range(2):
            query = forward
            if reverse:
                query = np.empty(length, np.uint8)
                for position in range(length):
                    code = forward[length - 1 - position]
                    query[position] = code if code == NOTHING else 3 - code
            own_words, aligned, cells = pack(query), 0, 0
            for position in range(0, length - span + 1, 2 if length >= half_from else 1):
                seed = _seed(query, position, offsets)
                if seed < 0:
                    continue
                here, past = np.int64(first[seed]), np.int64(first[seed + 1])
                if within and past > here and places[past - 1] >= limit:
                    past = here + np.searchsorted(places[here:past], limit)
                number_of = past - here
                looked = min(number_of, max_places)
                looked_up, frequent = looked_up + 1, frequent + (number_of > looked)
                right = _word(own_words, position)
                has_left = position + span >= SIDE
                left = _word(own_words, position + span - SIDE) if has_left else np.uint64(0)
                for step in range(looked):
                    place = np.int64(places[here + step * number_of // looked])
                    if _unlike(_word(words, place), right) > allowed:
                        if not has_left or place + span < SIDE:
                            continue
                        if _unlike(_word(words, place + span - SIDE), left) > allowed:
                            continue
                    other = owner[place >> 6]
                    while ends[other + 1] <= place:
                        other += 1
                    diagonal = place - ends[other] - position
                    way = 2 * diagonal + reverse
                    if seen[other] == number and (seen_on[other] == ACCEPTED or seen_on[other] == way):
                        continue
                    seen[other], seen_on[other] = number, way
                    target = codes[ends[other] : ends[other + 1]]
                    shorter = min(length, len(target))
                    low_end, high_end = max(0, -diagonal), min(length, len(target) - diagonal)
                    band = min(WIDEST_BAND, max(3, shorter // 32))
                    if high_end - low_end + band < coverage * shorter:
                        continue
                    for column in range(high_end - low_end):
                        code = query[low_end + column]
                        same = code == target[low_end + column + diagonal] and code != NOTHING
                        points[column] = 1 if same else MISMATCH
                    start, end, alike = _best(points, high_end - low_end)
                    if end - start >= coverage * shorter - 1e-9 and alike >= max(matches, identity * (end - start) - 1e-9):
                        seen_on[other] = ACCEPTED
                        if total == len(found):
                            found, shares = np.concatenate((found, found)), np.concatenate((shares, shares))
                        found[total, 0], found[total, 1] = number, other
                        shares[total, 0], shares[total, 1], shares[total, 2] = (
                            alike / (end - start),
                            (end - start) / shorter,
                            reverse,
                        )
                        total += 1
                        if total - own >= MAX_PAIRS:
                            break
                    elif _promising(words, place - position + low_end, own_words, low_end, high_end - low_end, band, enough):
                        cells += length * (2 * band + 1)
                        if aligned == MAX_WAITING or (aligned > 0 and cells > max_cells):
                            crowded = True
                            continue
                        waiting[aligned], waiting_on[aligned] = other, diagonal
                        aligned += 1
                if total - own >= MAX_PAIRS:
                    break
            for slot in range(aligned):
                other, diagonal = waiting[slot], waiting_on[slot]
                if total - own >= MAX_PAIRS or (seen[other] == number and seen_on[other] == ACCEPTED):
                    continue
                target = codes[ends[other] : ends[other + 1]]
                shorter = min(length, len(target))
                band = min(WIDEST_BAND, max(3, shorter // 32))
                columns = _gapped(query, target, diagonal, band, trace, points, of_shorter)
                start, end, alike = _best(points, columns)
                covered = 0
                for column in range(start, end):
                    covered += of_shorter[column]
                if covered >= coverage * shorter - 1e-9 and alike >= max(matches, identity * (end - start) - 1e-9):
                    seen[other], seen_on[other] = number, ACCEPTED
                    if total == len(found):
                        found, shares = np.concatenate((found, found)), np.concatenate((shares, shares))
                    found[total, 0], found[total, 1] = number, other
                    shares[total, 0], shares[total, 1], shares[total, 2] = alike / (end - start), covered / shorter, reverse
                    total += 1
            if total - own >= MAX_PAIRS:
                break
        capped[0] += 4 * frequent > looked_up
        capped[1] += total - own >= MAX_PAIRS
        capped[2] += crowded
    return found[:total], shares[:total], capped
