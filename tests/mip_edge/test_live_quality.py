from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mip_edge.errors import OptionError
from mip_edge.live.quality import QualityOptions, rate_crops, rate_parts, sharpness
from mip_edge.spec import Modality
from mip_edge.synthetic.identity import draw_identity
from mip_edge.synthetic.view import ViewOptions, render_crop

OPTIONS = QualityOptions(min_height=40, full_height=128, cut=0.3, border=2.0)
FRAME: NDArray[np.uint8] = (
    cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8), (0, 0), 2)
    .clip(0, 255)
    .astype(np.uint8)
)


def boxes(*rows: tuple[float, float, float, float]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, 4)


def person(number: int, modality: Modality = Modality.VISIBLE, height: int = 256) -> NDArray:
    """A crop without blur or occluders, seen from near."""
    options = ViewOptions((height, height // 2), 0.0)
    return render_crop(draw_identity(5, number), modality, np.random.default_rng(number), options)


def with_grain(crop: NDArray, sigma: float) -> NDArray:
    grain = np.random.default_rng(1).normal(0, sigma, crop.shape[:2])[..., None]
    return np.clip(crop + grain, 0, 255).astype(np.uint8)


def test_what_is_whole_alone_tall_and_sharp_is_rated_one() -> None:
    assert rate_crops(FRAME, boxes((100, 100, 160, 228)), OPTIONS).tolist() == [1.0]


def test_the_parts_are_those_worked_by_hand() -> None:
    rows = boxes(
        (100, 100, 160, 184),  # 84 of 40..128 pixels: half of the way from 0.5 to 1
        (300, 100, 360, 300),  # hidden for a quarter by the next
        (345, 100, 405, 310),
        (0, 240, 60, 400),  # touches the left border
        (500, 400, 560, 560),  # half below the frame
    )
    parts = rate_parts(FRAME, rows, OPTIONS)
    np.testing.assert_allclose(parts.size, [0.75, 1, 1, 1, 0.5 + 0.5 * 40 / 88], rtol=1e-6)
    np.testing.assert_allclose(parts.visible, [1, 0.75, 1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(parts.inside, [1, 1, 1, 0.3, 0.5 * 0.3], rtol=1e-6)
    product = parts.size * parts.sharpness * parts.visible * parts.inside
    np.testing.assert_array_equal(rate_crops(FRAME, rows, OPTIONS), product)


@pytest.mark.parametrize(
    "box",
    [
        (100, 100, 160, 139),  # shorter than 40
        (100, 100, 109, 300),  # narrower than 40 / 4
        (100, 100, 100, 300),
        (160, 300, 100, 100),  # turned inside out
        (700, 100, 800, 300),
        (-200, -300, -50, -20),
        (620, 100, 700, 460),  # inside the frame too, but for 20 pixels: usable
        (float("nan"), 100, 160, 300),
        (100, 100, float("inf"), 300),
    ],
)
def test_unusable_crops_are_rated_zero_and_do_not_disturb_others(
    box: tuple[float, float, float, float],
) -> None:
    rated = rate_crops(FRAME, boxes(box, (300, 100, 360, 300)), OPTIONS)
    assert rated[1] == 1.0
    assert (rated[0] > 0) == (box[0] == 620)


def test_no_boxes_give_no_ratings() -> None:
    assert rate_crops(FRAME, boxes(), OPTIONS).shape == (0,)


def test_two_hundred_people_are_rated_each() -> None:
    grid = boxes(*((x, y, x + 50, y + 120) for x in range(0, 600, 30) for y in range(0, 360, 36)))
    rated = rate_crops(FRAME, grid, OPTIONS)
    assert rated.shape == (200,)
    assert np.isfinite(rated).all()
    assert ((rated >= 0) & (rated <= 1)).all()


@pytest.mark.parametrize("modality", list(Modality))
def test_a_blurred_crop_is_less_sharp_and_grain_does_not_make_up_for_it(modality: Modality) -> None:
    for number in range(8):
        crop = person(number, modality)
        blurred = cv2.GaussianBlur(crop, (0, 0), 8)
        sharp, soft, grainy = sharpness([crop, blurred, with_grain(blurred, 15)])
        assert sharp > 0.6
        assert soft < 0.6 * sharp
        assert grainy < min(soft + 0.2, 0.8 * sharp)


def test_grain_alone_is_not_sharp() -> None:
    for sigma in (4, 15):
        flat = with_grain(np.full((120, 60, 3), 60, np.uint8), sigma)
        assert sharpness([flat])[0] < 0.2
    assert sharpness([np.full((120, 60, 3), 60, np.uint8)])[0] == 0.0


def test_sharpness_of_a_crop_does_not_depend_on_its_company() -> None:
    crops = [person(0), cv2.GaussianBlur(person(1), (0, 0), 4), person(2, height=64)]
    alone = [float(sharpness([crop])[0]) for crop in crops]
    np.testing.assert_array_equal(sharpness(crops), np.array(alone, np.float32))
    assert sharpness([]).shape == (0,)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 50), st.sampled_from(list(Modality)), st.floats(0.5, 6), st.floats(0.5, 6))
def test_more_blur_is_never_rated_higher(
    number: int, modality: Modality, first: float, second: float
) -> None:
    crop = person(number, modality)
    little, much = sorted((first, second))
    looks = [cv2.GaussianBlur(crop, (0, 0), sigma) for sigma in (little, much)]
    less, more = sharpness(looks)
    assert more <= less + 0.02


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 50), st.sampled_from(list(Modality)), st.floats(0.2, 1), st.floats(0.2, 1))
def test_a_smaller_picture_is_never_rated_higher(
    number: int, modality: Modality, first: float, second: float
) -> None:
    crop = person(number, modality)
    rated = []
    for scale in sorted((first, second)):
        size = (round(crop.shape[1] * scale), round(crop.shape[0] * scale))
        small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
        frame = cv2.copyMakeBorder(small, 9, 9, 9, 9, cv2.BORDER_REPLICATE)
        box = boxes((9, 9, 9 + size[0], 9 + size[1]))
        rated.append(float(rate_crops(frame, box, OPTIONS)[0]))
    assert rated[0] <= rated[1] + 0.05


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 300)), min_size=1, max_size=6))
def test_one_more_in_front_never_raises_a_rating(places: list[tuple[int, int]]) -> None:
    rows = boxes(*((x, y, x + 60, y + 150) for x, y in places))
    for count in range(1, len(rows)):
        fewer = rate_crops(FRAME, rows[:count], OPTIONS)
        more = rate_crops(FRAME, rows[: count + 1], OPTIONS)[:count]
        assert (more <= fewer + 1e-6).all()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"min_height": 1}, "--min-height"),
        ({"full_height": 20}, "full_height"),
        ({"cut": 1.5}, "cut"),
        ({"cut": float("nan")}, "cut"),
        ({"border": -1.0}, "border"),
        ({"border": float("nan")}, "border"),
    ],
)
def test_options_that_cannot_be_are_refused(wrong: dict[str, float], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        QualityOptions(**wrong)  # type: ignore[arg-type]
