"""The heads alone, in plain JAX: those that `deform` has, and the trained modules' own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fill

from egs_jax.model.decoders import DeformationDecoder, DeltaGains, head_weights
from kernels.deform import decode_heads
from kernels.deform.cases import make_case, pack

GAINS = DeltaGains(means=0.5, log_scales=2.0, quats=0.1, logit_opacities=3.0, sh_coeffs=0.2)


@pytest.mark.parametrize(
    ("network", "as_original"), [("kan", False), ("mlp", False), ("mlp", True)]
)
def test_packed_heads_say_what_the_module_says(network, as_original):
    decoder = DeformationDecoder(network, width=16, gains=GAINS, as_original=as_original)
    x = jnp.asarray(np.float32(np.random.default_rng(0).normal(size=(2, 5, 16))))
    params = fill(decoder, x)["params"]
    want = jax.jit(decoder.apply)({"params": params}, x)

    pack_and_decode = lambda x, p: decode_heads(
        x, head_weights(decoder, p["heads"]), implementation="xla"
    )
    geometry, color = jax.jit(pack_and_decode)(x, params)
    columns = dict(means=slice(3), log_scales=slice(3, 6), quats=slice(6, 10),
                   logit_opacities=slice(10, 11))  # fmt: skip
    for name, value in want.items():
        got = geometry[..., columns[name]] if name in columns else color[..., :48]
        said = getattr(GAINS, name) * value
        np.testing.assert_allclose(got, said, rtol=2e-5, atol=2e-5, err_msg=name)


def test_what_makes_no_sense_is_refused():
    case = make_case("taylor", d=16)
    weights = pack(case).heads
    with pytest.raises(ValueError, match="expected them for 8 features, got 16"):
        decode_heads(jnp.zeros((3, 8)), weights)
    with pytest.raises(ValueError, match="implementation: expected None, 'xla' or 'triton'"):
        decode_heads(jnp.zeros((3, 16)), weights, implementation="cuda")
