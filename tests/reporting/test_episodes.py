import numpy as np
import pytest

from metasearch.reporting.episodes import Episodes, draw_episode, load_episodes


def test_each_picture_is_drawn_with_its_label_and_both_predictions(tmp_path, episodes) -> None:
    episodes(tmp_path)
    stored = load_episodes(tmp_path / "figures" / "episodes.npz")
    assert stored is not None
    axes = draw_episode(stored, 0).axes[0]
    assert len(axes.images) == 5 + 15
    words = [text.get_text() for text in axes.texts]
    first = f"{stored.predictions[0, 0, 0]} → {stored.predictions[0, 0, -1]} "
    assert any(word.startswith(first) for word in words)
    right = int((stored.predictions[0, :, -1] == stored.query_y[0]).sum())
    assert sum(word.endswith("✓") for word in words) == right
    assert sum(word.endswith("✗") for word in words) == 15 - right


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (8, 8, 3)])
def test_pictures_may_have_channels(shape: tuple[int, ...]) -> None:
    x = np.linspace(0, 1, 2 * np.prod(shape)).reshape(1, 2, *shape)
    y = np.array([[0, 1]])
    confidence = np.full((1, 2), 0.9)
    stored = Episodes(x, y, x, y, np.zeros((1, 2, 2), dtype=int), confidence)
    assert len(draw_episode(stored, 0).axes[0].images) == 4


def test_a_file_without_pictures_is_no_episode_file(tmp_path) -> None:
    np.savez(tmp_path / "episodes.npz", support_x=np.zeros((1, 5, 1)))
    assert load_episodes(tmp_path / "episodes.npz") is None
    assert load_episodes(tmp_path / "missing.npz") is None
