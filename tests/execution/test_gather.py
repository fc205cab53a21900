"""Answers in call order, and errors that say what to do."""

import pytest
from execution_programs import Program, answer, call, phi

from metasearch.core.errors import ExecutionError
from metasearch.core.values import Call, Failure, Measurement, Report
from metasearch.execution import CallFailedError, Inline, gather


class Reversed:
    """Answers the newest call first."""

    workers = 1

    def __init__(self) -> None:
        self.queue: list[Call] = []

    def put(self, value: object) -> object:
        return value

    def submit(self, call: Call) -> None:
        self.queue.append(call)

    def wait(self, timeout_s: float | None = None) -> list[tuple[Call, Report | Measurement | Failure]]:
        if not self.queue:
            return []
        one = self.queue.pop()
        return [(one, Report(1, {})), (one, answer(float(one.index)))]

    def close(self) -> None:
        self.queue.clear()


def test_answers_stand_in_call_order() -> None:
    assert [m.query[0] for m in gather(Reversed(), [call(i) for i in range(5)])] == [0, 1, 2, 3, 4]


def test_the_same_call_twice_is_answered_twice() -> None:
    one = call(3)
    assert [m.query[0] for m in gather(Reversed(), [one, one])] == [3, 3]


def test_failure_raises_with_kind_advice_and_the_workers_traceback() -> None:
    with Inline(Program) as executor, pytest.raises(CallFailedError) as caught:
        gather(executor, [call(0, phi=phi()), call(1, "mistake"), call(2, "too_large")])
    text = str(caught.value)
    assert "[user_error]" in text
    assert "call 1 ('mistake') of proposal 1" in text
    assert "free lunch" in text
    assert "in mistake" in text
    assert caught.value.failure.kind == "user_error"


def test_out_of_memory_says_what_to_make_smaller() -> None:
    with Inline(Program) as executor, pytest.raises(ExecutionError, match=r"\[out_of_memory\].*evaluation\.shard"):
        gather(executor, [call(0, "too_large")])


def test_after_a_failure_the_executor_is_idle() -> None:
    with Inline(Program) as executor:
        with pytest.raises(CallFailedError):
            gather(executor, [call(0, "mistake"), call(1, phi=phi())])
        assert executor.wait() == []


def test_answer_to_someone_elses_call_is_refused() -> None:
    with Inline(Program) as executor:
        executor.submit(call(9, phi=phi()))
        with pytest.raises(ExecutionError, match="call 9 of proposal 9, which was submitted elsewhere"):
            gather(executor, [call(0), call(1)])
