import math
import re
from html.parser import HTMLParser

import pytest

from metasearch.reporting import compare


@pytest.fixture
def variants(make):
    """Two variants over three seeds; the second is better by 1, 2 and 3 points of accuracy."""

    def _make() -> list:
        paths = []
        for name, lr in (("slow", 0.1), ("fast", 0.4)):
            for seed in range(3):
                run = make(f"{name}-{seed}", seed=seed, learner={"recipe": "maml", "steps": {"train": 1}, "lr": lr})
                run.start()
                run.evaluation(0, 1.0)
                run.validation(1, 0.5, 0.9)
                better = 0.01 * (seed + 1) if name == "fast" else 0.0
                run.test("metasearch", 0.90 + 0.02 * seed + better, L=0.3 - better)
                run.end()
                paths.append(run.path)
        return paths

    return _make


def test_rows_name_the_run_its_seed_and_what_differs(variants) -> None:
    rows = compare(variants()).rows
    assert [row.run for row in rows] == [f"{name}-{seed}" for name in ("slow", "fast") for seed in range(3)]
    assert [row.seed for row in rows] == [0, 1, 2] * 2
    assert [dict(row.differs) for row in rows] == [{"learner.lr": 0.1}] * 3 + [{"learner.lr": 0.4}] * 3
    assert rows[0].variant == "learner.lr=0.1"
    assert rows[0].steps == 1
    assert rows[0].figures["test accuracy"] == (0.9, 0.002)
    assert rows[0].figures["validation accuracy"] == (0.9, 0.007)


def test_differences_are_paired_by_seed_with_students_t(variants) -> None:
    found = {one.figure: one for one in compare(variants()).differences}
    assert set(found) == {"test accuracy", "test L"}
    one = found["test accuracy"]
    assert (one.variant, one.reference, one.seeds) == ("learner.lr=0.4", "learner.lr=0.1", (0, 1, 2))
    assert one.mean == pytest.approx(0.02)
    # Differences 0.01, 0.02, 0.03: deviation 0.01, and t(0.975, 2) = 4.302653.
    assert one.ci95 == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-6)
    assert found["test L"].mean == pytest.approx(-0.02)


def test_only_common_seeds_are_paired_and_one_pair_has_no_interval(variants) -> None:
    paths = variants()
    differences = compare([paths[0], paths[1], paths[4]]).differences
    assert [one.seeds for one in differences] == [(1,), (1,)]
    assert all(math.isnan(one.ci95) for one in differences)
    assert compare([paths[0], paths[4]]).differences == ()


def test_the_later_of_two_runs_with_one_seed_counts(variants, make) -> None:
    paths = variants()
    again = make("again", seed=0, learner={"recipe": "maml", "steps": {"train": 1}, "lr": 0.4})
    again.start()
    again.test("metasearch", 0.5)
    again.end()
    [accuracy] = [one for one in compare([*paths, again.path]).differences if one.figure == "test accuracy"]
    assert accuracy.mean == pytest.approx((-0.4 + 0.02 + 0.03) / 3)


def test_tracking_name_and_seed_do_not_make_a_variant(make) -> None:
    paths = []
    for seed, name in enumerate(("a", "b")):
        run = make(f"{name}-{seed}", seed=seed, name=name, tracking={"experiment": name})
        run.start()
        run.end()
        paths.append(run.path)
    rows = compare(paths).rows
    assert [dict(row.differs) for row in rows] == [{}, {}]
    assert len({row.variant for row in rows}) == 1


def test_names_label_variants_where_they_tell_them_apart(make) -> None:
    paths = []
    for name, steps in (("one_step", 1), ("five_steps", 5)):
        for seed in (0, 1):
            run = make(f"{name}-{seed}", seed=seed, name=name, learner={"steps": steps})
            run.start()
            run.end()
            paths.append(run.path)
    assert [row.variant for row in compare(paths).rows] == ["one_step", "one_step", "five_steps", "five_steps"]


def test_a_setting_that_one_run_lacks_is_said_to_be_absent(make) -> None:
    paths = [make("a", learner={"x": 1}).path, make("b", learner={}).path]
    assert [row.differs for row in compare(paths).rows] == [{"learner.x": 1}, {"learner.x": "(not set)"}]


def test_without_tests_validation_figures_are_compared(make) -> None:
    paths = []
    for lr in (0.1, 0.4):
        run = make(f"lr-{lr}", searchers={"lr": lr})
        run.start()
        run.validation(1, 0.5, 0.9 + lr / 10)
        paths.append(run.path)
    differences = compare(paths).differences
    assert [one.figure for one in differences] == ["validation accuracy", "validation L"]
    assert differences[0].mean == pytest.approx(0.03)


def test_a_search_over_choices_is_compared_by_its_best(choice_run) -> None:
    row = compare([choice_run(20).path]).rows[0]
    assert row.status == "interrupted"
    assert 0.2 < row.figures["best L"][0] < 1


def test_text_is_aligned(variants) -> None:
    lines = compare(variants()).text().splitlines()
    assert lines[0].split("  ")[0] == "run"
    column = lines[0].index("learner.lr")
    assert [line[column : column + 3] for line in lines[2:8]] == ["0.1"] * 3 + ["0.4"] * 3
    assert "90.00 ± 0.20" in lines[2]
    assert re.search(r"learner.lr=0.4 +learner.lr=0.1 +test accuracy \(%\) +\+2.0 ± 2.5 +3", "\n".join(lines))


def test_markdown_has_one_row_a_run_and_escapes_bars(make) -> None:
    paths = [
        make(f"m{index}-20260101-000000-abcde{index}", name="m", tasks={"type": text}).path
        for index, text in enumerate(("a|b", "c"))
    ]
    lines = compare(paths).markdown().splitlines()
    assert lines[0].startswith("| run | name | status | tasks.type | seed |")
    assert lines[1].count("---") == lines[0].count(" | ") + 1
    assert lines[2].startswith("| abcde0 | m0 | new | a\\|b | 0 | 0 |")


def test_html_is_a_page_with_escaped_cells(make) -> None:
    paths = [make(f"h{index}", tasks={"type": text}).path for index, text in enumerate(("<b>", "c"))]
    page = compare(paths).html()
    assert page.startswith("<!doctype html>")
    assert "&lt;b&gt;" in page
    HTMLParser().feed(page)


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        compare([])
