"""Integer noise, exact in distribution: Skellam and the discrete Gaussian over any NumPy generator.

Both are drawn by rejection, as in Canonne, Kamath and Steinke 2020 ("The Discrete Gaussian for Differential Privacy",
Algorithms 1-3): a proposal y = +-(U + t V), U uniform on {0..t-1} and V geometric with ratio 1/e, is kept with the
probability exp(a(y)), a <= 0, that turns the proposal into the target. This one coin combines the paper's coins with
probability exp(-U/t) and exp(-gamma). The Poisson half of a Skellam value is drawn in the same way, because NumPy's
Poisson subtracts terms of size mean * ln(mean): its probabilities are off by a factor in the order of
1e-16 * mean * ln(mean), and beyond a mean of 2^53 it never gives an odd number.

Floating point: a coin compares the first 53 bits of a uniform number with exp(a), both as doubles. The comparison
counts only if a bound on its error (the slack below) proves it. The doubtful coins (from one in 1e12 for small noise
to one in 1e5 for a variance of 2^60) are decided in decimal arithmetic of 100 digits against 181 bits of the uniform
number. So the distribution is the stated one up to 2^-150 a value, given a generator of uniform bits and an `exp`,
`log`, `log1p` and `gammaln` of the platform that are right to 2^-48. The time of rejection depends on the drawn
values: these samplers are not constant-time.
"""

import math
from abc import ABC, abstractmethod
from decimal import Context, Decimal, localcontext

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from privacy.errors import ConfigError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

SIGMA_RANGE = (2.0**-10, 2.0**30)  # sigma of the discrete Gaussian: values and squares fit int64 and float64
VARIANCE_RANGE = (2.0**-40, 2.0**60)  # variance of Skellam noise

_BLOCK = 1 << 16  # number of proposals at a time: they stay in the cache
_UNIFORM_BITS = 53  # bits of a uniform number in a double
_EXTRA_BITS = 128  # additional bits for a doubtful comparison
_SLACK = 2.0**-44  # far above the rounding error of a handful of double operations on numbers near 1
_STIRLING_FROM = 1 << 20  # modes from here on use Stirling's series, those below it `gammaln`
_PRECISE = Context(prec=100)


def discrete_gaussian(generator: np.random.Generator, sigma: float, size: int) -> Ints:
    """Draw `size` values with P(y) proportional to exp(-y^2 / (2 sigma^2)), for exactly the double `sigma`.

    Sigma is a parameter: the standard deviation is a little below it, and far below it where sigma < 1/2.

    Raises:
        ConfigError: sigma outside 2^-10 to 2^30.
    """
    _check("sigma", sigma, SIGMA_RANGE)
    return _draw(generator, _Gaussian(sigma), size)


def skellam(generator: np.random.Generator, variance: float, size: int) -> Ints:
    """Draw `size` differences of two Poisson variables, each of mean variance / 2.

    Raises:
        ConfigError: variance outside 2^-40 to 2^60.
    """
    _check("variance", variance, VARIANCE_RANGE)
    target = _Poisson(variance / 2)
    first = _draw(generator, target, size)
    first -= _draw(generator, target, size)
    return first


def _check(key: str, value: float, allowed: tuple[float, float]) -> None:
    low, high = allowed
    if not low <= value <= high:
        raise ConfigError.of(key, value, f"must be a number from 2^{math.log2(low):g} to 2^{math.log2(high):g}")


class _Target(ABC):
    """A distribution over offsets y from its mode, with the acceptance rule for proposals of the same `width`."""

    width: int  # t, the width of the proposal: near the standard deviation

    @abstractmethod
    def log_accept(self, y: Ints, steps: Ints) -> tuple[Floats, Floats]:
        """Return a(y) for proposals with V = steps, and a bound on its absolute error."""

    @abstractmethod
    def exact(self, y: int, steps: int) -> Decimal:
        """Return the same a(y), to more than 60 digits after the point."""


class _Gaussian(_Target):
    """The target a(y) = V - y^2 / (2 sigma^2) - sigma^2 / (2 t^2): Algorithms 2 and 3 in one coin."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma
        self.width = math.floor(sigma) + 1

    def log_accept(self, y: Ints, steps: Ints) -> tuple[Floats, Floats]:
        exponent = np.square(y / self.sigma) / 2
        return steps - exponent - (self.sigma / self.width) ** 2 / 2, _SLACK * (1 + steps + exponent)

    def exact(self, y: int, steps: int) -> Decimal:
        squared = Decimal(self.sigma) ** 2
        return steps - y * y / (2 * squared) - squared / (2 * self.width**2)


class _Poisson(_Target):
    """The target a(y) = V + ln p(m + y) - ln p(m) - C, with mode m and C at least the maximum of the rest (a <= 0)."""

    def __init__(self, mean: float) -> None:
        self.mean = mean
        self.mode = math.floor(mean)
        self.width = math.isqrt(self.mode) + 1
        self.offset = 0.0
        self.offset = max(self._rise(sign) for sign in (1, -1)) + 1e-6  # far above the rounding error of the maximum

    def _rise(self, sign: int) -> float:
        """Return the maximum of |y|/t + ln p(m + y)/p(m) on one side of the mode.

        p is log-concave, so the maximum is at the y where successive values of p differ by a factor of exp(1/t).
        """
        best = math.floor(self.mean * math.exp(sign / self.width)) - self.mode
        with localcontext(_PRECISE):
            return float(Decimal(abs(best)) / self.width + self.exact(best, 0))

    def log_accept(self, y: Ints, steps: Ints) -> tuple[Floats, Floats]:
        ratio, error = self._far(y) if self.mode >= _STIRLING_FROM else self._near(y)
        return steps + ratio - self.offset, error + _SLACK * (1 + steps)

    def _near(self, y: Ints) -> tuple[Floats, Floats]:
        """Return ln p(m + y)/p(m) from the gamma function; -inf for counts below zero."""
        count = self.mode + y
        factorial = gammaln(np.maximum(count, 0) + 1.0)
        power = y * math.log(self.mean)
        ratio = power - (factorial - math.lgamma(self.mode + 1.0))
        return np.where(count < 0, -np.inf, ratio), _SLACK * (1 + np.abs(power) + factorial)

    def _far(self, y: Ints) -> tuple[Floats, Floats]:
        """Return the same from Stirling's series, with k ln k taken around the mode: the error grows with |y| alone.

        With k = m + y: y ln(mean/m) - (k + 1/2) ln(k/m) + y - (B(k) - B(m)), B(k) = 1/(12 k) - ...
        """
        relative = y / self.mode
        tilt = math.log1p((self.mean - self.mode) / self.mode)
        log_ratio = np.log1p(np.maximum(relative, -0.5))  # lower values come once in 2^600 proposals
        binet = -relative / (12.0 * self.mode * (1 + relative))
        ratio = y * tilt - (self.mode + y + 0.5) * log_ratio + y - binet
        return ratio, _SLACK * (1 + np.abs(y) / 16)

    def exact(self, y: int, steps: int) -> Decimal:
        if self.mode + y < 0:
            return Decimal("-Infinity")
        factorials = _log_factorial(self.mode + y) - _log_factorial(self.mode)
        return steps + y * Decimal(self.mean).ln() - factorials - Decimal(self.offset)


_BERNOULLI = ((1, 6), (-1, 30), (1, 42), (-1, 30), (5, 66), (-691, 2730), (7, 6), (-3617, 510), (43867, 798))
_HALF_LOG_TWO_PI = Decimal(  # ln(2 pi) / 2
    "0.918938533204672741780329736405617639861397473637783412817151540482765695927260397694743298635954197622005646625"
)


def _log_factorial(k: int) -> Decimal:
    """Return ln k!: exact below 4096, from there by Stirling's series, whose next term is under 1e-67 (DLMF 5.11.1)."""
    if k < 4096:
        return Decimal(math.factorial(k)).ln()
    series = sum(Decimal(a) / (b * 2 * n * (2 * n - 1)) / Decimal(k) ** (2 * n - 1) for n, (a, b) in _NUMBERED)
    return (k + Decimal("0.5")) * Decimal(k).ln() - k + _HALF_LOG_TWO_PI + series


_NUMBERED = tuple(enumerate(_BERNOULLI, start=1))


def _draw(generator: np.random.Generator, target: _Target, size: int) -> Ints:
    """Draw `size` values of the target, in blocks of proposals."""
    drawn = np.empty(size, np.int64)
    filled = 0
    while filled < size:
        kept = _accepted(generator, target, min(_BLOCK, 3 * (size - filled) + 16))[: size - filled]
        drawn[filled : filled + len(kept)] = kept
        filled += len(kept)
    if isinstance(target, _Poisson):
        drawn += target.mode
    return drawn


def _accepted(generator: np.random.Generator, target: _Target, proposals: int) -> Ints:
    """Return the accepted values of some proposals, in order. Minus zero is rejected: it would count zero twice."""
    picked = generator.integers(0, 2 * target.width, proposals)
    steps = _geometric(generator, proposals)
    negative = (picked & 1).astype(bool)
    y = (picked >> 1) + target.width * steps
    keep = ~negative | (y > 0)
    np.negative(y, out=y, where=negative)
    keep &= _coins(generator, target, y, steps)
    return y[keep]


def _geometric(generator: np.random.Generator, size: int) -> Ints:
    """Draw V with P(V >= k) = exp(-k): the floor of -ln u, refined where the next bits of u could change it."""
    u = generator.random(size)
    with np.errstate(divide="ignore"):
        level = -np.log(u)
        doubt = _SLACK * (1 + level) + 2.0**-_UNIFORM_BITS / u
    level[u == 0] = 0
    doubt[u == 0] = 1
    steps = np.floor(level).astype(np.int64)
    for i in np.flatnonzero(np.abs(level - np.rint(level)) <= doubt):
        with localcontext(_PRECISE):
            steps[i] = int(-_refined(generator, u[i]).ln())
    return steps


def _coins(generator: np.random.Generator, target: _Target, y: Ints, steps: Ints) -> NDArray[np.bool_]:
    """Flip one coin for each proposal: true with probability exp(a(y))."""
    log_accept, error = target.log_accept(y, steps)
    probability = np.exp(log_accept)
    u = generator.random(len(y))
    margin = u - probability
    heads = margin < 0
    for i in np.flatnonzero(np.abs(margin) <= probability * (error + _SLACK) + 2.0**-_UNIFORM_BITS):
        with localcontext(_PRECISE):
            heads[i] = _refined(generator, u[i]) < target.exact(int(y[i]), int(steps[i])).exp()
    return heads


def _refined(generator: np.random.Generator, u: np.float64) -> Decimal:
    """Return a uniform number with the first 53 bits of u, to 181 bits; the middle of its cell, so never zero."""
    extra = int.from_bytes(generator.bytes(_EXTRA_BITS // 8), "little")
    cell = (int(u * 2.0**_UNIFORM_BITS) << _EXTRA_BITS) + extra
    return (cell + Decimal("0.5")) / Decimal(1 << (_UNIFORM_BITS + _EXTRA_BITS))
