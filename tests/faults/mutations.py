"""Damage as disks, lines and editors do it, from a generator with a seed."""

import numpy as np


def flip(content, generator):
    content = bytearray(content)
    for bit in generator.integers(8 * len(content), size=generator.integers(1, 4)):
        content[bit // 8] ^= 1 << int(bit % 8)
    return bytes(content)


def cut(content, generator):
    return content[: generator.integers(len(content))]


def zero_block(content, generator):
    start, size = generator.integers(len(content)), int(generator.choice([16, 512, 4096]))
    return content[:start] + bytes(len(content[start : start + size])) + content[start + size :]


def overwrite(content, generator):
    start, piece = generator.integers(len(content)), generator.bytes(int(generator.integers(1, 64)))
    return (content[:start] + piece + content[start + len(piece) :])[: len(content)]


def drop(content, generator):
    start, size = generator.integers(len(content)), int(generator.integers(1, 300))
    return content[:start] + content[start + size :]


def repeat(content, generator):
    start, size = generator.integers(len(content)), int(generator.integers(1, 300))
    return content[: start + size] + content[start:]


def swap(content, generator):
    a, b = sorted(generator.integers(len(content), size=2))
    size = min(64, b - a)
    return content[:a] + content[b : b + size] + content[a + size : b] + content[a : a + size] + content[b + size :]


def extend(content, generator):
    return content + generator.bytes(int(generator.integers(1, 5000)))


def other_number(content, generator):
    """Another number where one is written in digits, as in headers, lists and settings."""
    digits = [i for i, byte in enumerate(content) if 48 <= byte <= 57] or [0]
    at = int(generator.choice(digits))
    number = generator.choice([b"-1", b"0", b"1e400", b"NaN", b"99999999999999999999", b"0.5", b"", b"'"])
    return content[:at] + bytes(number) + content[at + 1 :]


ALL = (flip, cut, zero_block, overwrite, drop, repeat, swap, extend, other_number)


def mutated(content, number):
    """Mutation `number` of `content`, and its name."""
    mutation = ALL[number % len(ALL)]
    return mutation(content, np.random.default_rng([number, 20])), mutation.__name__
