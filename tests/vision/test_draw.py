from itertools import pairwise

import numpy as np
import pytest

from edgeseg.vision.detections import Detections
from edgeseg.vision.draw import colour_of, draw


def found(shape, masks=True) -> Detections:
    h, w = shape
    full = np.zeros((2, h, w), bool)
    full[0, h // 4 : h // 2, w // 4 : w // 2] = True
    boxes = [[w // 4, h // 4, w // 2, h // 2], [0, 0, w, h]]
    return Detections(boxes, [0.9, 0.3], [0, 7], full if masks else None, tuple("abcdefgh"), shape)


@pytest.mark.parametrize("shape", [(240, 320), (1, 1), (3, 700), (1500, 2000)])
@pytest.mark.parametrize("masks", [True, False])
def test_any_size(shape, masks):
    image = np.full((*shape, 3), 90, np.uint8)
    picture = draw(image, found(shape, masks))
    assert picture.shape == image.shape and picture.dtype == np.uint8
    assert (image == 90).all() and (picture != 90).any()


def test_masks_are_tinted_in_the_colour_of_their_class():
    image = np.zeros((240, 320, 3), np.uint8)
    picture = draw(image, found((240, 320)), labels=False, alpha=0.5)
    np.testing.assert_allclose(picture[90, 120], np.array(colour_of(0)) / 2, atol=1)
    assert (picture[150, 200] == 0).all()


def test_nothing_to_draw():
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    nothing = Detections(np.zeros((0, 4)), [], [], None, ("a",), (50, 60))
    np.testing.assert_array_equal(draw(image, nothing), image)
    assert draw(image[..., 0], nothing).shape == (50, 60, 3)


def test_the_image_must_be_the_detections_own():
    with pytest.raises(ValueError):
        draw(np.zeros((10, 10, 3), np.uint8), found((20, 20)))


def test_colours_differ():
    colours = [colour_of(i) for i in range(80)]
    assert len(set(colours)) == 80
    near = [np.abs(np.subtract(a, b)).sum() for a, b in pairwise(colours)]
    assert min(near) > 100


def test_labels_do_not_hide_each_other_and_the_best_hides_what_has_no_room():
    image, names = np.zeros((480, 640, 3), np.uint8), tuple("abcdefghijklmnop")
    boxes = [[200 + k, 200 + k, 420 + k, 330 + k] for k in range(12)]  # six have a place of their own above, inside, below
    scores = [0.9 - k / 100 for k in range(12)]
    plates = []
    for n in (6, 12):
        found = Detections(boxes[:n], scores[:n], list(range(n)), None, names, (480, 640))
        picture = draw(image, found, boxes=False)
        plates.append([int((picture == colour_of(k)).all(axis=2).sum()) for k in range(n)])
    alone = [
        int((draw(image, Detections([b], [s], [k], None, names, (480, 640)), boxes=False) == colour_of(k)).all(axis=2).sum())
        for k, (b, s) in enumerate(zip(boxes, scores))
    ]
    assert plates[0] == alone[:6]
    assert plates[1][0] == alone[0] and min(plates[1][:6]) > 0.9 * min(alone)
