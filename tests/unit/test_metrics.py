import importlib.util

import cv2
import numpy as np
import pytest
from PIL import Image

from training.evaluation.held_out.metrics import (
    MAXIMUM_PSNR,
    OpticalFlow,
    changed_mask,
    colour_shares,
    gmsd,
    named_colour_match,
    psnr,
    ssim,
)
from training.evaluation.held_out.ocr import read_text, text_accuracy
from training.evaluation.held_out.retrieval import NearestSprite
from training.watch.contact_sheet import contact_sheet


def textured(frames=3, height=48, width=64, seed=0):
    rng = np.random.default_rng(seed)
    picture = cv2.GaussianBlur(rng.uniform(0, 255, (height, width + 32, 3)).astype(np.float32), (0, 0), 2)
    picture = cv2.normalize(picture, None, 20, 235, cv2.NORM_MINMAX).astype(np.uint8)
    return np.stack([picture[:, t : t + width] for t in range(frames)])  # a pan by one pixel a frame


def dominant(clip, mask):
    shares = colour_shares(clip, mask)
    return max(shares, key=shares.get)


def test_psnr_of_a_known_difference():
    a = np.full((2, 8, 8, 3), 100, np.uint8)
    assert psnr(a, a + 10) == pytest.approx(20 * np.log10(255 / 10), abs=1e-3)
    assert psnr(a, (a + 10).astype(np.float32) / 255) == pytest.approx(28.13, abs=0.01)
    assert psnr(a, a) == MAXIMUM_PSNR


def test_psnr_inside_a_mask():
    a = np.zeros((1, 8, 8, 3), np.uint8)
    b = a.copy()
    b[:, :, :4] = 255
    left = np.zeros((1, 8, 8), bool)
    left[:, :, :4] = True
    assert psnr(a, b, left) == pytest.approx(0)
    assert psnr(a, b, ~left) == MAXIMUM_PSNR
    assert np.isnan(psnr(a, b, np.zeros_like(left)))


def test_clips_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        psnr(np.zeros((1, 8, 8, 3), np.uint8), np.zeros((2, 8, 8, 3), np.uint8))


def test_ssim_is_one_for_equal_clips_and_falls_with_blur():
    clip = textured()
    assert ssim(clip, clip) == pytest.approx(1, abs=1e-5)
    soft = [np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in clip]) for sigma in (1, 3)]
    assert 1 > ssim(clip, soft[0]) > ssim(clip, soft[1])
    flat = np.full_like(clip, 100)
    assert ssim(flat, flat + 50) == pytest.approx((2 * 100 * 150 + 6.5) / (100**2 + 150**2 + 6.5), abs=1e-3)


def test_the_edit_mask_is_the_changed_region_and_its_rim():
    source = np.full((2, 20, 20, 3), 90, np.uint8)
    truth = source.copy()
    truth[0, 8:10, 8:10, 1] += 7
    truth[1, 8:10, 8:10] += 6
    mask = changed_mask(source, truth)
    assert mask.dtype == bool and mask.shape == (2, 20, 20)
    assert mask[0].sum() == 6 * 6 and mask[0, 6:12, 6:12].all()
    assert not mask[1].any()
    assert changed_mask(source, truth, dilate=0)[0].sum() == 4


@pytest.mark.parametrize(
    ("rgb", "name"),
    [((255, 0, 0), "red"), ((139, 0, 0), "red"), ((255, 165, 0), "orange"), ((255, 255, 0), "yellow"),
     ((0, 128, 0), "green"), ((144, 238, 144), "green"), ((0, 0, 255), "blue"), ((135, 206, 235), "blue"),
     ((128, 0, 128), "purple"), ((255, 192, 203), "pink"), ((255, 105, 180), "pink"), ((139, 69, 19), "brown"),
     ((0, 0, 0), "black"), ((255, 255, 255), "white"), ((128, 128, 128), "gray")],
)  # fmt: skip
def test_common_colours_have_their_names(rgb, name):
    assert dominant(np.full((1, 4, 4, 3), rgb, np.uint8), np.ones((1, 4, 4), bool)) == name


def shaded_ball(rgb):
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    inside = x**2 + y**2 < 0.64
    light = np.clip(0.25 + 0.9 * (1 - (x + 0.3) ** 2 - (y + 0.3) ** 2), 0.15, 1.0)[..., None]
    gloss = np.exp(-((x + 0.3) ** 2 + (y + 0.3) ** 2) / 0.02)[..., None]
    ball = np.array(rgb) * light * (1 - gloss) + 255 * gloss
    frame = np.where(inside[..., None], ball, (90, 140, 90)).astype(np.uint8)
    return cv2.GaussianBlur(frame, (0, 0), 1.2)[None], inside[None]


@pytest.mark.parametrize(
    ("rgb", "name"),
    [((230, 30, 40), "red"), ((250, 215, 30), "yellow"), ((40, 100, 230), "blue"), ((140, 60, 200), "purple")],
)
def test_a_shaded_glossy_object_has_one_colour(rgb, name):
    clip, mask = shaded_ball(rgb)
    assert dominant(clip, mask) == name
    matches = [other for other in ("red", "yellow", "blue", "purple", "black", "white", "gray", "green")
               if named_colour_match(clip, mask, other)]  # fmt: skip
    assert matches == [name]


def test_gray_objects_stay_gray_and_bad_questions_are_refused():
    clip = np.full((1, 16, 16, 3), 130, np.uint8)
    mask = np.ones((1, 16, 16), bool)
    assert named_colour_match(clip, mask, "grey") and not named_colour_match(clip, mask, "blue")
    with pytest.raises(ValueError, match="Unknown colour"):
        named_colour_match(clip, mask, "teal")
    with pytest.raises(ValueError, match="empty"):
        named_colour_match(clip, ~mask, "red")


def test_flicker_is_told_from_motion():
    source = textured(frames=5)
    steady = source // 2 + 60
    flicker = steady.copy()
    flicker[1::2] += 20
    assert OpticalFlow(source).warped_difference(steady) < 2
    assert 17 < OpticalFlow(source).warped_difference(flicker) < 23
    assert OpticalFlow(source[:1]).warped_difference(source[:1]) == 0


def drawing(kind):
    canvas = np.zeros((96, 96, 4), np.uint8)
    if kind == "ball":
        cv2.circle(canvas, (48, 48), 44, (220, 40, 40, 255), -1)
    elif kind == "striped ball":
        cv2.circle(canvas, (48, 48), 44, (220, 40, 40, 255), -1)
        for x in (24, 48, 72):
            cv2.line(canvas, (x, 16), (x, 80), (250, 250, 250, 255), 7)
    elif kind == "box":
        cv2.rectangle(canvas, (8, 8), (88, 88), (220, 40, 40, 255), -1)
    elif kind == "arrow":
        outline = np.array([(8, 40), (60, 40), (60, 16), (90, 48), (60, 80), (60, 56), (8, 56)])
        cv2.fillPoly(canvas, [outline], (40, 80, 220, 255))
    else:
        cv2.ellipse(canvas, (48, 48), (44, 20), 0, 0, 360, (240, 200, 40, 255), -1)
    return canvas


KINDS = ("ball", "striped ball", "box", "arrow", "disc")


def pasted(kind, flip=False):
    background = textured(1, 96, 128, seed=3)[0]
    picture = cv2.resize(drawing(kind), (50, 50), interpolation=cv2.INTER_AREA)
    picture = picture[:, ::-1] if flip else picture
    frame = background.copy()
    alpha = picture[..., 3:] / 255
    frame[20:70, 40:90] = (frame[20:70, 40:90] * (1 - alpha) + picture[..., :3] * alpha).astype(np.uint8)
    return frame, background, (40.0, 20.0, 90.0, 70.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_drawing_is_found_through_blur_noise_and_slips(kind):
    near = NearestSprite({name: drawing(name) for name in KINDS})
    frame, background, box = pasted(kind)
    noise = np.random.default_rng(0).normal(0, 8, frame.shape)
    worse = np.clip(cv2.GaussianBlur(frame, (0, 0), 1.8) + noise, 0, 255).astype(np.uint8)
    place = near.place(background, box)  # serves many frames
    assert place.rank(kind, frame) == place.rank(kind, worse) == place.rank(kind, np.roll(frame, (2, -3), (0, 1))) == 1
    assert all(place.rank(other, frame) > 1 for other in KINDS if other != kind)
    assert place.distances(frame)[kind] < 0.5 * place.distances(background)[kind]


def test_mirrored_drawings_and_masks_are_understood():
    frame, background, box = pasted("arrow", flip=True)
    near = NearestSprite({"arrow": drawing("arrow"), "left arrow": drawing("arrow")[:, ::-1].copy()})
    assert near.place(background, box).rank("arrow", frame) == 2
    assert near.place(background, box, flip=True).rank("arrow", frame) == 1
    mask = np.zeros(frame.shape[:2], bool)
    nothing = near.place(background, box).distances(frame, mask)
    assert nothing == near.place(background, box).distances(background)


def test_a_name_may_have_several_drawings_and_must_be_known():
    frame, background, box = pasted("box")
    near = NearestSprite({"ball": drawing("ball"), "parcel": [drawing("disc"), drawing("box")]})
    assert near.place(background, box).rank("parcel", frame) == 1
    with pytest.raises(KeyError, match="chair"):
        near.place(background, box).rank("chair", frame)
    with pytest.raises(ValueError, match="empty"):
        NearestSprite({})


@pytest.mark.parametrize(
    ("read", "wanted", "score"),
    [("Good day", "GOODDAY", 1), ("", "", 1), ("", "HELLO", 0), ("HELO", "HELLO", 0.8), ("GOOD-DAY.", "GOOD DAY", 1),
     ("HELLO THERE", "HELLO", 0.5)],
)  # fmt: skip
def test_text_accuracy(read, wanted, score):
    assert text_accuracy(read, wanted) == pytest.approx(score)


@pytest.mark.skipif(importlib.util.find_spec("rapidocr") is None, reason="rapidocr is not installed: OCR is not tested")
def test_a_subtitle_is_read():
    frame = np.full((144, 256, 3), (60, 90, 120), np.uint8)
    cv2.putText(frame, "GOOD DAY", (70, 134), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2, cv2.LINE_AA)
    clip = np.stack([frame] * 2)
    assert text_accuracy(read_text(clip), "GOOD DAY") > 0.85
    assert read_text(clip, band="top") == ""


def test_a_contact_sheet_has_all_frames_and_readable_labels(tmp_path):
    red, blue = np.zeros((20, 40, 3), np.uint8), np.zeros((40, 40, 3), np.float32)
    red[..., 0], blue[..., 2] = 255, 1.0
    rows = [("A long label that has to be wrapped into several lines to be read", [red, red]), ("blue", [blue])]
    for name in ("sheet.png", "sheet.jpg", "sheet.webp"):
        path = tmp_path / "new" / name
        written = contact_sheet(rows, path, frame_height=60, title="Edits", columns=["source", "result"])
        with Image.open(written) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        reds = (pixels[..., 0] > 200) & (pixels[..., 1:].max(-1) < 60)
        blues = (pixels[..., 2] > 200) & (pixels[..., :2].max(-1) < 60)
        assert reds.sum() == pytest.approx(2 * 60 * 120, rel=0.03)
        assert blues.sum() == pytest.approx(60 * 60, rel=0.1)
        assert (pixels[..., :].max(-1) < 120).sum() > 200  # ink of the labels
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["sheet.jpg", "sheet.png", "sheet.webp"]


def test_a_contact_sheet_without_frames_or_of_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match="frame"):
        contact_sheet([("empty", [])], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"not 'a\.gif'"):
        contact_sheet([("x", [np.zeros((4, 4, 3), np.uint8)])], tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


def test_gmsd_sees_lost_and_invented_edges_and_no_colour():
    clip = textured()
    assert gmsd(clip, clip) == 0
    soft = [np.stack([cv2.GaussianBlur(frame, (0, 0), sigma) for frame in clip]) for sigma in (1, 3)]
    assert 0 < gmsd(clip, soft[0]) < gmsd(clip, soft[1])
    assert gmsd(clip, clip // 2 + 60) < 0.5 * gmsd(clip, soft[1])
    invented = clip.copy()
    cv2.rectangle(invented[0], (10, 10), (30, 30), (255, 0, 0), 2)
    assert gmsd(clip[:1], invented[:1]) > gmsd(clip[1:], invented[1:]) == 0


def test_several_clips_are_judged_along_one_motion():
    source = textured(frames=4)
    motion = OpticalFlow(source)
    jumpy = source.copy()
    jumpy[2] = np.roll(jumpy[2], 5, axis=1)
    assert motion.warped_difference(jumpy) > 3 * motion.warped_difference(source)
    with pytest.raises(ValueError, match="one shape"):
        motion.warped_difference(source[:2])
