"""What the scripts are meant to decide, in plain Python: written from the rules, not from the scripts.

Time is an argument, so that the real script's own time can be replayed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from policies.limits import Draw, Metric, Mode
from policies.windows import Calendar, Rolling, edges


@dataclass
class Window:
    """A sliding window: amounts by sub-bucket; the present one and 60 whole ones count."""

    width_ms: int
    buckets: dict[int, int] = field(default_factory=dict)

    def bucket(self, now_ms: int) -> int:
        return now_ms * 60 // self.width_ms

    def used(self, now_ms: int) -> int:
        head = self.bucket(now_ms)
        return sum(amount for bucket, amount in self.buckets.items() if head - 60 <= bucket <= head)

    def charge(self, now_ms: int, amount: int) -> int:
        position = self.bucket(now_ms)
        self.buckets[position] = self.buckets.get(position, 0) + amount
        return position

    def correct(self, now_ms: int, position: int, delta: int) -> None:
        head = self.bucket(now_ms)
        inside = head - 60 <= position <= head
        if delta > 0:
            place = position if inside else head
            self.buckets[place] = self.buckets.get(place, 0) + delta
        elif inside:
            self.buckets[position] = max(0, self.buckets.get(position, 0) + delta)


@dataclass
class Granted:
    """An admission of the model."""

    output: int
    charged: dict[int, tuple[int, int]]
    """Index of the draw -> (position, amount)."""


class Counters:
    """All counters of the model."""

    def __init__(self) -> None:
        self.windows: dict[tuple[str, str], Window] = {}
        self.periods: dict[tuple[str, str, int], int] = {}
        self.running: dict[tuple[str, str], int] = {}

    def used(self, draw: Draw, now_ms: int) -> int:
        """What counts against a draw now."""
        key = (draw.limit_id, draw.subject)
        match draw.window:
            case None:
                return self.running.get(key, 0)
            case Rolling(milliseconds=width):
                return self.windows.setdefault(key, Window(width)).used(now_ms)
            case Calendar() as calendar:
                return self.periods.get((*key, edges(calendar, now_ms)[0]), 0)

    def reserve(
        self, draws: list[Draw], now_ms: int, asked: int, least: int, prompt: int, money: int, per_token: int
    ) -> Granted | int:
        """The grant, or the index of the draw that refused (any of those that did)."""

        def fixed(draw: Draw) -> int:
            match draw.metric:
                case Metric.REQUESTS | Metric.CONCURRENT_REQUESTS:
                    return 1
                case Metric.OUTPUT_TOKENS:
                    return 0
                case Metric.MONEY:
                    return money
                case _:
                    return prompt

        def per(draw: Draw) -> int:
            match draw.metric:
                case Metric.OUTPUT_TOKENS | Metric.TOTAL_TOKENS:
                    return 1
                case Metric.MONEY:
                    return per_token
                case _:
                    return 0

        def most(draw: Draw) -> int:
            if draw.mode is Mode.OBSERVE:
                return asked
            room = draw.capacity - self.used(draw, now_ms) - fixed(draw)
            if room < 0:
                return -1
            return room // per(draw) if per(draw) else asked

        output, chosen = asked, list[int]()
        for number in sorted({draw.alternatives for draw in draws}):
            members = [index for index, draw in enumerate(draws) if draw.alternatives == number]
            if number == 0:
                for index in members:
                    if most(draws[index]) < least:
                        return index
                    output = min(output, most(draws[index]))
                chosen += members
                continue
            for group in dict.fromkeys(draws[index].group_id for index in members):
                own = [index for index in members if draws[index].group_id == group]
                if all(most(draws[index]) >= least for index in own):
                    output = min([output, *(most(draws[index]) for index in own)])
                    chosen += own
                    break
            else:
                return members[0]
        charged: dict[int, tuple[int, int]] = {}
        for index in chosen:
            draw = draws[index]
            amount = fixed(draw) + per(draw) * output
            charged[index] = (self._charge(draw, now_ms, amount), amount)
        return Granted(output, charged)

    def correct(self, draw: Draw, now_ms: int, position: int, delta: int) -> None:
        """Bring one charge to what was used."""
        key = (draw.limit_id, draw.subject)
        match draw.window:
            case None:
                self.running[key] = max(0, self.running.get(key, 0) + delta)
            case Rolling(milliseconds=width):
                self.windows.setdefault(key, Window(width)).correct(now_ms, position, delta)
            case Calendar():
                place = (*key, position)
                self.periods[place] = max(0, self.periods.get(place, 0) + delta)

    def _charge(self, draw: Draw, now_ms: int, amount: int) -> int:
        key = (draw.limit_id, draw.subject)
        match draw.window:
            case None:
                self.running[key] = self.running.get(key, 0) + amount
                return 0
            case Rolling(milliseconds=width):
                return self.windows.setdefault(key, Window(width)).charge(now_ms, amount)
            case Calendar() as calendar:
                start = edges(calendar, now_ms)[0]
                self.periods[*key, start] = self.periods.get((*key, start), 0) + amount
                return start
