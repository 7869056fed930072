"""Which pieces of work wait, which are in hand, and which are done or given up. No Ray here, and no files."""
from __future__ import annotations

from collections import deque
from typing import Deque, Dict, Hashable, List, Optional

MOST_TRIES = 3  # of a piece whose worker dies under it: a piece that kills its worker shall not go on for ever


class WorkList:
    """Pieces by their numbers, handed out in order, so that a worker seldom changes styles.

    A worker has one piece at a time. A piece whose worker is lost goes to the front again.
    """

    def __init__(self, count: int):
        self.waiting: Deque[int] = deque(range(count))
        self.in_hand: Dict[Hashable, int] = {}
        self.tries: Dict[int, int] = {}
        self.done: List[int] = []
        self.failed: Dict[int, str] = {}

    @property
    def finished(self) -> bool:
        return not self.waiting and not self.in_hand

    def next_for(self, worker: Hashable) -> Optional[int]:
        """A piece for a worker that has none; None: there is none left."""
        if worker in self.in_hand:
            raise ValueError(f"{worker} has piece {self.in_hand[worker]} in hand")
        if not self.waiting:
            return None
        piece = self.waiting.popleft()
        self.in_hand[worker] = piece
        self.tries[piece] = self.tries.get(piece, 0) + 1
        return piece

    def finish(self, worker: Hashable) -> int:
        """The worker has done its piece."""
        piece = self.in_hand.pop(worker)
        self.done.append(piece)
        return piece

    def fail(self, worker: Hashable, reason: str) -> int:
        """The worker's piece cannot be done, by whomever."""
        piece = self.in_hand.pop(worker)
        self.failed[piece] = reason
        return piece

    def lose(self, worker: Hashable, reason: str) -> Optional[int]:
        """The worker is gone. Its piece is to be done again, or given up after MOST_TRIES; None: it had none."""
        piece = self.in_hand.pop(worker, None)
        if piece is not None and self.tries[piece] >= MOST_TRIES:
            self.failed[piece] = f"{reason}, {MOST_TRIES} times"
        elif piece is not None:
            self.waiting.appendleft(piece)
        return piece
