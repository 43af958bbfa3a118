import pytest

from lonc.transaction import Transaction


@pytest.fixture
def heard():
    return []


@pytest.fixture
def transaction(heard):
    return Transaction(b"ping\n", lambda reply: heard.append(reply), lambda why: heard.append(why))


def test_a_reply_is_heard_once(transaction, heard):
    transaction.complete(b"l1\n")
    assert heard == [b"l1\n"]
    for again in (lambda: transaction.complete(b"l1\n"), lambda: transaction.fail("late")):
        with pytest.raises(AssertionError, match="ends once"):
            again()


def test_a_failure_is_heard_once(transaction, heard):
    transaction.fail("lost")
    assert heard == ["lost"]
    with pytest.raises(AssertionError, match="ends once"):
        transaction.complete(b"late\n")


def test_an_abandoned_transaction_ends_unheard_and_still_only_once(transaction, heard):
    transaction.abandon()
    transaction.complete(b"l1\n")
    assert heard == []
    with pytest.raises(AssertionError, match="ends once"):
        transaction.fail("twice")


def test_a_callback_may_come_back_in():
    def again(_):
        with pytest.raises(AssertionError, match="ends once"):
            transaction.fail("again")

    transaction = Transaction(b"ping\n", again, again)
    transaction.complete(b"l1\n")


def test_it_can_be_redirected_and_still_ends_once(transaction, heard):
    others = []
    transaction.redirect(others.append, others.append)
    transaction.fail("lost")
    assert (heard, others) == ([], ["lost"])
    with pytest.raises(AssertionError, match="ends once"):
        transaction.complete(b"l1\n")
