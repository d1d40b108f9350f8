"""A film's pictures in any order, by any thread, without end."""

import concurrent.futures

import numpy as np
import pytest
from helpers import number_of, numbered

from egs_jax.media.feeding import write_video
from egs_jax.media.film_pictures import FilmPictures
from egs_jax.runtime.errors import InputError


def test_pictures_are_those_of_the_film_and_begin_anew(tmp_path):
    write_video(tmp_path / "v.mp4", (numbered(i) for i in range(12)))
    film = FilmPictures(tmp_path / "v.mp4", 25, np.asarray)
    order = np.random.default_rng(0).integers(0, 40, 60).tolist()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: number_of(film[n]), order))
    assert found == [n % 12 for n in order]
    halves = FilmPictures(tmp_path / "v.mp4", 25, lambda picture: picture[:, :80].copy())
    assert halves[3].shape == (48, 80, 3) and halves[3].flags.writeable
    assert np.abs(halves[3].astype(int) - film[3][:, :80]).mean() < 3


def test_what_is_no_film_is_refused_at_once(tmp_path):
    (tmp_path / "v.mp4").write_text("no film")
    with pytest.raises(InputError, match=r"v\.mp4"):
        FilmPictures(tmp_path / "v.mp4", 25, np.asarray)
