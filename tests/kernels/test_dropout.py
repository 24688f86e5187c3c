"""Dropout: Philox against its published vectors, masks against the oracle to the bit, and the look of a mask."""

from __future__ import annotations

import numpy as np
import oracles_elementwise as oracles
import pytest
from kernel_cases import THREADS, Array, Guarded, random_array, read_only

from cnet.kernels import _dispatch, dropout

# Elements of a work item in dropout.pyx; sizes beyond a few of them run on several threads.
CHUNK = 4096
ALL = 0xFFFFFFFF

# Random123's kat_vectors, philox 4x32 with 10 rounds: counter, key, words.
KNOWN_ANSWERS = [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([ALL, ALL, ALL, ALL], [ALL, ALL], [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


def flat_sizes() -> list[int]:
    lanes = _dispatch.tile()[0]
    return [1, lanes - 1, lanes, lanes + 1, 2 * lanes + 3, 63, 64, 65, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 7]


def kept(size: int, probability: float, seed: int = 1, call: int = 0, threads: int = 1) -> np.ndarray:
    y = np.empty(size, np.float32)
    dropout.dropout_forward(np.ones(size, np.float32), y, seed, call, probability, threads)
    return y != 0


@pytest.mark.parametrize("counter,key,words", KNOWN_ANSWERS)
def test_philox_gives_the_published_words(isa: str, counter: list[int], key: list[int], words: list[int]) -> None:
    assert list(dropout.philox(np.array(counter, np.uint32), np.array(key, np.uint32))) == words
    assert oracles.philox(np.array(counter), (key[0], key[1])).tolist() == words


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_dropout_matches_oracle(isa: str, probability: float) -> None:
    generator = np.random.default_rng(8)
    scale = np.float32(1 / (1 - probability) if probability < 1 else 0)
    for size in flat_sizes():
        x = read_only(random_array(generator, size), misaligned=True)
        seed, call = 0x123456789ABCDEF, size
        expected = np.where(oracles.dropout_kept(size, seed, call, probability), x * scale, 0)
        for kernel in (dropout.dropout_forward, dropout.dropout_backward):
            for threads in THREADS:
                y = Guarded(size)
                kernel(x, y.array, seed, call, probability, threads)
                y.check()
                np.testing.assert_array_equal(y.array, expected)
    if probability == 0:
        np.testing.assert_array_equal(expected, x)


@pytest.mark.parametrize("seed,call", [(0, 0), (2**64 - 1, 2**64 - 1), (2**32, 1), (1, 2**32), (2**32 - 1, 2**63)])
def test_dropout_uses_all_bits_of_seed_and_call(isa: str, seed: int, call: int) -> None:
    for size in (200, CHUNK + 65):
        np.testing.assert_array_equal(kept(size, 0.5, seed, call), oracles.dropout_kept(size, seed, call, 0.5))


def test_dropout_keeps_a_word_at_the_threshold(isa: str) -> None:
    """A probability of exactly word / 2^32 drops the words below it and keeps that one; one unit more drops it."""
    word = int(oracles.philox(np.zeros(4, np.uint64), (1, 0))[0])
    assert kept(1, word / 2**32).all()
    assert not kept(1, (word + 1) / 2**32).any()


@pytest.mark.parametrize("probability", [0.01, 0.3, 0.5, 0.99])
def test_dropout_drops_the_given_share(isa: str, probability: float) -> None:
    """Within five standard deviations, overall and in every residue of the position: lane, word, block."""
    size = 1 << 18
    dropped = ~kept(size, probability)
    deviation = np.sqrt(probability * (1 - probability))
    assert abs(dropped.mean() - probability) < 5 * deviation / size**0.5
    for period in (16, 64):
        shares = dropped.reshape(-1, period).mean(axis=0)
        assert (np.abs(shares - probability) < 5 * deviation / (size / period) ** 0.5).all()


def test_dropout_masks_are_unrelated(isa: str) -> None:
    """Neighbours, calls and seeds agree as often as coins do."""
    size = 1 << 18
    mask = kept(size, 0.5)
    pairs = [(mask[:-k], mask[k:]) for k in (1, 4, 16, 64, CHUNK)]
    pairs += [(mask, kept(size, 0.5, 1, 1)), (mask, kept(size, 0.5, 2, 0)), (mask, kept(size, 0.5, 1 + 2**32, 0))]
    for a, b in pairs:
        assert abs((a == b).mean() - 0.5) < 5 * 0.5 / size**0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_dropout_gives_zero_for_what_it_drops_whatever_it_was(isa: str, bad: float) -> None:
    x: Array = np.full(1000, bad, np.float32)
    y = np.empty_like(x)
    dropout.dropout_forward(x, y, 1, 0, 0.5, 1)
    mask = oracles.dropout_kept(1000, 1, 0, 0.5)
    np.testing.assert_array_equal(y, np.where(mask, x, 0))


def test_dropout_of_nothing_does_nothing(isa: str) -> None:
    none = np.empty(0, np.float32)
    dropout.dropout_forward(none, none, 1, 0, 0.5, 2)
    dropout.dropout_backward(none, none, 1, 0, 0.5, 2)
