"""The parent's look at a real directory of delayed transactions."""

import pytest

from lonc.event_loop import EventLoop
from lonc.post import Post


@pytest.fixture
def loop():
    loop = EventLoop()
    yield loop
    loop.close()


def test_what_is_wrong_is_told_once_in_a_minute_each_of_several(loop, tmp_path, caplog):
    for name in ("bad", "impossible", "too"):  # a file where the directory should be made
        (tmp_path / name).write_bytes(b"x\n")
    post = Post(loop, tmp_path)
    for _ in range(10):
        post.look([])
    assert sorted(caplog.messages) == [
        f"cannot move {name} to {tmp_path}/bad: File exists" for name in ("impossible", "too")
    ]
