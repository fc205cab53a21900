from __future__ import annotations

import gzip

import numpy as np
import pytest

from metasearch.core.errors import ConfigError, DataError
from metasearch.tasks import datasets, nas_tables


def line(name, file, code):
    with gzip.open(datasets.locate(name) / file, "rt") as stream:
        return next(row.strip().split(",") for row in stream if row.startswith(code + ","))


@pytest.mark.parametrize(
    ("dataset", "validation", "test"),
    [("cifar10", 84.89, 89.16), ("cifar100", 61.32, 61.18), ("imagenet16-120", 38.67, 38.27)],
)
def test_nasbench201_has_all_cells_and_its_known_maxima(dataset, validation, test):
    table = nas_tables.load("nasbench201", dataset)
    assert len(table.test) == table.space.size == 5**6
    assert 100 * table.validation.max() == pytest.approx(validation, abs=0.005)
    assert 100 * table.test.max() == pytest.approx(test, abs=0.005)


@pytest.mark.parametrize("code", ["000000", "012343", "444444", "333331"])
def test_a_cell_finds_its_line_by_the_operations_of_its_edges(code):
    table = nas_tables.load("nasbench201", "cifar100")
    edges = ("edge_0_1", "edge_0_2", "edge_1_2", "edge_0_3", "edge_1_3", "edge_2_3")
    row = table.row({edge: nas_tables.OPERATIONS[int(digit)] for edge, digit in zip(edges, code, strict=True)})
    numbers = line("nasbench201", "nasbench201_12epochs.csv.gz", code)
    assert 100 * table.validation[row] == pytest.approx(float(numbers[3]))
    assert 100 * table.test[row] == pytest.approx(float(numbers[4]))


def test_a_network_of_nasbenchmacro_is_judged_by_other_runs_than_those_the_search_sees():
    table = nas_tables.load("nasbenchmacro")
    assert len(table.test) == table.space.size == 3**8
    blocks = ("identity", "mb3_k3", "mb6_k5")
    row = table.row({f"layer_{i}": blocks[int(digit)] for i, digit in enumerate("22212220", 1)})
    _, one, two, three, parameters, flops = map(
        float, line("nasbenchmacro", "nasbenchmacro_cifar10.csv.gz", "22212220")
    )
    assert 100 * table.validation[row] == pytest.approx(one)
    assert 100 * table.test[row] == pytest.approx((two + three) / 2)
    assert (table.costs["parameters"][row], table.costs["flops"][row]) == (parameters, flops)
    assert 100 * (table.validation + 2 * table.test).max() / 3 == pytest.approx(93.13, abs=0.01)


@pytest.mark.parametrize(
    ("dataset", "means"),
    [
        ("cifar10", (86.11, 88.09, 88.50)),
        ("cifar100", (53.81, 58.95, 59.99)),
        ("imagenet16-120", (30.50, 35.01, 36.11)),
    ],
)
def test_random_search_comes_as_far_as_it_was_known_to(dataset, means):
    """The test accuracy of the best of n by validation, exactly: (k/N)^n is the chance that all n are among k."""
    table = nas_tables.load("nasbench201", dataset)
    order = np.argsort(table.validation, kind="stable")
    share = np.arange(len(order) + 1) / len(order)
    for budget, mean in zip((10, 100, 500), means, strict=True):
        expected = float((np.diff(share**budget) * table.test[order]).sum())
        assert 100 * expected == pytest.approx(mean, abs=0.35 if budget == 10 else 0.06)


def test_what_is_no_table_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="did you mean 'nasbench201'"):
        nas_tables.load("nasbench202")
    with pytest.raises(ConfigError, match="nasbenchmacro has no 'cifar100'"):
        nas_tables.load("nasbenchmacro", "cifar100")
    folder = tmp_path / "nasbenchmacro"
    folder.mkdir()
    monkeypatch.setenv("METASEARCH_DATA", str(tmp_path))
    for content, problem in [
        (b"nonsense", "cannot be read"),
        (gzip.compress(b"arch,acc_run1\n00,1.0\n"), "expected 6561 different"),
        (gzip.compress(b"arch,acc_run1\n00,x\n"), "cannot be read"),
    ]:
        nas_tables.load.cache_clear()
        (folder / "nasbenchmacro_cifar10.csv.gz").write_bytes(content)
        with pytest.raises(DataError, match=problem):
            nas_tables.load("nasbenchmacro")
    nas_tables.load.cache_clear()
