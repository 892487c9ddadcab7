"""Turns, as a queue: whoever comes and goes, at most one service of those that share a place has its turn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpumod.domain.turns import Ticket, in_the_way, is_awaited

SHARING = {"hyde", "reranker", "chat"}
SERVICES = [*sorted(SHARING), "tts"]


def ticket(number: int, service: str, began_at: float | None = None) -> Ticket:
    asked = {"holder": "ann", "pid": number, "identity": str(number), "asked_at": float(number)}
    return Ticket(id=f"t{number}", number=number, service=service, began_at=began_at, **asked)


@given(moves=st.lists(st.tuples(st.sampled_from(SERVICES), st.integers(0, 3)), max_size=60))
def test_one_service_at_a_time_in_the_order_of_the_tickets_and_everybody_in_the_end(
    moves: list[tuple[str, int]],
) -> None:
    queue: list[Ticket] = []
    begun: list[int] = []

    def let_begin() -> None:
        for n, waiting in enumerate(queue):
            if waiting.began_at is None and not in_the_way(waiting, queue, SHARING):
                queue[n] = waiting.model_copy(update={"began_at": 1.0})
                begun.append(waiting.number)
        assert len({t.service for t in queue if t.began_at is not None and t.service in SHARING}) <= 1

    for number, (service, ends) in enumerate(moves):
        queue.append(ticket(number, service))
        let_begin()
        for _ in range(ends):
            holding = [t for t in queue if t.began_at is not None]
            if holding:
                queue.remove(holding[0])  # it is given back, or its holder is gone
                let_begin()
    while queue:
        holding = [t for t in queue if t.began_at is not None]
        assert holding, "everybody waits for somebody"
        queue.remove(holding[0])
        let_begin()
    shared = [number for number in begun if moves[number][0] in SHARING]
    assert shared == sorted(shared)
    assert sorted(begun) == list(range(len(moves)))


def test_several_share_a_turn_but_nobody_passes_one_who_waits_for_another() -> None:
    first, second, other, third = (ticket(1, "hyde", 1.0), ticket(2, "hyde"), ticket(3, "chat"), ticket(4, "hyde"))
    queue = [first, second, other, third]
    assert in_the_way(second, queue, SHARING) == ()
    assert in_the_way(other, queue, SHARING) == (first, second)
    assert in_the_way(third, queue, SHARING) == (other,)
    assert in_the_way(ticket(5, "tts"), queue, SHARING) == ()


def test_what_somebody_waits_for_is_left_to_them() -> None:
    over = ticket(1, "hyde", 1.0)
    assert not is_awaited(over, [over], SHARING)
    assert is_awaited(over, [over, ticket(2, "hyde")], SHARING)
    assert is_awaited(over, [ticket(2, "chat")], SHARING)
    assert not is_awaited(over, [ticket(2, "tts")], SHARING)
    assert is_awaited(ticket(1, "tts", 1.0), [ticket(2, "tts")], SHARING)
