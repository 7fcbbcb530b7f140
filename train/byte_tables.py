"""Byte tables: what a code of M bytes decodes to, and how a vector is encoded by what it decodes to.

A code decodes to the mean plus the sum of one of 256 vectors a byte, as an additive quantizer does (RQ, LSQ; OPQ is the
orthogonal case). A query in float is compared with what the codes decode to, by the cosine; the decoded vectors'
lengths are kept in a byte each. `sdc.train.fit_tables` fits tables to codes.

To encode a vector is to start at the signs of the head's outputs and to descend, see `sdc.kernels.refine`, on

    ‖x − decoded‖² + price · variance · Σ |output| over the bits that depart from the outputs' signs

The price is the dial between the two readings of a code: 0 is an additive quantizer, infinity the head's own code.

Equal vectors get equal codes, whatever the block, the order and the number of threads: vectors, tables and costs are
whole numbers so small (products below 2^24, sums of costs within 16 bits) that sums are exact in any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from sdc.arrays import BYTE_SIGNS, directions, pack_signs
from sdc.errors import SdcError
from sdc.kernels import refine, table_scores, whole_products

VALUES = 256  # of a byte
MOST_MARGIN = 4.0  # outputs beyond it, in standard deviations, count as this
MARGIN_STEP = 1 / 8  # margins are rounded to it
ROUNDS, PERTURBATIONS = 2, 4  # of the descent
QUERY_PRICE = 0.13  # of a query's bit that departs from its output's sign
FEW = 16  # rows whose products are faster in whole numbers
BLOCK = 2048  # vectors encoded at once: bounds the memory
_EXACT = 2.0**24  # float32 holds every whole number up to here
_MOST_COST = 32_000  # of a sum of costs, in 16 bits


@dataclass(frozen=True, eq=False)
class ByteTables:
    """What codes decode to.

    Attributes:
        vectors: (M, 256, d) int16, multiples of 1 / scale.
        mean: (d,) float32.
        scale: a power of two.
        variance: the mean of ‖x − mean‖² over the vectors that the tables were fitted to.
        shortest, longest: of the decoded vectors of these, the range of the length byte.

    Raises:
        SdcError: the arrays do not fit together.
    """

    vectors: np.ndarray
    mean: np.ndarray
    scale: float
    variance: float
    shortest: float = 0.0
    longest: float = 1.0
    _pairs: dict[float, tuple[np.ndarray, float]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        shape, dimension = self.vectors.shape, self.mean.shape
        if self.vectors.ndim != 3 or shape[1] != VALUES or (shape[2],) != dimension:
            raise SdcError(f"byte tables of shape {shape} for vectors of {dimension}, expected (M, 256, d) and (d,)")
        if self.vectors.dtype != np.int16 or self.mean.dtype != np.float32:
            raise SdcError(f"byte tables of {self.vectors.dtype} and {self.mean.dtype}, expected int16 and float32")
        numbers = (self.scale, self.variance, self.shortest, self.longest)
        if not (np.isfinite(numbers).all() and self.scale > 0 and self.longest > self.shortest >= 0):
            raise SdcError(f"byte tables with impossible figures {numbers}")

    @classmethod
    def on_grid(cls, vectors: np.ndarray, mean: np.ndarray, variance: float) -> ByteTables:
        """Tables of float vectors (M, 256, d), on the finest grid on which products with unit rows are exact."""
        longest = float(np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=2).max())) or 1.0
        reach = max(1 + float(np.linalg.norm(mean)), longest)  # of a unit row less the mean
        scale = 2.0 ** np.floor(np.log2(np.iinfo(np.int16).max / max(np.abs(vectors).max(), 1e-9)))
        rounding = np.sqrt(vectors.shape[2]) / 2  # what rounding adds to a vector's length, at most
        while 2.1 * (longest * scale + rounding) * (reach * scale + rounding) > _EXACT:
            scale /= 2
        whole = np.ascontiguousarray(np.rint(vectors * scale), np.int16)
        return cls(whole, mean.astype(np.float32), float(scale), variance)

    @property
    def bytes(self) -> int:
        """M, the bytes of a code."""
        return len(self.vectors)

    @cached_property
    def _whole(self) -> np.ndarray:
        """(256 M, d) float32 whole numbers."""
        return np.asarray(self.vectors.reshape(-1, len(self.mean)).astype(np.float32))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """(n, d) float32 from codes (n, M) uint8."""
        total = np.zeros((len(codes), len(self.mean)), np.float32)  # whole numbers: any order gives the same
        for byte, table in enumerate(self.vectors):
            total += table[codes[:, byte]]
        total *= np.float32(1 / self.scale)
        return np.asarray(total + self.mean)

    def lengths(self, codes: np.ndarray) -> np.ndarray:
        """(n,) uint8, the lengths of the decoded vectors on the scale of `length_values`."""
        out = np.empty(len(codes), np.uint8)
        step = (self.longest - self.shortest) / (VALUES - 1)
        for block in (slice(start, start + BLOCK) for start in range(0, len(codes), BLOCK)):
            length = np.sqrt(np.square(self.decode(codes[block]), dtype=np.float64).sum(axis=1))
            out[block] = np.clip(np.rint((length - self.shortest) / step), 0, VALUES - 1)
        return out

    def length_values(self) -> np.ndarray:
        """(256,) float32, the lengths that the bytes stand for."""
        return np.asarray(np.linspace(self.shortest, self.longest, VALUES).astype(np.float32).clip(1e-6))

    @cached_property
    def _finer(self) -> np.float32:
        """By how much the grid of what is left of a query may be finer, its products with the vectors still exact."""
        longest = np.sqrt(self._squares().max())
        return np.float32(2.0 ** np.floor(np.log2(_EXACT / (longest * np.sqrt(len(self.mean)) / 2 + 1))))

    def _squares(self) -> np.ndarray:
        """(M, 256) float64, of the vectors' lengths in whole numbers."""
        return np.asarray(np.square(self._whole, dtype=np.float64).sum(axis=1)).reshape(self.bytes, VALUES)

    def query_tables(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Products of queries (q, d) of any length with the vectors, (q, M, 256) float32, and with the mean, (q,).

        A query's are the same in any company: it is split into two whole numbers, whose products are exact.
        """
        unit = directions(queries)
        offsets = (unit * self.mean.astype(np.float64)).sum(axis=1).astype(np.float32)
        unit *= np.float32(self.scale)
        coarse = np.rint(unit)
        split = np.concatenate([coarse, np.rint((unit - coarse) * self._finer)])
        whole = split @ self._whole.T if len(split) > FEW else whole_products(split.astype(np.int32), self.vectors)
        products, rest = np.split(whole.astype(np.float32), 2)
        products += rest / self._finer
        products *= np.float32(1 / self.scale**2)
        return products.reshape(-1, self.bytes, VALUES), offsets

    def scores(self, queries: np.ndarray, codes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Cosines (q, n) float32 of queries (q, d) with what codes (n, M) of some `lengths` (n,) uint8 decode to."""
        factors, out = 1 / self.length_values(), np.empty((len(queries), len(codes)), np.float32)
        for row, table, offset in zip(out, *self.query_tables(queries), strict=True):
            row[:] = table_scores(table, float(offset), codes, lengths, factors)
        return out

    def encode(
        self, vectors: np.ndarray, outputs: np.ndarray, price: float, rounds: int = ROUNDS,
        perturbations: int = PERTURBATIONS, start: np.ndarray | None = None,
    ) -> np.ndarray:  # fmt: skip
        """Codes (n, M) uint8 of vectors (n, d).

        Args:
            vectors: of any length; their directions are encoded.
            outputs: (n, 8 M) float32 of the head, in standard deviations.
            price: of a bit that departs from its output's sign; 0 is none.
            start: (n, M) uint8, where the descent begins; by default at the outputs' signs.
        """
        codes = pack_signs(outputs) if start is None else start
        out = np.empty_like(codes)
        pairs, grid = self._costs(price)
        for block in (slice(start, start + BLOCK) for start in range(0, len(codes), BLOCK)):
            unary = self._unary(vectors[block], outputs[block], price, grid)
            out[block] = refine(unary, pairs, codes[block], rounds, perturbations)
        return out

    def _unary(self, vectors: np.ndarray, outputs: np.ndarray, price: float, grid: float) -> np.ndarray:
        """(M, n, 256) int16, what each value of each byte costs by itself, in units of 1 / grid."""
        rows = np.rint((directions(vectors) - self.mean) * np.float32(self.scale))
        squares = np.square(self._whole).sum(axis=1).reshape(self.bytes, 1, VALUES)
        ratio = np.float32(grid / self.scale**2)
        if price:
            margins = np.rint(np.clip(outputs, -MOST_MARGIN, MOST_MARGIN) / MARGIN_STEP)
            # A whole number of the tables' own grid a step, so that sums of them are exact too.
            paid = np.float32(max(1, np.rint(price * self.variance * MARGIN_STEP / 2 * self.scale**2)))
        out = np.empty((self.bytes, len(rows), VALUES), np.int16)
        for byte in range(self.bytes):
            table = self._whole[VALUES * byte : VALUES * (byte + 1)]
            cost = rows @ (-2 * table.T)
            cost += squares[byte]
            if price:
                cost -= (margins[:, 8 * byte : 8 * byte + 8] @ BYTE_SIGNS.T) * paid
            cost *= ratio
            out[byte] = np.rint(cost)
        return out

    def _costs(self, price: float) -> tuple[np.ndarray, float]:
        """The pairs' costs (M, M, 256, 256) int16, and the finest grid on which no sum of costs leaves 16 bits."""
        if price in self._pairs:
            return self._pairs[price]
        paid = 8 * MOST_MARGIN * price * self.variance
        length = np.sqrt(self._squares().max(axis=1)) / self.scale
        reach = 1 + float(np.linalg.norm(self.mean))
        products = []
        for byte in range(self.bytes):
            product = (2 * self._whole) @ self._whole[VALUES * byte : VALUES * (byte + 1)].T / np.float32(self.scale**2)
            product[VALUES * byte : VALUES * (byte + 1)] = 0
            products.append(product.reshape(self.bytes, VALUES, VALUES))
        worst = max(
            length[byte] ** 2 + 2 * reach * length[byte] + paid + np.abs(product).max(axis=(1, 2)).sum()
            for byte, product in enumerate(products)
        )
        worst = max(float(worst), 1e-9)  # tables of zeros cost nothing
        grid = float(2.0 ** np.floor(np.log2(_MOST_COST / worst)))
        pairs = np.stack([np.rint(product * np.float32(grid)).astype(np.int16) for product in products])
        self._pairs.clear()  # they take far more memory than the tables
        return self._pairs.setdefault(price, (pairs, grid))


@dataclass(frozen=True, eq=False)
class CodeTables:
    """The tables of a model: what its codes are scored with, and how they are refined.

    Attributes:
        decoder: what codes decode to when a query in float is compared with them.
        encoder: what they are encoded against; None leaves them the outputs' signs.
        price: of a bit that departs from its output's sign.
        deviation: of the outputs on training rows: their unit in the price.
        perturbations: of each code when it is refined.

    Raises:
        SdcError: they do not fit together, or a figure is out of its range.
    """

    decoder: ByteTables
    encoder: ByteTables | None = None
    price: float = 0.0
    deviation: float = 1.0
    perturbations: int = PERTURBATIONS

    _PARTS: ClassVar[tuple[str, ...]] = ("decoder", "encoder")
    _FIGURES: ClassVar[tuple[str, ...]] = ("scale", "variance", "shortest", "longest")

    def __post_init__(self) -> None:
        if self.encoder is not None and self.encoder.vectors.shape != self.decoder.vectors.shape:
            raise SdcError(f"byte tables of {self.decoder.vectors.shape} and of {self.encoder.vectors.shape}")
        if not (0 <= self.price < np.inf and 0 < self.deviation < np.inf and self.perturbations >= 0):
            numbers = (self.price, self.deviation, self.perturbations)
            raise SdcError(f"byte tables with impossible figures {numbers}")

    def refines(self, *, query: bool) -> bool:
        """Whether codes are refined: queries' are not where departing from the signs is free in the database."""
        return self.encoder is not None and not (query and self.price == 0)

    def encode(self, vectors: np.ndarray, outputs: np.ndarray, *, query: bool = False) -> np.ndarray:
        """Codes (n, M) uint8 of vectors (n, d), refined where `refines` says so, else the outputs' signs.

        Args:
            outputs: (n, 8 M) float32 of the head, in standard deviations.
            query: for codes that are compared with those of a database: they depart from the signs at `QUERY_PRICE`, at
                least.
        """
        if self.encoder is None or not self.refines(query=query):
            return pack_signs(outputs)
        price = max(self.price, QUERY_PRICE) if query else self.price
        return self.encoder.encode(vectors, outputs, price, perturbations=self.perturbations)

    def arrays(self) -> dict[str, np.ndarray]:
        """Its arrays under the names that model.safetensors gives them."""
        return {
            f"tables.{part}.{name}": getattr(tables, name)
            for part in self._PARTS
            if (tables := getattr(self, part)) is not None
            for name in ("vectors", "mean")
        }

    def figures(self) -> dict[str, Any]:
        """All else, for its metadata."""
        parts = {part: tables for part in self._PARTS if (tables := getattr(self, part)) is not None}
        return {
            "price": self.price,
            "deviation": self.deviation,
            "perturbations": self.perturbations,
            **{part: {name: getattr(tables, name) for name in self._FIGURES} for part, tables in parts.items()},
        }

    @classmethod
    def restored(cls, arrays: Mapping[str, np.ndarray], figures: Mapping[str, Any]) -> CodeTables:
        """The tables that `arrays` and `figures` describe.

        Raises:
            SdcError: they do not fit together.
        """
        try:
            parts: dict[str, Any] = {
                part: ByteTables(
                    arrays[f"tables.{part}.vectors"], arrays[f"tables.{part}.mean"],
                    *(float(figures[part][name]) for name in cls._FIGURES),
                )
                for part in cls._PARTS
                if part in figures
            }  # fmt: skip
            numbers: dict[str, Any] = {name: float(figures[name]) for name in ("price", "deviation")}
            return cls(**parts, **numbers, perturbations=int(figures["perturbations"]))
        except (KeyError, TypeError, ValueError) as error:
            raise SdcError(f"byte tables that are not whole: {error}") from None
