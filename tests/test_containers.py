from lonc.containers import Queue, Stack


def test_a_queue_gives_first_what_came_first():
    queue = Queue()
    for member in "abc":
        queue.enqueue(member)
    assert [queue.dequeue() for _ in range(4)] == ["a", "b", "c", None]


def test_a_stack_gives_first_what_came_last():
    stack = Stack()
    for member in "abc":
        stack.push(member)
    assert [stack.pop() for _ in range(4)] == ["c", "b", "a", None]


def test_a_member_leaves_from_the_middle():
    queue = Queue()
    for member in "abc":
        queue.enqueue(member)
    assert queue.remove("b")
    assert not queue.remove("b")
    assert len(queue) == 2
    assert list(queue) == ["a", "c"]
