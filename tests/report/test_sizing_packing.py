"""Placing replicas, against arrangements worked out by hand and a plain search."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from clipperf.report.sizing.packing import Load, Machine, pack


def load(replicas: int, **more: Any) -> Load:
    values: dict[str, Any] = {
        "threads": 2,
        "ram_bytes": 10,
        "vram_bytes": 0,
        "gpu": False,
        "need": float(replicas),
        "latency_s": 0.1,
    }
    return Load(replicas=replicas, **{**values, **more})


def on_gpu(replicas: int, **more: Any) -> Load:
    return load(replicas, **{"gpu": True, "vram_bytes": 40, **more})


MACHINE = Machine(cores=8, ram_bytes=50, vram_bytes=100)
NO_LIMIT = Machine(None, None, None)


# --- what a machine holds ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loads", "counts", "held"),
    [
        ((load(9), load(9)), (2, 2), True),
        ((load(9), load(9)), (2, 3), False),  # 10 threads on 8 cores
        ((load(9, threads=1), load(9, threads=1)), (2, 3), True),
        ((load(9, threads=1), load(9, threads=1)), (3, 3), False),  # 60 bytes of 50
        ((load(9, threads=1, ram_bytes=20), load(9, ram_bytes=5)), (2, 2), True),
        ((load(9, threads=1, ram_bytes=20), load(9, ram_bytes=5)), (2, 3), False),
        ((on_gpu(9), on_gpu(9)), (1, 1), True),
        ((on_gpu(9), on_gpu(9, vram_bytes=60)), (1, 1), True),
        ((on_gpu(9), on_gpu(9, vram_bytes=61)), (1, 1), False),
        ((on_gpu(9, vram_bytes=1), load(9)), (2, 0), False),  # one replica a GPU
        ((on_gpu(9), load(9)), (1, 3), True),
        ((on_gpu(9), load(9)), (0, 4), True),
    ],
)
def test_what_fits(loads: tuple[Load, Load], counts: tuple[int, int], held: bool) -> None:
    assert MACHINE.holds(loads, counts) is held


def test_what_is_not_known_limits_nothing() -> None:
    many = (load(1), load(1, vram_bytes=10**9))
    assert NO_LIMIT.holds(many, (1000, 1000))
    assert not Machine(8, None, None).holds(many, (4, 1))
    assert not Machine(None, 50, None).holds(many, (4, 2))
    assert not Machine(None, None, 10).holds(many, (1, 1))
    with pytest.raises(ValueError):
        NO_LIMIT.holds(many, (1,))


@pytest.mark.parametrize(
    ("machine", "one", "capacity"),
    [
        (MACHINE, load(1), 4),
        (MACHINE, load(1, threads=3), 2),
        (MACHINE, load(1, threads=1), 5),
        (MACHINE, load(1, threads=1, ram_bytes=0), 8),
        (Machine(None, 50, 100), load(1, ram_bytes=1), 50),
        (Machine(None, 50, 100), load(1, ram_bytes=12), 4),
        (Machine(None, None, 100), load(1), None),
        (Machine(None, 50, None), load(1, ram_bytes=0), None),
        (Machine(None, None, 100), load(1, vram_bytes=100), None),  # of a CPU load it says nothing
        (Machine(None, None, 100), on_gpu(1), 1),
        (Machine(None, None, 100), on_gpu(1, vram_bytes=101), 0),
        (Machine(None, None, 100), on_gpu(1, vram_bytes=0), 1),
        (NO_LIMIT, on_gpu(1), 1),
        (NO_LIMIT, load(1), None),
        (Machine(1, 50, None), load(1), 0),
    ],
)
def test_how_many_fit(machine: Machine, one: Load, capacity: int | None) -> None:
    assert machine.capacity(one) == capacity


# --- one tower -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replicas", "filled"),
    [
        (1, [(1, (1,))]),
        (4, [(1, (4,))]),
        (5, [(1, (4,)), (1, (1,))]),
        (8, [(2, (4,))]),
        (11, [(2, (4,)), (1, (3,))]),
    ],
)
def test_one_tower_fills_machine_after_machine(replicas: int, filled: object) -> None:
    assert pack([load(replicas)], MACHINE) == filled


def test_one_tower_without_limits_takes_one_machine() -> None:
    assert pack([load(7)], NO_LIMIT) == [(1, (7,))]


def test_one_tower_on_gpus() -> None:
    # The last GPU stands apart, since it may be idle at times.
    assert pack([on_gpu(1)], MACHINE) == [(1, (1,))]
    assert pack([on_gpu(3)], MACHINE) == [(2, (1,)), (1, (1,))]


# --- two towers ----------------------------------------------------------------------------


def test_the_other_tower_fills_gaps_machine_by_machine() -> None:
    # 8 cores: two of 3 threads leave room for two of 1.
    images = load(4, threads=3, ram_bytes=1)
    texts = [load(n, threads=1, ram_bytes=1) for n in range(1, 7)]
    assert pack([images, texts[0]], MACHINE) == [(1, (2, 1)), (1, (2, 0))]
    assert pack([images, texts[1]], MACHINE) == [(1, (2, 2)), (1, (2, 0))]
    assert pack([images, texts[2]], MACHINE) == [(1, (2, 2)), (1, (2, 1))]
    assert pack([images, texts[3]], MACHINE) == [(2, (2, 2))]
    assert pack([images, texts[4]], MACHINE) == [(2, (2, 2)), (1, (0, 1))]


def test_what_fits_no_gap_gets_machines_of_its_own() -> None:
    # Four of 2 threads leave nothing; texts fill two machines and a rest.
    assert pack([load(8, ram_bytes=1), load(9, ram_bytes=1)], MACHINE) == [
        (2, (4, 0)),
        (2, (0, 4)),
        (1, (0, 1)),
    ]


def test_a_last_machine_that_is_not_full_takes_the_rest() -> None:
    assert pack([load(5, ram_bytes=1), load(3, ram_bytes=1)], MACHINE) == [
        (1, (4, 0)),
        (1, (1, 3)),
    ]


def test_the_order_that_takes_fewer_machines_wins_the_first_in_a_tie() -> None:
    small, large = load(4, threads=1, ram_bytes=1), load(2, threads=5, ram_bytes=1)
    # Small ones first: (4, 0), then (0, 1) twice. Large ones first: each leaves 3 cores.
    assert pack([small, large], MACHINE) == [(1, (3, 1)), (1, (1, 1))]
    assert pack([large, small], MACHINE) == [(1, (1, 3)), (1, (1, 1))]
    # Here both take one machine.
    ones = load(3, threads=1, ram_bytes=1), load(2, threads=1, ram_bytes=1)
    assert pack(ones, MACHINE) == [(1, (3, 2))]


def fewest(loads: tuple[Load, Load], machine: Machine) -> int:
    """The least number of machines, by trying what each may hold."""
    every = [
        counts
        for counts in itertools.product(*(range(one.replicas + 1) for one in loads))
        if any(counts) and machine.holds(loads, counts)
    ]
    left, steps = {(loads[0].replicas, loads[1].replicas)}, 0
    while (0, 0) not in left:
        left = {(max(0, a - i), max(0, b - j)) for a, b in left for i, j in every}
        steps += 1
    return steps


@pytest.mark.parametrize("cores", [4, 5, 7, 8])
def test_packing_is_close_to_the_best_there_is(cores: int) -> None:
    machine = Machine(cores, 40, None)
    for a, b, threads, ram in itertools.product((1, 3, 6), (1, 2, 5), (1, 3), (5, 13)):
        loads = (load(a, ram_bytes=9), load(b, threads=threads, ram_bytes=ram))
        filled = pack(loads, machine)
        assert sum(n * counts[0] for n, counts in filled) == a
        assert sum(n * counts[1] for n, counts in filled) == b
        assert all(n >= 1 and machine.holds(loads, counts) for n, counts in filled)
        best = fewest(loads, machine)
        assert best <= sum(n for n, _ in filled) <= best + 1


# --- GPUs ----------------------------------------------------------------------------------


def test_two_towers_share_the_last_gpu_alone() -> None:
    # 2.5 and 0.5 GPUs: the third one's idle half takes the texts.
    images, texts = on_gpu(3, need=2.5), on_gpu(1, need=0.5)
    assert pack([images, texts], MACHINE) == [(2, (1, 0)), (1, (1, 1))]
    # A little more, and they are busy for more than all of the time.
    more = on_gpu(1, need=0.51)
    assert pack([images, more], MACHINE) == [(2, (1, 0)), (1, (1, 0)), (1, (0, 1))]


def test_several_gpus_of_both() -> None:
    images, texts = on_gpu(2, need=1.4), on_gpu(2, need=1.6)
    assert pack([images, texts], MACHINE) == [(1, (1, 0)), (1, (1, 1)), (1, (0, 1))]


def test_waiting_for_the_other_tower_counts_against_the_slo() -> None:
    images, texts = on_gpu(1, need=0.1), on_gpu(1, need=0.1, latency_s=0.15)
    assert pack([images, texts], MACHINE, 0.25) == [(1, (1, 1))]
    assert pack([images, texts], MACHINE, 0.24) == [(1, (1, 0)), (1, (0, 1))]


def test_a_gpu_and_a_cpu_tower_do_not_wait_for_each_other() -> None:
    images, texts = on_gpu(2, threads=1, need=2.0, ram_bytes=1), load(4, ram_bytes=1, need=4.0)
    assert pack([images, texts], MACHINE, 0.01) == [(1, (1, 3)), (1, (1, 1))]
    assert pack([texts, images], MACHINE, 0.01) == [(1, (3, 1)), (1, (1, 1))]
