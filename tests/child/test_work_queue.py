import pytest
from support.asking import Asked
from support.pooled_host import Host


def test_waiting_transactions_are_served_in_their_order(ready):
    for name in range(4):
        ready.ask(name)
    for name in range(4):
        assert ready.made[0].transaction.request == b"%d\n" % name
        ready.made[0].answer()
    assert list(ready.outcomes) == [0, 1, 2, 3]


def test_a_dropped_transaction_is_never_started(ready):
    ready.ask(1)
    dropped = ready.ask(2)
    ready.ask(3)
    ready.pool.drop_transaction(dropped)
    ready.made[0].answer()
    assert ready.made[0].transaction.request == b"3\n"


def test_a_delayed_transaction_waits_a_second_for_others_and_it_never_waits_too_long(
    ready,
):
    ended = []
    ready.ask("busy")
    delayed = Asked(b"delayed\n", ended.append, pytest.fail)
    ready.pool.queue_delayed(delayed)
    ready.ask("next")
    ready.clock.advance(0.9)
    ready.made[0].answer()
    assert ready.made[0].transaction.request == b"'next'\n"
    ready.clock.advance(100.0)
    ready.made[0].answer()
    assert ready.made[0].transaction is delayed
    ready.made[0].answer()
    assert ended == [b"reply\n"]


@pytest.fixture
def crowded():
    """Three connections that are busy with 0, 1 and 2, while 3 to 9 wait."""
    host = Host(max_connections=3)
    host.pool.open()
    host.made[0].become_ready()
    for name in range(10):
        host.ask(name)
    for connection in host.made[1:]:
        connection.become_ready()
    assert len(host.busy) == 3
    return host


def queue_delayed(host, name, since=None):
    delayed = Asked(name, lambda _: host.ended(name, "reply"), lambda why: host.ended(name, why))
    host.pool.queue_delayed(delayed, since)
    return delayed


def requests(host):
    return [each.transaction.request for each in host.made]


def test_a_delayed_transaction_that_has_waited_for_a_second_goes_ahead_of_clients(crowded):
    queue_delayed(crowded, b"delayed")
    crowded.clock.advance(0.9)
    crowded.made[0].answer()
    assert requests(crowded) == [b"3\n", b"1\n", b"2\n"]
    crowded.clock.advance(0.1)
    crowded.made[1].answer()
    assert requests(crowded) == [b"3\n", b"delayed", b"2\n"]


def test_delayed_transactions_use_at_most_one_connection_while_clients_wait(crowded):
    for name in (b"a", b"b", b"c"):
        queue_delayed(crowded, name, crowded.clock.now - 1.0)
    crowded.made[0].answer()
    crowded.made[1].answer()
    crowded.made[2].answer()
    assert requests(crowded) == [b"a", b"3\n", b"4\n"]
    crowded.made[0].answer()  # the place that it had is a client's next
    assert requests(crowded) == [b"5\n", b"3\n", b"4\n"]
    crowded.made[1].answer()
    assert requests(crowded) == [b"5\n", b"b", b"4\n"]
    crowded.made[1].close("reset")
    crowded.made[2].answer()
    assert crowded.made[2].transaction.request == b"c"


def test_on_one_connection_clients_and_delayed_transactions_take_turns(ready):
    one = Host(max_connections=1)
    one.pool.open()
    one.made[0].become_ready()
    for name in range(4):
        one.ask(name)
    for name in (b"a", b"b"):
        queue_delayed(one, name, one.clock.now - 1.0)
    order = []
    for _ in range(6):
        order += requests(one)
        one.made[0].answer()
    assert order == [b"0\n", b"a", b"1\n", b"b", b"2\n", b"3\n"]
    assert not one.pool._work.delayed_matter


def test_delayed_transactions_open_connections_to_be_carried_out_side_by_side(ready):
    for name in (b"a", b"b"):
        queue_delayed(ready, name)
    ready.made[1].become_ready()
    assert requests(ready) == [b"a", b"b"]


def test_a_delayed_transaction_connects_by_itself_and_fails_with_a_dead_host(host):
    ended = []
    host.pool.queue_delayed(Asked(b"delayed\n", pytest.fail, ended.append))
    host.made[0].close("refused")
    assert ended == ["an attempt failed: refused"]
    host.clock.advance(1.0)
    host.made[1].close("refused")
    host.pool.queue_delayed(Asked(b"delayed\n", pytest.fail, ended.append))
    assert ended[1:] == ["the host is DEAD"]


def test_a_dropped_delayed_transaction_fails(ready):
    ended = []
    ready.ask("busy")
    delayed = Asked(b"delayed\n", pytest.fail, ended.append)
    ready.pool.queue_delayed(delayed)
    ready.pool.drop_transaction(delayed)
    assert ended == ["it is not wanted any more"]
    ready.made[0].answer()
    assert ready.made[0].transaction is None
