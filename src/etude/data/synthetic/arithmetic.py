"""Synthetic data for arithmetic: operations modulo a prime, and addition of decimal numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from etude.data.objective import IGNORE
from etude.data.synthetic.base import Arrays, SyntheticData
from etude.data.synthetic.draws import Numbers
from etude.errors import Checks, nearest


def _divide(a: Numbers, b: Numbers, p: int) -> Numbers:
    """Returns a / b modulo a prime p, elementwise, for b from 1 to p - 1.

    The inverse of b modulo p is b**(p - 2), by Fermat's little theorem.
    """
    inverses = np.array([pow(number, p - 2, p) for number in range(p)], dtype=np.int64)
    return a * inverses[b] % p


OPERATIONS: dict[str, Callable[[Numbers, Numbers, int], Numbers]] = {
    "add": lambda a, b, p: (a + b) % p,
    "subtract": lambda a, b, p: (a - b) % p,
    "multiply": lambda a, b, p: a * b % p,
    "divide": _divide,
    "squares": lambda a, b, p: (a * a + b * b) % p,
    "squares_product": lambda a, b, p: (a * a + a * b + b * b) % p,
    "cubes": lambda a, b, p: (a**3 + a * b) % p,
}
"""The operations of Power et al. 2022, arXiv:2201.02177, appendix A.1.1."""


@dataclass(kw_only=True, eq=False)
class ModularArithmetic(SyntheticData):
    """Modular arithmetic: all p² sequences `a b =`, whose target at the last position is the result
    of an operation on a and b modulo p.

    Token ids: the numbers 0 to p - 1, then `=`. The sequence length T is 3. The format is that of
    Nanda et al. 2023, arXiv:2301.05217, section 3. Power et al. 2022 add a token for the operation,
    which is the same in every example.

    Args:
        p: a prime number.
        operation: `add`, `subtract`, `multiply`, `divide` (only the p² - p sequences
            with b from 1), `squares` (a² + b²),
            `squares_product` (a² + ab + b²) or `cubes` (a³ + ab). All are from Power et al. 2022.
        sequence_length: must be 3.
        batch, training, validation, validate_training, data_seed, workers: see `SyntheticData`.
    """

    answers_last = True

    sequence_length: int = 3
    p: int = 113
    operation: str = "add"
    validation: int | float = 0.7
    validate_training: bool = True

    def validate(self, checks: Checks) -> None:
        p, operation, length = self.p, self.operation, self.sequence_length
        if not checks.that(p < 2**16 and _is_prime(p), "p", p, "a prime number below 65,536"):
            p = 113  # a valid value, so that the checks below report only errors of their own
        self.size = p * (p - 1 if operation == "divide" else p)
        hint = nearest(operation, OPERATIONS)
        expected = f"one of {', '.join(OPERATIONS)}"
        checks.that(operation in OPERATIONS, "operation", operation, expected, hint)
        checks.that(length == 3, "sequence_length", length, "3 (the tokens `a b =`)")
        super().validate(checks)

    @property
    def symbols(self) -> list[str]:
        return [*map(str, range(self.p)), "="]

    def settings(self) -> dict[str, object]:
        return {"p": self.p, "operation": self.operation}

    def numbered(self, numbers: Numbers) -> Arrays:
        a, b = numbers % self.p, numbers // self.p
        if self.operation == "divide":
            b = b + 1
        equals = np.full_like(a, self.p)
        labels = np.full((len(numbers), 3), IGNORE, dtype=np.int64)
        labels[:, 2] = OPERATIONS[self.operation](a, b, self.p)
        return {"tokens": np.stack([a, b, equals], axis=1), "labels": labels}


@dataclass(kw_only=True, eq=False)
class Adder(SyntheticData):
    """Addition: the digits of two numbers, then the digits of their sum in reverse order.

    The format is that of minGPT's example (Karpathy 2020): 85 + 50 = 135 is `8 5 5 0 5 3 1`. The
    labels are the digits of the sum. The token id of a digit is its value. There are
    100 ** `digits` examples, one for each pair of numbers.

    Args:
        digits: number of digits of each of the two numbers, including leading zeros.
        sequence_length: must be 3 * `digits`; the last digit of the sequence is only a label.
        batch, training, validation, validate_training, data_seed, workers: see `SyntheticData`.
    """

    answers_last = True

    sequence_length: int = 6
    digits: int = 2
    validation: int | float = 500

    def validate(self, checks: Checks) -> None:
        digits, length = self.digits, self.sequence_length
        checks.that(0 < digits <= 9, "digits", digits, "an integer from 1 to 9")
        self.size = 100 ** min(max(1, digits), 9)
        expected = f"3 * digits = {3 * digits}"
        checks.that(length == 3 * digits, "sequence_length", length, expected)
        super().validate(checks)

    @property
    def symbols(self) -> list[str]:
        return list("0123456789")

    def settings(self) -> dict[str, object]:
        return {"digits": self.digits}

    def numbered(self, numbers: Numbers) -> Arrays:
        limit = 10**self.digits
        a, b = numbers % limit, numbers // limit
        last_first = _last_digits(a + b, self.digits + 1)
        inputs = [_last_digits(number, self.digits)[:, ::-1] for number in (a, b)]
        whole = np.concatenate([*inputs, last_first], axis=1)
        return next_token_arrays(whole, answers=self.digits + 1)


def next_token_arrays(whole: Numbers, answers: int) -> Arrays:
    """Returns the inputs and labels of n sequences of T + 1 token ids, for next-token prediction.

    Args:
        whole: token ids, of shape (n, T + 1).
        answers: number of positions at the end that have a label. All other labels are `IGNORE`.

    Returns:
        A dict with `tokens`, all token ids except the last of each sequence, and `labels`, all
        except the first; both have the shape (n, T).
    """
    tokens, labels = whole[:, :-1].copy(), whole[:, 1:].copy()
    labels[:, : labels.shape[1] - answers] = IGNORE
    return {"tokens": tokens, "labels": labels}


def _last_digits(numbers: Numbers, count: int) -> Numbers:
    """Returns the last `count` decimal digits of each of the n numbers, last digit first.

    The result has the shape (n, count).
    """
    return numbers[:, None] // 10 ** np.arange(count, dtype=np.int64) % 10


def _is_prime(number: Any) -> bool:
    """Returns whether a number is prime."""
    return number > 1 and all(number % other for other in range(2, int(number**0.5) + 1))
