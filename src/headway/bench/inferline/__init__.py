"""InferLine's evaluation (Crankshaw et al., SoCC 2020) rebuilt in simulation: planners and tuners side by side.

`headway bench inferline` prints its figures; `python -m headway.bench.inferline` also keeps every result in a file and
writes the page `docs/reproductions/inferline.md` from it.
"""
