"""The Triton kernels of the calibration loss, for CUDA devices.

`gram` (similarities, tile by tile) → `row_sort` (ranks, loss, slopes) → `backward`, and `halves` for the
paper's pairing; `network` sorts. `config` chooses tiles and warps, `launch` binds them to kernels, `ops` makes
operators of PyTorch of it all (`calibration_rows`, `calibration_halves`), `model` predicts their time.
"""
