from lonc.child.memory_limit import MemoryLimit

MIB = 1 << 20


class Holder:
    def __init__(self, holders, held):
        self.holders = holders
        self.held = held
        holders.append(self)

    def close(self, why):
        assert "8388608 bytes" in why
        self.holders.remove(self)
        self.held = 0


def test_the_largest_holders_are_closed_until_the_sum_is_within_the_limit():
    holders, errors = [], []
    limit = MemoryLimit(8 * MIB, lambda: holders, errors.append)
    small, large, larger = (Holder(holders, size * MIB) for size in (1, 6, 9))
    for _ in range(1024):
        limit.report_growth(1024)
    assert holders == [small, large, larger]  # so little cannot have made a difference
    limit.report_growth(1)
    assert holders == [small, large]
    assert len(errors) == 1
    large.held = 8 * MIB
    limit.report_growth(MIB)
    assert holders == [small, large]
    limit.report_growth(1)
    assert holders == [small]


def test_closing_one_holder_may_free_bytes_of_others():
    holders = []

    class Connection(Holder):
        """Closing it ends the requests that wait for it, which frees their bytes."""

        def close(self, why):
            super().close(why)
            for holder in holders:
                holder.held = 0

    clients = [Holder(holders, MIB) for _ in range(10)]
    Connection(holders, MIB + 1)
    MemoryLimit(8 * MIB, lambda: holders, lambda why: None).report_growth(2 * MIB)
    assert holders == clients


def test_a_sum_equal_to_the_limit_is_allowed():
    holders = []
    Holder(holders, 8 * MIB)
    MemoryLimit(8 * MIB, lambda: holders, lambda why: None).report_growth(100 * MIB)
    assert len(holders) == 1
