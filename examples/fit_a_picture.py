"""Fit Gaussians to a picture: `kernels.rasterize` alone, and optax.

    python examples/fit_a_picture.py                  # a picture that it paints itself
    python examples/fit_a_picture.py photo.jpg --gaussians 3000 --size 256 --out photo.png

Writes what is drawn before and after, beside the picture; by default in 15 s on two cores.
"""

import argparse

import imageio.v3 as imageio
import jax
import jax.numpy as jnp
import numpy as np
import optax

from kernels import rasterize


def painted(size):
    """Paint the sun over a sea, [size, size, 3] in [0,1]."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j][..., None]
    sky = np.where(x**2 + y**2 < 0.2, [1, 0.85, 0.4], [0.7, 0.45, 0.5] + y * [0.6, 0.25, 0])
    waves = np.sin(50 * np.sqrt(np.maximum(y - 0.15, 0)) + 3 * np.sin(4 * x))
    return np.where(y > 0.25, [0.15, 0.3, 0.45] + 0.1 * waves, sky).clip(0, 1)


def random_cloud(key, count):
    """Scatter round gray Gaussians before the camera, in arrays of which any number makes sense."""
    at = jax.random.uniform(key, (count, 3), minval=-1.0, maxval=1.0)
    return {
        "means": jnp.stack([at[:, 0], at[:, 1], 2 + 0.2 * at[:, 2]], axis=-1),
        "quats": jnp.ones((count, 4)),
        "log_scales": jnp.full((count, 3), -0.5 * np.log(count)),
        "logits": jnp.zeros((count, 4)),  # of opacity, red, green, blue
    }


def draw(cloud, height, width):
    """Draw a cloud over white, [height, width, 3], by a camera that sees 2 x 2 units of it."""
    focal, paint = max(height, width), jax.nn.sigmoid(cloud["logits"])
    K = [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]
    return rasterize(
        cloud["means"], cloud["quats"], jnp.exp(cloud["log_scales"]), paint[:, 0], paint[:, 1:],
        np.eye(4), K, width, height, backgrounds=np.ones(3),
    ).rgb  # fmt: skip


def main(argv=None):
    """Move, turn, stretch and color a cloud until it shows the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", help="any picture (default: one painted here)")
    parser.add_argument("--gaussians", type=int, default=1000, metavar="N")
    parser.add_argument("--size", type=int, default=128, help="pixels of the longer side")
    parser.add_argument("--out", default="fitted.png", help="(fitted.png)")
    parser.add_argument("--tiny", action="store_true", help="a few steps, to see that it works")
    args = parser.parse_args(argv)
    size, steps = (48, 60) if args.tiny else (args.size, 600)
    target = imageio.imread(args.picture, mode="RGB") / 255 if args.picture else painted(size)
    height, width = (round(size * side / max(target.shape)) for side in target.shape[:2])
    target = jax.image.resize(jnp.asarray(target, "float32"), (height, width, 3), "linear")
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, steps))

    @jax.jit
    def step(cloud, moments):
        error = lambda cloud: jnp.abs(draw(cloud, height, width) - target).mean()
        updates, moments = optimizer.update(jax.grad(error)(cloud), moments)
        return optax.apply_updates(cloud, updates), moments

    start = cloud = random_cloud(jax.random.key(0), args.gaussians)
    moments = optimizer.init(cloud)
    for _ in range(steps):
        cloud, moments = step(cloud, moments)
    pictures = [draw(start, height, width), draw(cloud, height, width), target]
    imageio.imwrite(args.out, np.uint8(255 * np.clip(np.concatenate(pictures, axis=1), 0, 1)))
    print(f"{args.out}: {-10 * np.log10(np.mean((pictures[1] - target) ** 2)):.1f} dB")


if __name__ == "__main__":
    main()
