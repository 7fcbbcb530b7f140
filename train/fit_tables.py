"""Fitting byte tables: to given codes, or to codes that are refined against them.

Least squares with a ridge penalty, drawn towards the decoder that is linear in the bits: values of a byte that no row
has decode sensibly then. Where codes are refined, tables and codes take turns, with noise on the rows that falls from
turn to turn (as in LSQ++, Martinez et al., ECCV 2018). The codes of the end are those that encoding afresh gives.

The tables that a query is scored with are learned from there, codes fixed, by the neighbour loss of
`sdc.train.methods.neighbors` with the decoded vectors in the codes' place, held near the rows by their squared error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sdc.arrays import BYTE_SIGNS, directions, pack_signs
from sdc.devices import threads_by_work
from sdc.errors import SdcError, log
from sdc.progress import Progress
from sdc.train.byte_tables import VALUES, ByteTables, CodeTables
from sdc.train.recipe import Recipe

if TYPE_CHECKING:
    import scipy.sparse

RIDGE = 10.0
LEAST_ROWS = 1024  # to fit tables to: a few rows a value of a byte
HELD_OUT, SPARE = 500, 20  # rows that tables are checked on, where there are so many times as many
DATABASE, NEIGHBORS = 10_000, 10  # rows among which the nearest are looked for, and how many
BLOCK = 4096  # rows
SAMPLE = 100_000  # rows that tables are fitted to, at most
ANCHORS, BANK, RATE, STUDENT, FIDELITY = 512, 2048, 0.02, 0.03, 2.0  # of learning the tables that score


@dataclass(frozen=True)
class Dial:
    """How codes are refined for one reading, or for both.

    Attributes:
        price: of a bit that departs from its output's sign, in variances of the rows.
        turns: of tables and codes.
        noise: of the rows in the first turn, in standard deviations of a coordinate.
        kicks: perturbations of each code in a turn.
        perturbations: of each code when it is encoded.
        steps: of learning the tables that score.
    """

    price: float
    turns: int
    noise: float
    kicks: int
    perturbations: int
    steps: int


# Chosen on held-out training rows: bench/results/recipe.md.
DIALS = {
    "hamming": Dial(0.04, 3, 0.0, 1, 4, 150),
    "both": Dial(0.014, 3, 0.0, 1, 4, 150),
    "tables": Dial(0.0, 20, 0.7, 3, 24, 350),
}
# Of codes longer than SHORT the price that suits both readings depends on the set. Where held-out rows find by Hamming
# distance at least so many times what they find by signs, the price is that times the dial's; else it is too low.
SHORT, GAINS, DEAR = 64, ((1.03, 0.5), (1.01, 1.0)), 2.0
SIGNS = 150  # steps of learning the tables that score codes which are not refined


def fit_tables(codes: np.ndarray, rows: np.ndarray, ridge: float = RIDGE) -> ByteTables:
    """Tables of least squared error.

    Args:
        codes: (n, M) uint8.
        rows: (n, d) float32 unit vectors, what they should decode to.
        ridge: in rows.

    Raises:
        SdcError: fewer than `LEAST_ROWS` rows.
    """
    if len(rows) < LEAST_ROWS:
        raise SdcError(
            f"byte tables need at least {LEAST_ROWS} training rows, found {len(rows)}: train without --tables"
        )
    mean = rows.mean(axis=0)
    centred = rows - mean
    squares = [np.square(block, dtype=np.float64).sum(axis=1) for block in _blocks(centred)]
    variance = float(np.concatenate(squares).mean())
    return _with_lengths(ByteTables.on_grid(_least_squares(codes, centred, ridge), mean, variance), codes)


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    """Consecutive parts, so that what is computed of all rows takes no memory for all at once."""
    return np.array_split(rows, max(1, len(rows) // BLOCK))


def _least_squares(codes: np.ndarray, centred: np.ndarray, ridge: float) -> np.ndarray:
    from scipy.linalg import cho_factor, cho_solve

    count, bytes_ = codes.shape
    selects = _selection(codes)
    gram = (selects.T @ selects).toarray().astype(np.float64)
    signs = BYTE_SIGNS[codes].reshape(count, -1)
    penalty = 1e-4 * count * np.eye(signs.shape[1], dtype=np.float32)
    linear = np.linalg.solve(signs.T @ signs + penalty, signs.T @ centred)
    start = np.concatenate([BYTE_SIGNS @ linear[8 * byte : 8 * byte + 8] for byte in range(bytes_)])
    target = (selects.T @ centred).astype(np.float64) - gram @ start
    gram[np.diag_indices(len(gram))] += ridge
    vectors = start + cho_solve(cho_factor(gram, lower=True, overwrite_a=True), target)
    shaped: np.ndarray = vectors.reshape(bytes_, VALUES, -1).astype(np.float32)
    return shaped


def _selection(codes: np.ndarray) -> scipy.sparse.csr_matrix:
    """(n, 256 M) sparse, of ones: which value each byte of a code has."""
    from scipy.sparse import csr_matrix

    count, bytes_ = codes.shape
    columns = codes.astype(np.int32) + VALUES * np.arange(bytes_, dtype=np.int32)
    starts = np.arange(0, count * bytes_ + 1, bytes_, dtype=np.int32)
    return csr_matrix((np.ones(count * bytes_, np.float32), columns.ravel(), starts), shape=(count, VALUES * bytes_))


def _with_lengths(tables: ByteTables, codes: np.ndarray) -> ByteTables:
    """The tables with the range of the decoded vectors' lengths."""
    length = np.concatenate([np.linalg.norm(tables.decode(block), axis=1) for block in _blocks(codes)])
    shortest, longest = float(length.min()), float(length.max())
    return replace(tables, shortest=shortest, longest=max(longest, shortest + 1e-6))


def fit_encoder(
    rows: np.ndarray, outputs: np.ndarray, price: float, dial: Dial, seed: int
) -> tuple[ByteTables, np.ndarray]:
    """Tables to encode against, and the codes (n, M) that they give the rows, encoded afresh.

    Args:
        rows: (n, d) float32 unit vectors.
        outputs: (n, 8 M) of the head, in standard deviations.
        price: see `sdc.train.byte_tables`.
        dial: all else.
    """
    rng = np.random.default_rng(seed)
    codes = pack_signs(outputs)
    deviation = rows.std(axis=0) if dial.noise else np.float32(0)
    with Progress("refine", dial.turns + 2, "turns") as progress:
        for turn in range(dial.turns):
            level = np.float32(dial.noise * (1 - (turn + 1) / dial.turns) ** 0.5)
            noise = rng.standard_normal(rows.shape, dtype=np.float32) * (level * deviation) if level else None
            tables = fit_tables(codes, rows if noise is None else rows + noise)
            codes = tables.encode(rows, outputs, price, rounds=1, perturbations=dial.kicks, start=codes)
            progress.advance()
        for _ in range(2):
            tables = fit_tables(codes, rows)
            codes = tables.encode(rows, outputs, price, perturbations=dial.perturbations)
            progress.advance()
    return tables, codes


def learn_decoder(tables: ByteTables, rows: np.ndarray, codes: np.ndarray, steps: int, seed: int) -> ByteTables:
    """Tables that keep the rows' neighbours better than those of least squares, from which they start; codes fixed.

    Args:
        rows: (n, d) float32 unit vectors.
        codes: (n, M) uint8.
        steps: of the optimizer.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn

    from sdc.train.losses import neighbor_loss, teacher_temperature

    generator = torch.Generator().manual_seed(seed)
    count, bytes_ = codes.shape
    start = torch.from_numpy(tables.vectors.astype(np.float32) / np.float32(tables.scale)).flatten(0, 1)
    vectors = nn.Parameter(start.clone())
    log_scale = nn.Parameter(torch.tensor(np.log(STUDENT), dtype=torch.float32))
    rate = RATE * float(start.std())
    optimizer = torch.optim.Adam([{"params": [vectors], "lr": rate}, {"params": [log_scale], "lr": 1e-2}])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [rate, 1e-2], total_steps=steps, pct_start=0.1)
    places = torch.from_numpy(codes.astype(np.int64) + VALUES * np.arange(bytes_))
    temperature = teacher_temperature(torch.from_numpy(rows[:BANK]))
    all_rows, mean = torch.from_numpy(rows), torch.from_numpy(tables.mean)
    bank = min(BANK, count)
    anchors = min(ANCHORS, bank // 2)
    work = 6.0 * anchors * bank * rows.shape[1]  # of the similarities, forward and backward
    with threads_by_work(work), Progress("tables", steps, "steps") as progress:
        for _ in range(steps):
            chosen = torch.randperm(count, generator=generator)[:bank]
            batch = all_rows[chosen]
            decoded = F.embedding_bag(places[chosen], vectors, mode="sum") + mean
            similarities = batch[:anchors] @ F.normalize(decoded, dim=1).T / log_scale.exp()
            error = (decoded - batch).square().sum(1).mean() / tables.variance
            loss = neighbor_loss(batch, similarities, temperature) + FIDELITY * error
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            progress.advance(note=f"loss {float(loss.detach()):.4f}")
    learned = vectors.detach().numpy().reshape(tables.vectors.shape)
    return _with_lengths(ByteTables.on_grid(learned, tables.mean, tables.variance), codes)


def fit_code_tables(
    outputs_of: Callable[[np.ndarray], np.ndarray], features: np.ndarray, rows: np.ndarray, recipe: Recipe
) -> CodeTables | None:
    """The tables that a recipe asks for, fitted to the codes of a trained head; None where it asks for none.

    Args:
        outputs_of: the head, `Model.outputs`.
        features: (N, d) array or memory map.
        rows: (n,) row numbers to fit them to, a sample of which is taken.
        recipe: its `bits`, `search_by`, `price`, `tables` and `seed` count.
    """
    if not recipe.fits_tables:
        return None
    if len(rows) < LEAST_ROWS:
        log.warning(
            "%d training rows are too few for byte tables, which take %d: the codes are the head's signs, and a query "
            "in float cannot be compared with them", len(rows), LEAST_ROWS,
        )  # fmt: skip
        return None
    unit, outputs = _sample(outputs_of, recipe.bits, features, rows, recipe.seed)
    deviation = float(outputs.std()) or 1.0
    outputs /= np.float32(deviation)
    checked = HELD_OUT if len(unit) >= SPARE * HELD_OUT else 0
    fitted, margins = unit[checked:], outputs[checked:]
    held_out = _HeldOut(unit[:checked], outputs[:checked], fitted[:DATABASE]) if checked else None
    if recipe.search_by is None:
        codes = pack_signs(margins)
        tables = CodeTables(learn_decoder(fit_tables(codes, fitted), fitted, codes, SIGNS, recipe.seed))
    else:
        dial = DIALS[recipe.search_by]
        price = dial.price if recipe.price is None else recipe.price
        encoder, codes = fit_encoder(fitted, margins, price, dial, recipe.seed)
        if held_out and recipe.price is None and recipe.search_by == "both" and recipe.bits > SHORT:
            so_far = CodeTables(encoder, encoder, price, deviation, dial.perturbations)
            other = _other_price(held_out, so_far, codes[:DATABASE], margins[:DATABASE])
            if other != price:
                log.info("price %g in place of %g, by what held-out rows find by Hamming distance", other, price)
                price = other
                encoder, codes = fit_encoder(fitted, margins, price, dial, recipe.seed)
        decoder = learn_decoder(encoder, fitted, codes, dial.steps, recipe.seed)
        tables = CodeTables(decoder, encoder, price, deviation, dial.perturbations)
    if held_out:
        some = codes[:DATABASE]
        log.info(
            "held-out rows keep %.3f of their %d nearest among %d by Hamming distance, %.3f with the query in float",
            held_out.by_hamming(tables.encode(held_out.unit, held_out.outputs, query=True), some), NEIGHBORS, len(some),
            held_out.in_float(tables.decoder, some),
        )  # fmt: skip
    return tables


class _HeldOut:
    """Rows that no table is fitted to, and what they find among those that are."""

    def __init__(self, unit: np.ndarray, outputs: np.ndarray, database: np.ndarray) -> None:
        self.unit, self.outputs, self.database = unit, outputs, database
        self.near = np.argpartition(-(unit @ database.T), NEIGHBORS, axis=1)[:, :NEIGHBORS]

    def by_hamming(self, query_codes: np.ndarray, codes: np.ndarray) -> float:
        """The share of the nearest rows that the nearest codes of the database are."""
        signs, query_signs = (BYTE_SIGNS[some].reshape(len(some), -1) for some in (codes, query_codes))
        return self._kept(query_signs @ signs.T)

    def in_float(self, tables: ByteTables, codes: np.ndarray) -> float:
        """Likewise, by the cosine of the rows with what the codes decode to."""
        return self._kept(tables.scores(self.unit, codes, tables.lengths(codes)))

    def _kept(self, scores: np.ndarray) -> float:
        import torch

        from sdc.train.losses import expected_recall

        return expected_recall(torch.from_numpy(scores), torch.from_numpy(self.near))


def _other_price(held_out: _HeldOut, tables: CodeTables, codes: np.ndarray, margins: np.ndarray) -> float:
    """A better price for both readings of long codes, by whether held-out rows find more by Hamming than signs do."""
    refined = held_out.by_hamming(tables.encode(held_out.unit, held_out.outputs, query=True), codes)
    signs = held_out.by_hamming(pack_signs(held_out.outputs), pack_signs(margins))
    return tables.price * next((factor for least, factor in GAINS if refined >= least * signs), DEAR)


def _sample(
    outputs_of: Callable[[np.ndarray], np.ndarray], bits: int, features: np.ndarray, rows: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (n, d) float32 and outputs (n, K) of at most `SAMPLE` random rows, in random order."""
    rng = np.random.default_rng((seed, 3))
    drawn = np.sort(rng.choice(rows, min(SAMPLE, len(rows)), replace=False))
    order = rng.permutation(len(drawn))
    unit = np.empty((len(drawn), features.shape[1]), np.float32)
    outputs = np.empty((len(drawn), bits), np.float32)
    for part in np.array_split(np.arange(len(drawn)), max(1, len(drawn) // 8192)):
        block = features[drawn[part]].astype(np.float32, copy=False)
        unit[order[part]], outputs[order[part]] = directions(block), outputs_of(block)
    return unit, outputs
