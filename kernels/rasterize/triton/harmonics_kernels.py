"""Real spherical harmonics of degree 0 to 3 for Triton kernels: the polynomials of `harmonics`."""

import triton
import triton.language as tl

from kernels.rasterize.xla.harmonics import BASIS

# Factors of the basis, named by degree and |order|.
Y00 = tl.constexpr(BASIS[0][""])
Y11 = tl.constexpr(BASIS[2]["z"])
Y21 = tl.constexpr(BASIS[4]["xy"])
Y20 = tl.constexpr(BASIS[6]["zz"] / 2)
Y22 = tl.constexpr(BASIS[8]["xx"])
Y33 = tl.constexpr(BASIS[9]["yyy"])
Y32 = tl.constexpr(BASIS[10]["xyz"])
Y31 = tl.constexpr(BASIS[11]["yyy"])
Y30 = tl.constexpr(BASIS[12]["zzz"] / 2)
Y34 = tl.constexpr(BASIS[14]["xxz"])  # order 2, the even one


# Tensors come first in every product: Triton's interpreter makes constants of the other order.


@triton.jit
def basis_of(direction, DEGREE: tl.constexpr):
    """Basis functions of `harmonics.BASIS`."""
    x, y, z = direction
    basis = (tl.zeros_like(x) + Y00,)
    if DEGREE >= 1:
        basis = basis + (y * -Y11, z * Y11, x * -Y11)
    if DEGREE >= 2:
        xx, yy, zz = x * x, y * y, z * z
        basis = basis + (
            x * y * Y21, y * z * -Y21, (2.0 * zz - xx - yy) * Y20, x * z * -Y21, (xx - yy) * Y22
        )  # fmt: skip
    if DEGREE >= 3:
        basis = basis + (
            y * -Y33 * (3.0 * xx - yy), x * y * Y32 * z, y * -Y31 * (4.0 * zz - xx - yy),
            z * Y30 * (2.0 * zz - 3.0 * xx - 3.0 * yy), x * -Y31 * (4.0 * zz - xx - yy),
            z * Y34 * (xx - yy), x * -Y33 * (xx - 3.0 * yy),
        )  # fmt: skip
    return basis


@triton.jit
def basis_adjoint(direction, t, DEGREE: tl.constexpr):
    """Gradient of sum_k t_k basis_k in the direction's components, as if these were independent."""
    x, y, z = direction
    gx, gy, gz = t[3] * -Y11, t[1] * -Y11, t[2] * Y11
    if DEGREE >= 2:
        t4, t5, t7 = t[4] * Y21, t[5] * Y21, t[7] * Y21
        t6, t8 = t[6] * (2.0 * Y20), t[8] * (2.0 * Y22)
        gx += t4 * y - t7 * z + (t8 - t6) * x
        gy += t4 * x - t5 * z - (t8 + t6) * y
        gz += 2.0 * t6 * z - t5 * y - t7 * x
    if DEGREE >= 3:
        xx, yy, zz = x * x, y * y, z * z
        xy, xz, yz = x * y, x * z, y * z
        t9, t10, t11, t12 = t[9] * Y33, t[10] * Y32, t[11] * Y31, t[12] * Y30
        t13, t14, t15 = t[13] * Y31, t[14] * Y34, t[15] * Y33
        edge = 3.0 * (xx - yy)
        gx += t10 * yz - 6.0 * t9 * xy + 2.0 * t11 * xy - 6.0 * t12 * xz + 2.0 * t14 * xz
        gx -= t13 * (4.0 * zz - 3.0 * xx - yy) + t15 * edge
        gy += t10 * xz - t9 * edge - 6.0 * t12 * yz + 2.0 * t13 * xy - 2.0 * t14 * yz
        gy += 6.0 * t15 * xy - t11 * (4.0 * zz - xx - 3.0 * yy)
        gz += t10 * xy - 8.0 * t11 * yz + 3.0 * t12 * (2.0 * zz - xx - yy) - 8.0 * t13 * xz
        gz += t14 * (xx - yy)
    return gx, gy, gz


@triton.jit
def color_of(basis, coefficients, CHANNELS: tl.constexpr):
    """Colors before they are clamped; coefficient of basis k and channel d at k CHANNELS + d."""
    color = ()
    for d in tl.static_range(CHANNELS):
        value = coefficients[d] * basis[0] + 0.5
        for k in tl.static_range(1, len(basis)):
            value += coefficients[k * CHANNELS + d] * basis[k]
        color = color + (value,)
    return color
