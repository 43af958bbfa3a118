from lonc.child.memory_limit import MemoryLimit

MIB = 1 << 20


class Holder:
    def __init__(self, holders, held):
        self.holders = holders
        self.held = held
        holders.append(self)

    def let_go(self, why):
        assert "8388608 bytes" in why
        self.holders.remove(self)
        self.held = 0


def test_who_holds_most_is_let_go_until_the_rest_is_not_too_much():
    holders, told = [], []
    stock = MemoryLimit(8 * MIB, lambda: holders, told.append)
    small, large, larger = (Holder(holders, size * MIB) for size in (1, 6, 9))
    for _ in range(1024):
        stock.grew(1024)
    assert holders == [small, large, larger]  # so little cannot have made a difference
    stock.grew(1)
    assert holders == [small, large]
    assert len(told) == 1
    large.held = 8 * MIB
    stock.grew(MIB)
    assert holders == [small, large]
    stock.grew(1)
    assert holders == [small]


def test_what_others_hold_may_go_with_it():
    holders = []

    class Connection(Holder):
        """What waits for it fails when it ends, and is held no more."""

        def let_go(self, why):
            super().let_go(why)
            for holder in holders:
                holder.held = 0

    clients = [Holder(holders, MIB) for _ in range(10)]
    Connection(holders, MIB + 1)
    MemoryLimit(8 * MIB, lambda: holders, lambda why: None).grew(2 * MIB)
    assert holders == clients


def test_the_limit_itself_is_not_too_much():
    holders = []
    Holder(holders, 8 * MIB)
    MemoryLimit(8 * MIB, lambda: holders, lambda why: None).grew(100 * MIB)
    assert len(holders) == 1
