"""dlib's frontal detector, asked only where a cheap look finds something: the boxes that it gives over a whole picture.

    boxes = frontal_boxes(picture, threshold=-0.1)

dlib slides a window of 80 px over a pyramid of ever smaller pictures, which costs time by the pixel. Here the same
pyramid is made, YuNet looks at a small level of it with a low threshold, and dlib's filters run on those levels alone
in which what YuNet found has about the window's size, and there on a cut around it. A cut begins where dlib's cells of
8 px begin, and is wide enough that features and scores inside are those of the whole level; of boxes that overlap the
best stays, as in dlib. Where nothing is found so, dlib looks at the whole picture. Not here: what size a picture must
have, and landmarks (`preprocessing.photo.detect`).
"""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import dlib
import numpy as np
from numpy.typing import NDArray

from preprocessing.photo.yunet import Rectangle, rough_boxes

Grey = NDArray[np.uint8]

_LOOK_LEVEL = 7
"""The level that YuNet sees, 0.28 of the picture's side: the smallest face that dlib finds has 20 px there. In mosaics
it points to all of 273 faces from that size on; in a picture smaller by a third it missed 3."""
_LOOK_PX = 150
"""Side of the square that has the fewest pixels that YuNet sees: small pictures are reduced less."""
_LOOK_LARGE_PX, _LOOK_STEP = 640, 8
"""In a larger picture a face may be too large for YuNet, which then sees one so many levels smaller too."""
_LOOK_THRESHOLD = 0.02

_RATIO, _DROP = 0.92, 0.08
"""dlib's box over YuNet's side, and how much lower its middle lies, in YuNet's sides: medians of 1,699 portraits."""
_FROM, _TO = 1 / 1.7, 1.7
"""How many times as large as expected dlib's box may be. Of the same portraits it was 0.7 to 1.64 times."""
_AWAY = 0.4
"""How far from its expected place a box may lie, in expected sides along an axis: a third at most."""

_CELL_PX, _WINDOW_PX, _BOX_PX, _STEP = 8, 80, 72, 6 / 5
_CONTEXT_PX = 24
"""How far around its window a score depends on the picture: the neighbours of cells, and these cells' own."""
_FEW_PX, _NARROW_PX = 100_000, 64
"""A picture with fewer pixels is looked at whole, which costs no more than YuNet and the cuts; a narrow one too."""
_MOST_OF_WHOLE = 0.9
"""Share of the whole picture's work from which on it is looked at whole too."""

_log = logging.getLogger(__name__)


class FrontalBox(NamedTuple):
    """What dlib's detector found in a picture: its score, and the rectangle in whole pixels."""

    score: float
    left: int
    top: int
    right: int
    bottom: int


class _Cut(NamedTuple):
    """A part of a level, in pixels: from left and top up to right and bottom, without these."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        return (self.right - self.left) * (self.bottom - self.top)

    def around(self, other: _Cut) -> _Cut:
        return _Cut(*map(min, self[:2], other[:2]), *map(max, self[2:], other[2:]))


class _Pyramid:
    """dlib's pyramid of a grey picture: a level is made when it is first asked for."""

    def __init__(self, picture: Grey) -> None:
        self._levels = [picture]

    def __getitem__(self, number: int) -> Grey:
        while len(self._levels) <= number:
            self._levels.append(np.asarray(_smaller()(self._levels[-1])))
        return self._levels[number]

    def num_levels(self) -> int:
        """How many of them dlib looks at: down to 64 px."""
        rectangle, number = dlib.rectangle(0, 0, self[0].shape[1] - 1, self[0].shape[0] - 1), 0
        while True:
            rectangle, number = _smaller().rect_down(rectangle), number + 1
            if min(rectangle.width(), rectangle.height()) < 64:
                return number


def frontal_boxes(picture: Grey, threshold: float) -> list[FrontalBox]:
    """dlib's boxes of a grey picture, uint8 (height, width), surest first."""
    few = picture.size < _FEW_PX or min(picture.shape) < _NARROW_PX
    return (not few and _boxes_near(picture, threshold)) or whole_boxes(picture, threshold)


def whole_boxes(picture: Grey, threshold: float) -> list[FrontalBox]:
    """The same by dlib alone, wherever they lie."""
    boxes, scores, _ = _detector().run(picture, 0, threshold)
    return [
        FrontalBox(float(score), box.left(), box.top(), box.right(), box.bottom())
        for box, score in zip(boxes, scores, strict=True)
    ]


def _boxes_near(picture: Grey, threshold: float) -> list[FrontalBox]:
    """The boxes near what YuNet finds; none where looking at the whole costs no more."""
    if (tuned := _level_detector()) is None:
        return []
    pyramid = _Pyramid(picture)
    places = _places(pyramid)
    cuts = [_cuts(places, number, pyramid) for number in range(pyramid.num_levels())]
    whole = picture.size / (1 - _STEP**-2)
    if sum(cut.area for level in cuts for cut in level) > _MOST_OF_WHOLE * whole:
        return []
    found: set[FrontalBox] = set()
    for number, level in enumerate(cuts):
        for cut in level:
            found.update(_boxes_in(pyramid[number], number, cut, tuned.detector, threshold))
    return _strongest(found, tuned)


def _places(pyramid: _Pyramid) -> list[tuple[float, float, float]]:
    """Where dlib may find a face: middle in x and y, and side, in pixels of the picture."""
    number = 0
    while number < _LOOK_LEVEL and pyramid[number + 1].size >= _LOOK_PX**2:
        number += 1
    looks = [number]
    while max(pyramid[looks[-1]].shape) > _LOOK_LARGE_PX and min(pyramid[looks[-1]].shape) >= _NARROW_PX:
        looks.append(looks[-1] + _LOOK_STEP)
    places = []
    for look in looks:
        times = pyramid[0].shape[1] / pyramid[look].shape[1], pyramid[0].shape[0] / pyramid[look].shape[0]
        for box in rough_boxes(pyramid[look], _LOOK_THRESHOLD):
            places.append(_place(box, *times))
    return places


def _place(box: Rectangle, times_x: float, times_y: float) -> tuple[float, float, float]:
    left, top, right, bottom = box[0] * times_x, box[1] * times_y, box[2] * times_x, box[3] * times_y
    side = math.sqrt(max(right - left, 1) * max(bottom - top, 1))
    return (left + right) / 2, (top + bottom) / 2 + _DROP * side, _RATIO * side


def _cuts(places: Iterable[tuple[float, float, float]], number: int, pyramid: _Pyramid) -> list[_Cut]:
    """The parts of one level that are looked at: around each place of the window's size, those that overlap as one."""
    times = _STEP**number
    cuts: list[_Cut] = []
    for x, y, side in places:
        if not _FROM < _BOX_PX * times / side < _TO:
            continue
        height, width = pyramid[number].shape
        reach = _AWAY * side / times + _WINDOW_PX / 2 + _CONTEXT_PX
        low = [max(math.floor((middle / times - reach) / _CELL_PX) * _CELL_PX, 0) for middle in (x, y)]
        high = [math.ceil((middle / times + reach) / _CELL_PX) * _CELL_PX for middle in (x, y)]
        cut = _Cut(low[0], low[1], min(high[0], width), min(high[1], height))
        if cut.right <= cut.left or cut.bottom <= cut.top:
            continue
        while joined := [other for other in cuts if cut.around(other).area <= cut.area + other.area]:
            for other in joined:
                cuts.remove(other)
                cut = cut.around(other)
        cuts.append(cut)
    return cuts


def _boxes_in(level: Grey, number: int, cut: _Cut, detector: Any, threshold: float) -> list[FrontalBox]:
    """The boxes of a level's cut that are those of the whole level, in pixels of the picture."""
    height, width = level.shape
    pixels = np.ascontiguousarray(level[cut.top : cut.bottom, cut.left : cut.right])
    boxes, scores, _ = detector.run(pixels, 0, threshold)
    found = []
    for box, score in zip(boxes, scores, strict=True):
        left, top = box.left() + cut.left, box.top() + cut.top
        right, bottom = box.right() + cut.left, box.bottom() + cut.top
        inside = (
            (left - _CONTEXT_PX >= cut.left or cut.left == 0)
            and (top - _CONTEXT_PX >= cut.top or cut.top == 0)
            and (right + _CONTEXT_PX < cut.right or cut.right == width)
            and (bottom + _CONTEXT_PX < cut.bottom or cut.bottom == height)
        )
        if inside:
            whole = dlib.rectangle(left, top, right, bottom)
            if number:
                whole = _smaller().rect_up(whole, number)
            found.append(FrontalBox(float(score), whole.left(), whole.top(), whole.right(), whole.bottom()))
    return found


def _strongest(found: Iterable[FrontalBox], tuned: _Tuned) -> list[FrontalBox]:
    """Of boxes that overlap the one with the highest score, as dlib chooses."""
    kept: list[FrontalBox] = []
    for box in sorted(found, key=lambda box: (-box.score, box[1:])):
        if not any(_overlap(box, other, tuned) for other in kept):
            kept.append(box)
    return kept


def _overlap(one: FrontalBox, other: FrontalBox, tuned: _Tuned) -> bool:
    a, b = (dlib.rectangle(*box[1:]) for box in (one, other))
    shared = a.intersect(b).area()
    return bool(
        shared
        and (
            shared / (a + b).area() > tuned.most_shared
            or shared / min(a.area(), b.area()) > tuned.most_covered
        )
    )


# dlib's detector without its pyramid.


class _Tuned(NamedTuple):
    """The detector for one level, of which no box is dropped, and from what overlaps on dlib would drop one."""

    detector: Any
    most_shared: float
    most_covered: float


_HEADER = {0: 2, 1: 1, 4: 8, 5: 0, 6: 80, 7: 80, 8: 1000, 9: 64, 10: 64, 13: 3100, 18: 5}
"""Of the numbers that the detector's file begins with: formats, cell, padding, window, levels, smallest, filters."""
_LEVELS, _SHARED, _COVERED = 8, 14, 16
_NUM_NUMBERS = 19


@lru_cache(maxsize=1)
def _level_detector() -> _Tuned | None:
    """dlib's detector as its file would have it with one level, and with boxes dropped that are all of another.

    dlib lets Python set neither. None, and a warning, where its file is another one, or has no room here.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "detector.dat"
        try:
            _detector().save(str(path))
        except RuntimeError as error:  # dlib's own words for a full disk
            _log.warning(
                "dlib's detector cannot be written to %s: faces are found slowly: %s",
                folder,
                " ".join(str(error).split()),
            )
            return None
        data = path.read_bytes()
        numbers, end = _read_numbers(data)
        if any(numbers[at] != value for at, value in _HEADER.items()):
            _log.warning(
                "dlib %s keeps its detector in an unknown form: faces are found slowly", dlib.__version__
            )
            return None
        shared, covered = (math.ldexp(numbers[at], numbers[at + 1]) for at in (_SHARED, _COVERED))
        numbers[_LEVELS] = 1
        numbers[_SHARED : _COVERED + 2] = 1, 0, 1, 0  # as mantissa and exponent
        path.write_bytes(b"".join(map(_written_number, numbers)) + data[end:])
        return _Tuned(dlib.fhog_object_detector(str(path)), shared, covered)


def _read_numbers(data: bytes) -> tuple[list[int], int]:
    """The numbers that dlib's file begins with, each a byte of length and sign and then itself; and where they end."""
    numbers, at = [], 0
    for _ in range(_NUM_NUMBERS):
        length, negative = data[at] & 0x0F, data[at] & 0x80
        value = int.from_bytes(data[at + 1 : at + 1 + length], "little")
        numbers.append(-value if negative else value)
        at += 1 + length
    return numbers, at


def _written_number(number: int) -> bytes:
    length = max((abs(number).bit_length() + 7) // 8, 1)
    return bytes([length | (0x80 if number < 0 else 0)]) + abs(number).to_bytes(length, "little")


@lru_cache(maxsize=1)
def _detector() -> Any:
    return dlib.get_frontal_face_detector()


@lru_cache(maxsize=1)
def _smaller() -> Any:
    return dlib.pyramid_down(6)
