import numpy as np
import pytest

from sama.edit.composing.compose import changes_everything, compose, crossfade, differences, edit_mask, enlarge

FRAMES, HEIGHT, WIDTH = 5, 96, 128


def textured(seed=0, frames=FRAMES, height=HEIGHT, width=WIDTH):
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def as_decoded(frames, seed=1):
    """What an autoencoder makes of frames: softer, and a little off."""
    noise = np.random.default_rng(seed).normal(0, 4, frames.shape)
    flat = frames.astype(float).mean(axis=(1, 2), keepdims=True)
    return np.clip(flat + 0.3 * (frames - flat) + noise, 0, 255).astype(np.uint8)


def edited(reference, box=(slice(30, 60), slice(40, 80)), colour=(230, 40, 40)):
    out = as_decoded(reference, seed=2) if reference.std() > 60 else reference.copy()
    out[(slice(None), *box)] = colour
    return out


def test_an_edit_is_found_although_the_decoder_blurs_the_whole_picture():
    reference = as_decoded(textured())
    mask = edit_mask(differences(edited(reference), reference))
    assert mask[:, 30:60, 40:80].min() > 0.9  # corners are round
    assert mask[:, 32:58, 42:78].min() == 1
    assert mask[:, :15].max() == 0
    assert mask[:, :, 110:].max() == 0
    assert mask.mean() < 0.4


def test_decoder_noise_is_no_edit():
    source = textured()
    assert edit_mask(differences(as_decoded(source, seed=1), as_decoded(source, seed=2))).max() == 0


def test_a_global_change_covers_the_picture():
    reference = as_decoded(textured())
    shifted = np.clip(reference.astype(int) + np.array([60, 0, -60]), 0, 255).astype(np.uint8)
    assert edit_mask(differences(shifted, reference)).mean() > 0.95


def test_the_rim_follows_the_difference_and_the_inside_is_whole():
    reference = np.full((FRAMES, HEIGHT, WIDTH, 3), 100, np.uint8)
    result = reference.copy()
    result[:, 30:70, 30:90] = 200
    result[:, 40:60, 40:60] = 100  # as before, but within the change
    mask = edit_mask(differences(result, reference))
    assert mask[:, 34:66, 34:40].min() == 1
    assert mask[:, 45:55, 45:55].max() == 0  # a hole as large as this is no gap
    result[:, 40:60, 40:60] = 200
    result[:, 48:50, 40:80] = 100
    mask = edit_mask(differences(result, reference))
    assert mask[:, 34:66, 36:84].min() == 1
    assert mask[:, :24].max() == mask[:, :, :24].max() == 0


def test_a_faint_change_of_the_whole_picture_is_global():
    reference = as_decoded(textured())
    warmer = np.clip(reference.astype(int) + np.array([12, 0, -12]), 0, 255).astype(np.uint8)
    assert edit_mask(differences(warmer, reference)).max() == 0
    assert changes_everything(differences(warmer, reference))
    assert not changes_everything(differences(edited(reference), reference))
    assert not changes_everything(differences(as_decoded(textured(), seed=2), reference))


def test_a_faint_change_counts_only_where_it_touches_a_strong_one():
    reference = np.full((FRAMES, HEIGHT, WIDTH, 3), 100, np.uint8)
    faint = reference.copy()
    faint[:, 20:50, 20:50] += 25
    assert edit_mask(differences(faint, reference)).max() == 0
    faint[:, 20:30, 50:60] += 90
    mask = edit_mask(differences(faint, reference))
    assert mask[:, 25:45, 25:45].min() == 1
    assert mask[:, :, 70:].max() == 0


def test_a_change_that_fades_for_a_frame_keeps_its_mask():
    reference = np.full((FRAMES, HEIGHT, WIDTH, 3), 100, np.uint8)
    result = reference.copy()
    result[:, 30:60, 40:80] = 200
    result[2, 30:60, 40:80] = 128
    assert edit_mask(differences(result, reference))[2, 35:55, 45:75].min() == 1


def test_mask_edges_are_soft_in_space():
    reference = as_decoded(textured())
    row = edit_mask(differences(edited(reference), reference))[2, 45]
    assert ((row > 0.05) & (row < 0.95)).sum() >= 2


def test_clips_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        differences(textured(), textured(frames=4))


def test_composing_leaves_unchanged_pixels_alone_and_shows_the_result():
    source = textured(height=288, width=384)[0]
    result = np.full((HEIGHT, WIDTH, 3), (230, 40, 40), np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), np.float32)
    mask[30:60, 40:80] = 1
    out = compose(source, result, mask)
    assert np.array_equal(out[:84], source[:84])
    assert np.array_equal(out[:, :114], source[:, :114])
    assert np.array_equal(out[186:], source[186:])
    assert (out[96:174, 126:234] == (230, 40, 40)).all()
    assert out is not source


def test_composing_blends_by_the_mask():
    source, result = np.zeros((40, 40, 3), np.uint8), np.full((40, 40, 3), 200, np.uint8)
    out = compose(source, result, np.full((40, 40), 0.25, np.float32))
    assert (out == 50).all()


def test_composing_an_empty_mask_gives_the_source():
    source = textured(height=50, width=70)[0]
    out = compose(source, textured(height=24, width=32)[0], np.zeros((24, 32), np.float32))
    assert np.array_equal(out, source)


def test_composing_reaches_the_edges_of_odd_sizes():
    source = np.zeros((101, 67, 3), np.uint8)
    out = compose(source, np.full((24, 16, 3), 255, np.uint8), np.ones((24, 16), np.float32))
    assert (out == 255).all()


@pytest.mark.parametrize("size", [(320, 180), (64, 36), (128, 72)])
def test_enlarge_gives_the_size_asked_for(size):
    assert enlarge(textured(height=72, width=128)[0], *size).shape == (size[1], size[0], 3)


def test_crossfade_goes_from_one_to_the_other_evenly():
    earlier, later = np.zeros((3, 2, 2, 3), np.uint8), np.full((3, 2, 2, 3), 200, np.uint8)
    faded = crossfade(earlier, later)
    assert faded.dtype == np.uint8
    assert faded[:, 0, 0, 0].tolist() == [50, 100, 150]
