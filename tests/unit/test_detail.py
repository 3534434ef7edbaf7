"""The source's detail in an edit: there where the result follows the source, absent where it shows something new."""

import cv2
import numpy as np
import pytest

from sama.edit.composing import detail, painted
from sama.edit.composing.compose import differences, edit_mask, enlarge
from sama.edit.composing.detail import fit_detail, shared_structure, with_detail, without_grain
from sama.edit.composing.painted import Painted
from training.evaluation.held_out.metrics import psnr, ssim

LARGE, SMALL = (832, 480), (256, 144)  # width, height


def texture(seed=0, grain=1.0):
    """A picture (480, 832, 3) of coloured blobs with fine grain on them."""
    noise = np.random.default_rng(seed).normal(0, 1, (LARGE[1], LARGE[0], 3)).astype(np.float32)
    coarse, fine = (cv2.GaussianBlur(noise, (0, 0), sigma) for sigma in (25, 1.2))
    return np.clip(128 + 45 * coarse / coarse.std() + grain * 25 * fine / fine.std(), 0, 255).astype(np.uint8)


def through_the_model(picture):
    """What a model's size and an autoencoder leave of a picture: small and without its finest detail."""
    return cv2.GaussianBlur(cv2.resize(picture, SMALL, interpolation=cv2.INTER_AREA), (0, 0), 1.0)


def sunset(picture):
    mixing = np.array([[0.75, 0.2, 0.0], [0.1, 0.6, 0.1], [0.0, 0.1, 0.5]], np.float32)
    return np.clip(picture @ mixing.T + (20, 0, 10), 0, 255).astype(np.uint8)


def test_grain_of_a_change_of_light_goes_and_what_is_drawn_stays():
    reference = through_the_model(texture())
    clear = sunset(reference)
    grain = np.random.default_rng(1).normal(0, 3, clear.shape)
    result = np.clip(clear + grain, 0, 255).astype(np.uint8)
    bar = (slice(68, 78), slice(40, 70))
    result[bar] = np.clip(clear[bar] + 30.0, 0, 255)  # of the model's own
    clean = without_grain(result, reference, fit_detail(result, reference))
    elsewhere = np.ones(clear.shape[:2], bool)
    elsewhere[50:92, 20:80] = False

    def error(picture):
        return np.abs(picture.astype(float) - clear)[elsewhere].mean()

    assert error(clean) < 0.7 * error(result)
    assert np.abs(clean[bar].astype(int) - result[bar]).mean() < 0.8


def test_grain_stays_where_an_edit_does_not_follow_the_source():
    reference, result = through_the_model(texture()), through_the_model(texture(seed=5))
    assert without_grain(result, reference, fit_detail(result, reference)) is result


def disc(centre=(416, 240), radius=110):
    mask = np.zeros(LARGE[::-1], np.float32)
    cv2.circle(mask, centre, radius, 1.0, -1)
    return mask


def edited(source, truth, local):
    """Full-size results without and with detail, as the editor makes them."""
    result, reference = through_the_model(truth), through_the_model(source)
    fit = fit_detail(result, reference)
    mask = np.ones(SMALL[::-1], np.float32)
    if local:
        mask = edit_mask(differences(result[None], reference[None]))[0]
        fit = detail.DetailFit(fit.gain * shared_structure(fit, mask)[..., None, None], fit.variance, fit.explained)
    return enlarge(result, *LARGE), with_detail(source, result, reference, fit.gain), mask


def test_a_change_of_light_keeps_the_sources_sharpness():
    source = texture()
    plain, sharp, _ = edited(source, sunset(source), local=False)
    truth = sunset(source)[None]
    assert ssim(plain[None], truth) < 0.6
    assert ssim(sharp[None], truth) > 0.95
    assert psnr(sharp[None], truth) > psnr(plain[None], truth) + 6


def test_a_recoloured_object_keeps_its_texture():
    source, mask = texture(), disc()
    recoloured = np.where(mask[..., None] > 0.5, source[..., [2, 1, 0]] // 2 + np.uint8(40), source)
    plain, sharp, _ = edited(source, recoloured, local=True)
    inside = cv2.erode(mask, np.ones((31, 31))) > 0.5
    assert ssim(sharp[None], recoloured[None], inside[None]) > 0.9
    assert ssim(plain[None], recoloured[None], inside[None]) < 0.7


@pytest.mark.parametrize(
    "behind", [texture(1, grain=0.3), np.full((480, 832, 3), 60, np.uint8)], ids=["ground", "flat"]
)
def test_a_removed_object_does_not_come_back_as_a_ghost(behind):
    mask = disc()
    checks = np.kron(np.indices((60, 104)).sum(axis=0) % 2, np.ones((8, 8)))[..., None].repeat(3, axis=2)
    source = np.where(mask[..., None] > 0.5, (checks * 255).astype(np.uint8), behind)
    plain, sharp, seen = edited(source, behind, local=True)
    shown = cv2.resize(seen, LARGE) > 0.5
    assert shown.mean() > 0.05
    lost = source.astype(float) - enlarge(through_the_model(source), *LARGE)
    ghost = (sharp.astype(float) - plain)[shown]
    assert np.abs(lost[shown]).mean() > 20, "the object has detail that could come back"
    assert np.abs(ghost).mean() < 0.5
    without_care = with_detail(
        source,
        small := through_the_model(behind),
        reference := through_the_model(source),
        fit_detail(small, reference).gain,
    )
    if behind.std() > 10:  # on flat ground the fit alone leaves nothing
        assert np.abs(without_care.astype(float) - plain)[shown].mean() > 1.0, "the care is needed"


@pytest.mark.parametrize("room", [painted._KEPT_BYTES, 0])
@pytest.mark.parametrize("centre", [(416, 240), (20, 460)])
def test_a_local_edit_is_fitted_once_and_kept_fits_give_the_same_picture(centre, room, monkeypatch):
    source, mask = texture(), disc(centre)
    recoloured = np.where(mask[..., None] > 0.5, source[..., [2, 1, 0]] // 2 + np.uint8(40), source)
    result, reference = through_the_model(recoloured)[None], through_the_model(source)[None]
    apart = differences(result, reference)
    fitted = []
    monkeypatch.setattr(painted, "_KEPT_BYTES", room)
    monkeypatch.setattr(painted, "fit_detail", lambda *a: fitted.append(1) or fit_detail(*a))
    window = Painted.of(result, (apart * 255).astype(np.uint8), edit_mask(apart), reference)
    kept = window.picture(0, source)
    assert len(fitted) == (1 if room else 2)
    again = Painted(window.frames, window.change, window.mask, window.reference, window.shared).picture(0, source)
    assert np.array_equal(kept, again) and not np.array_equal(kept, source)
    earlier, later = window.part(0), Painted(*([np.concatenate([f, f]) for f in window._fields()]), window.gains * 2)
    assert [gain is None for gain in earlier.fading_into(later).gains] == [True, not room]


def test_bands_of_a_large_picture_fit_together(monkeypatch):
    source = texture()
    small = [through_the_model(picture) for picture in (sunset(source), source)]
    whole = with_detail(source, *small, fit_detail(*small).gain)
    monkeypatch.setattr(detail, "_BAND_PIXELS", 832 * 7)
    in_bands = with_detail(source, *small, fit_detail(*small).gain)
    assert np.abs(whole.astype(int) - in_bands).max() <= 1


def test_an_unchanged_result_gives_the_source_back():
    source = texture()
    small = through_the_model(source)
    back = with_detail(source, small, small, fit_detail(small, small).gain)
    assert psnr(back[None], source[None]) > 38


def test_pictures_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        fit_detail(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 8, 3), np.uint8))
