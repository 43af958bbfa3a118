import math

from lonc.runtime.containers import Queue, Stack


def test_a_queue_is_first_in_first_out():
    queue = Queue()
    for member in "abc":
        queue.enqueue(member, 0.0)
    assert [queue.dequeue() for _ in range(4)] == ["a", "b", "c", None]


def test_a_stack_is_last_in_first_out():
    stack = Stack()
    for member in "abc":
        stack.push(member, 0.0)
    assert [stack.pop() for _ in range(4)] == ["c", "b", "a", None]


def test_a_member_in_the_middle_can_be_removed():
    queue = Queue()
    for member in "abc":
        queue.enqueue(member, 0.0)
    assert queue.remove("b")
    assert not queue.remove("b")
    assert len(queue) == 2
    assert list(queue) == ["a", "c"]


def test_the_oldest_member_and_its_time_are_known():
    stack, queue = Stack(), Queue()
    assert stack.oldest() is None
    for number, member in enumerate("abc"):
        stack.push(member, number)
        queue.enqueue(member, number)
    assert stack.oldest() == queue.oldest() == ("a", 0)
    assert stack.pop() == "c"
    queue.dequeue()
    assert stack.oldest() == ("a", 0)
    assert queue.oldest() == ("b", 1)
    stack.remove("a")
    stack.push("a", 5)
    assert stack.oldest() == ("b", 1)


def test_members_that_have_been_here_for_long_are_popped_the_oldest_first():
    stack = Stack()
    assert stack.due(10.0) == math.inf
    for number, member in enumerate("abc"):
        stack.push(member, number)
    assert stack.due(10.0) == 10.0
    assert list(stack.pop_due(10.0, 9.9)) == []
    assert list(stack.pop_due(10.0, 11.0)) == ["a", "b"]
    assert stack.due(10.0) == 12.0
