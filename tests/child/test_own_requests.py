"""Each request with its reply: the table of `own_requests`, and of lond's own words."""

import re

import pytest

from lonc.child.own_requests import ENCRYPTED, NOT_FOR_LOND, OWN_PREFIXES, OwnRequests

FOR_LOND = None
REFUSED = b"refused\n"
UNKNOWN = b"error: unknown lonc command\n"
STATUS = b"{}\n"
OK = b"ok\n"

REQUESTS = {
    b"lonc:status\n": STATUS,
    b"lonc:status:\n": UNKNOWN,
    b"lonc:\n": UNKNOWN,
    b"lonc:statu\n": UNKNOWN,
    b"reset_retries\n": OK,
    b"close_connection_exit\n": OK,
    b"init\n": REFUSED,
    b"init:ssl:2.11\n": REFUSED,
    b"initiate\n": REFUSED,  # lond takes whatever begins like this for init
    b"ekey\n": REFUSED,
    b"ekey:x\n": REFUSED,
    b"exit\n": REFUSED,
    b"exit:\n": REFUSED,
    b"sethost:l9\n": REFUSED,
    b"sethost:l1:ping\n": REFUSED,
    b"encrypt:init\n": REFUSED,
    b"encrypt:ekey\n": REFUSED,
    b"encrypt:exit\n": REFUSED,
    b"encrypt:sethost:l1:x\n": REFUSED,
    b"ping\n": FOR_LOND,
    b"\n": FOR_LOND,
    b"lonc\n": FOR_LOND,
    b"exits\n": FOR_LOND,
    b"ekeys\n": FOR_LOND,
    b" exit\n": FOR_LOND,
    b"reset_retries:\n": FOR_LOND,
    b"reset_retries \n": FOR_LOND,
    b"encrypt:auth:x\n": FOR_LOND,
    b"encrypt:lonc:status\n": FOR_LOND,
    b"encrypt:encrypt:exit\n": FOR_LOND,
}


class Asker:
    def __init__(self, may_administer=True):
        self.may_administer = may_administer


class Own:
    def __init__(self, ids=None):
        self.called = []
        self.requests = OwnRequests(
            ids,
            status=lambda: STATUS,
            retry=lambda: self.called.append("retry"),
            replace=lambda: self.called.append("replace"),
        )

    def answer(self, request, **asker):
        return self.requests.answer(request, Asker(**asker))


@pytest.mark.parametrize("request_", REQUESTS)
def test_each_request_has_its_reply(request_):
    assert Own().answer(request_) == REQUESTS[request_]


@pytest.mark.parametrize("request_", [each for each, reply in REQUESTS.items() if reply is not None])
def test_each_request_that_is_not_for_lond_begins_with_an_own_prefix(request_):
    """A client calls `answer` for those alone."""
    assert request_.startswith(OWN_PREFIXES)


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_delayed_transaction_is_for_lond_under_the_same_conditions(request_):
    assert bool(NOT_FOR_LOND.match(request_)) == (REQUESTS[request_] is not None)


@pytest.mark.parametrize(
    ("request_", "called"), [(b"reset_retries\n", "retry"), (b"close_connection_exit\n", "replace")]
)
def test_administrative_requests_need_permission(request_, called):
    own = Own()
    assert own.answer(request_, may_administer=False) == REFUSED
    assert own.called == []
    assert own.answer(request_) == OK
    assert own.called == [called]


def test_other_requests_need_no_permission():
    assert Own().answer(b"lonc:status\n", may_administer=False) == STATUS
    assert Own().answer(b"ping\n", may_administer=False) is FOR_LOND


@pytest.mark.parametrize("request_", [each for each in REQUESTS if not each.startswith(b"sethost:")])
def test_with_several_ids_the_own_id_in_front_changes_nothing(request_):
    own = Own(("l1", "l3"))
    for front in (b"", b"sethost:l1:", b"sethost:l3:"):
        assert own.answer(front + request_) == REQUESTS[request_]


@pytest.mark.parametrize("front", [b"sethost:l2:", b"sethost::", b"sethost:\xff:"])
def test_with_several_ids_another_id_in_front_is_no_such_host(front):
    assert Own(("l1", "l3")).answer(front + b"ping\n") == b"no_such_host\n"


def test_two_ids_in_front_are_refused():
    own = Own(("l1", "l3"))
    assert own.answer(b"sethost:l1:sethost:l3:ping\n") == REFUSED
    assert own.answer(b"sethost:l1\n") == REFUSED


@pytest.mark.parametrize("secret", [b"encrypt:x", b"sethost:l1:encrypt:x"])
def test_requests_to_be_encrypted_are_recognized(secret):
    assert re.match(ENCRYPTED, secret)
    assert not re.match(ENCRYPTED, b"ping:" + secret)
