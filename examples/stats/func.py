"""Mean, deviation and quartiles of some numbers: with numpy, which requirements.txt asks for."""

import numpy


def run(values):
    numbers = numpy.asarray(values, dtype=float)
    low, middle, high = numpy.percentile(numbers, [25, 50, 75]).tolist()
    return {
        "count": int(numbers.size),
        "mean": float(numbers.mean()),
        "deviation": float(numbers.std()),
        "quartiles": [low, middle, high],
    }
