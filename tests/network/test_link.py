"""The rules of the emulated network, by the clock that they are given."""

import struct

import pytest
from network.link import BACK, OUT, Link

LOCAL, REMOTE = b"\x0a\x63\0\1", b"\x0a\x63\0\2"
SYN, ACK = 0x02, 0x10


def tcp(flags=ACK, port=1000, back=False, size=100):
    """An IPv4 packet of a connection from `port` of the local machine to port 5663 of the remote one."""
    ends = [(LOCAL, port), (REMOTE, 5663)]
    (source, source_port), (target, target_port) = reversed(ends) if back else ends
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, size, 0, 0, 64, 6, 0, source, target)
    header += struct.pack("!HHIIBBHHH", source_port, target_port, 0, 0, 0x50, flags, 0, 0, 0)
    return header.ljust(size, b"\0")


def ipv6(flags=ACK):
    header = struct.pack("!IHBB16s16s", 0x60000000, 20, 6, 64, LOCAL * 4, REMOTE * 4)
    return header + struct.pack("!HHIIBBHHH", 1000, 5663, 0, 0, 0x50, flags, 0, 0, 0)


def udp(number):
    return struct.pack("!BBHHHBBH4s4sH", 0x45, 0, 22, 0, 0, 64, 17, 0, LOCAL, REMOTE, number)


def arrivals(link, until, step=0.001):
    """When each packet comes out, by a clock that goes in steps; (direction, seconds, packet)."""
    steps = [step * number for number in range(int(until / step) + 1)]
    return [(direction, now, packet) for now in steps for direction, packet in link.due(now)]


def passed(link, direction, packet, now):
    """Whether it gets through at that moment."""
    link.send(direction, packet, now)
    return len(list(link.due(now + 10))) == 1


def test_a_packet_comes_out_after_the_delay_of_its_direction():
    link = Link()
    link.change(OUT, delay_ms=20)
    link.change(BACK, delay_ms=50)
    link.send(OUT, udp(1), 0.0)
    link.send(BACK, udp(2), 0.0)
    assert link.next_due() == 0.02
    assert arrivals(link, 0.1) == [(OUT, 0.02, udp(1)), (BACK, 0.05, udp(2))]
    assert link.next_due() is None


def test_jitter_delays_and_keeps_the_order():
    link = Link()
    link.change(delay_ms=10, jitter_ms=30)
    for number in range(50):
        link.send(OUT, udp(number), number / 1000)
    came = arrivals(link, 0.2)
    assert [packet for _, _, packet in came] == [udp(number) for number in range(50)]
    assert all(0.01 <= now - number / 1000 <= 0.08 for number, (_, now, _) in enumerate(came))


def test_reordered_packets_arrive_after_later_ones_and_none_is_missing():
    link = Link()
    link.change(reorder=0.2, reorder_ms=5)
    for number in range(100):
        link.send(OUT, udp(number), number / 1000)
    came = [packet for _, _, packet in arrivals(link, 0.2)]
    assert came != sorted(came)
    assert sorted(came) == [udp(number) for number in range(100)]
    assert 5 < link.counts[OUT]["reordered"] < 50


def test_a_share_of_packets_is_lost():
    link = Link()
    link.change(OUT, loss=0.3)
    for number in range(1000):
        link.send(OUT, udp(number), 0.0)
        link.send(BACK, udp(number), 0.0)
    assert link.counts[OUT]["lost"] == pytest.approx(300, abs=60)
    assert link.counts[BACK]["lost"] == 0
    assert len(list(link.due(0.0))) == 2000 - link.counts[OUT]["lost"]


def test_a_rate_delays_packets_and_drops_those_beyond_its_queue():
    link = Link()
    link.change(rate=80_000, queue=500)  # 100 bytes in 10 ms
    for _ in range(20):
        link.send(OUT, tcp(SYN), 0.0)
    assert link.counts[OUT]["queue full"] == 14
    moments = [now for _, now, _ in arrivals(link, 0.2)]
    assert moments == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.05, 0.06], abs=0.0015)


def test_while_a_direction_is_down_no_packet_arrives_not_even_one_under_way():
    link = Link()
    link.change(delay_ms=10)
    link.send(OUT, udp(1), 0.0)
    link.send(BACK, udp(2), 0.0)
    link.change(OUT, down=True)
    link.send(OUT, udp(3), 0.001)
    assert list(link.due(1.0)) == [(BACK, udp(2))]
    link.change(down=False)
    assert passed(link, OUT, udp(4), 1.0)
    assert link.counts[OUT] == {"sent": 2, "down": 2}


def test_only_ipv6_is_dropped():
    link = Link()
    link.change(drop_ipv6=True)
    assert not passed(link, OUT, ipv6(SYN), 0.0)
    assert passed(link, OUT, tcp(SYN), 0.0)


def test_a_packet_longer_than_the_mtu_is_dropped():
    link = Link()
    link.change(OUT, mtu=99)
    assert not passed(link, OUT, tcp(SYN), 0.0)
    assert passed(link, OUT, tcp(SYN, size=99), 0.0)
    assert passed(link, BACK, tcp(back=True), 0.0)


def test_the_firewall_forgets_idle_flows_and_passes_new_ones():
    link = Link()
    link.firewall.forget_after = 60
    assert not passed(link, OUT, tcp(), 0.0), "it has not been opened"
    assert passed(link, OUT, tcp(SYN), 0.0)
    assert passed(link, BACK, tcp(SYN | ACK, back=True), 50.0)
    assert passed(link, OUT, tcp(), 100.0)
    assert not passed(link, BACK, tcp(back=True), 161.0)
    assert not passed(link, OUT, tcp(), 162.0), "it does not remember by being asked"
    assert passed(link, OUT, tcp(SYN, port=1001), 162.0)
    assert passed(link, OUT, udp(1), 300.0)
    assert passed(link, OUT, ipv6(SYN), 300.0)
    assert not passed(link, OUT, ipv6(), 400.0)


def test_an_order_makes_the_firewall_forget_all_flows():
    link = Link()
    assert passed(link, OUT, tcp(SYN), 0.0)
    assert passed(link, OUT, tcp(), 1e6), "without a time it forgets nothing by itself"
    link.firewall.forget()
    assert not passed(link, OUT, tcp(), 1e6)


def test_a_condition_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="there is no condition 'delay'"):
        Link().change(delay=1)
