"""Gaussians, networks, and the one forward pass.

gaussians  the canonical cloud: its arrays, its start, its activations
triplane   features of canonical positions: three planes, hashed or dense
kan        KAN layers with a Taylor basis, and the MLP that they replace
decoders   spatial features -> Gaussians, at rest and moved
tokens     a frame's speech, eyes, pose and lips as tokens
attention  ESAA: agents carry tokens to all Gaussians
rigid      rigid transforms of a batch's frames, by component
limits     seen poses: how far colors and tokens follow a head that turns
skinning   Gaussians between two rigid frames, head and body
forward    all of it on one page: means -> features -> moved Gaussians -> image
"""
