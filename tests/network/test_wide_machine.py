"""lonc and lond on both sides of an emulated network, and the clients that measure them."""

import socket
import time

import pytest
from network.crowd import LOST, WRONG, Crowd
from network.emulator import LOCAL_ADDRESS
from network.nameserver import nameservers
from support.critics import DELAYED, OK, Critics
from support.machine import eventually, read_line
from support.scripted_lond import echoing


def test_lonc_asks_a_lond_on_the_other_side(machine):
    machine.wan.change(delay_ms=10)
    lond = machine.lond()
    machine.run()
    begun = time.monotonic()
    assert machine.ask(b"put:dom:user:file:1") == b"ok"
    assert time.monotonic() - begun >= 0.02
    assert lond.carried_out() == [b"put:dom:user:file:1"]


def test_a_lond_of_the_demo_on_the_other_side(machine):
    machine.demo_lond("l1")
    machine.run()
    assert machine.ask(b"pong") == b"a1"


def test_a_scripted_lond_on_the_other_side_sees_lonc_come_from_its_address(machine):
    seen = []

    def script(peer):
        seen.append(peer.socket.getpeername()[0])
        echoing(peer)

    with machine.scripted_lond(script):
        machine.run()
        assert machine.ask(b"echo:1") == b"echo:1"
        machine.stop()
    assert seen == [LOCAL_ADDRESS]


def test_a_stopped_lond_answers_when_it_goes_on(machine):
    lond = machine.lond()
    machine.run()
    with Crowd(machine.sockets / "l1", 2) as crowd:
        crowd.is_served()
        lond.stop()
        eventually(lambda: crowd.oldest() > 0.2)
        assert len(crowd.under_way) == 2
        lond.go_on()
        moment = time.monotonic()
        assert crowd.next_right(moment, 20) is not None
    assert (crowd.count(LOST), crowd.count(WRONG)) == (0, 0)
    assert crowd.longest() >= 0.2


def test_no_packet_of_a_lond_killed_while_the_network_is_down_arrives(machine):
    """And when it is up again, what comes for its connections is answered with RST."""
    lond = machine.lond()
    with machine.wan.local.entered():
        client = socket.create_connection((machine.address(1), machine.port), timeout=0.1)
    with client:
        client.sendall(b"echo\n")
        assert read_line(client) == b"echo"
        machine.wan.down()
        lond.kill()
        with pytest.raises(TimeoutError):
            client.recv(1)
        machine.wan.up()
        client.settimeout(20)
        client.sendall(b"echo\n")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_lond_says_a_line_unasked_and_the_crowd_sees_wrong_replies(machine):
    machine.wan.change(delay_ms=5)
    machine.lond(options=["--unasked", "0.5", "--later", "0.005"])
    machine.configure(loncMaxConnections=1)
    machine.run()
    with Crowd(machine.sockets / "l1", 4) as crowd:
        crowd.is_served()
        eventually(lambda: crowd.count(WRONG) > 0, 20)


def test_the_crowd_records_con_lost(machine):
    lond = machine.lond()
    machine.run()
    with Crowd(machine.sockets / "l1", 3) as crowd:
        crowd.is_served()
        lond.kill()
        moment = time.monotonic()
        eventually(lambda: len(crowd.since(moment, LOST)) >= 3)


def test_critics_record_the_promised_requests(machine):
    lond = machine.lond()
    machine.configure(loncDelayedInterval=0.2, loncRetryDelay=0.1, loncRetryMaxDelay=0.2)
    machine.run()
    with Critics(machine.settings(), rate=50, users=3, threads=2) as critics:
        eventually(lambda: critics.since(0, OK))
        lond.kill()
        eventually(lambda: critics.since(0, DELAYED))
        critics.end()
        assert critics.lost_from(lond.carried_out()) != set()
    lond = machine.lond()
    eventually(lambda: critics.lost_from(lond.carried_out()) == set(), 20)


def test_a_host_that_has_no_address_is_asked_for_at_our_nameserver(machine):
    nameserver = machine.by_name([machine.address(1)])
    machine.lond()
    machine.run()
    assert eventually(lambda: machine.ask(b"echo") == b"echo")
    assert nameserver.queries >= 1


def test_a_nameserver_without_addresses_is_silent(machine):
    query = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\4lond\0\0\1\0\1"
    servers = {"127.0.0.2": [], "127.0.0.3": ["10.99.0.2", "2001:db8:99::2"]}
    with nameservers(machine.wan.local, servers) as made:
        with machine.wan.local.entered():
            asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with asking:
            asking.settimeout(20)
            for each in servers:
                asking.sendto(query, (each, 53))
            answer, sender = asking.recvfrom(512)
            eventually(lambda: [each.queries for each in made.values()] == [1, 1])
    assert sender == ("127.0.0.3", 53)
    assert answer[:8] == b"\x12\x34\x81\x80\0\1\0\1"
    assert answer.endswith(b"\0\4\x0a\x63\0\2")
