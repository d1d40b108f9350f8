"""Gaussians between head and body: both ends, the way between them, and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator
from scipy.spatial.transform import Rotation
from scipy.special import expit

from egs_jax.model import skinning
from egs_jax.model.limits import Limits
from egs_jax.types import Drive
from kernels import rasterize
from kernels.deform import Deformed

N, B, SIZE = 30, 3, 32
HEAD, BODY = 0.0, 1.0


def poses(rotvecs, translations):
    """Rigid transforms [B, 4, 4]; rotation vectors in degrees."""
    made = np.tile(np.eye(4), (len(rotvecs), 1, 1))
    made[:, :3, :3] = Rotation.from_rotvec(rotvecs, degrees=True).as_matrix()
    made[:, :3, 3] = translations
    return np.float32(made)


posed = jax.jit(skinning.posed)
VIEWMATS = poses([[0, 0, 0], [4, 12, -3], [-9, -20, 5]], [[0, 0, 4], [0.1, 0, 4], [0, 0.2, 3.8]])
BODIES = poses([[0, 0, 0], [1, 3, 0], [0, -5, 2]], [[0, 0, 4], [0, 0, 4.1], [0.1, 0, 4]])


def cloud_of(frames=None):
    """A random cloud in front of the camera; `frames`: one for each."""
    rng = np.random.default_rng(0)
    lead = () if frames is None else (frames,)
    draw = lambda *shape: np.float32(rng.normal(size=(*lead, N, *shape)))
    return Deformed(
        0.5 * draw(3), draw(4), 0.15 * np.exp(0.3 * draw(3)),
        0.2 + 0.6 / (1 + np.exp(-draw())), 0.4 * draw(1, 3),
    )  # fmt: skip


def drive_of(viewmats=VIEWMATS, bodies=BODIES):
    count = len(viewmats)
    K = np.float32([[60, 0, SIZE / 2], [0, 60, SIZE / 2], [0, 0, 1]])
    return Drive(
        audio_windows=np.zeros((count, 8, 16, 1), np.float32), eyes=np.zeros(count, np.float32),
        viewmats=viewmats, Ks=np.stack([K] * count), bodies=bodies,
        backgrounds=np.zeros((count, SIZE, SIZE, 3), np.uint8),
    )  # fmt: skip


def draw(cloud, viewmats, Ks):
    out = rasterize(*cloud, viewmats, Ks, SIZE, SIZE, sh_degree=0, implementation="xla")
    return out.rgb, out.alpha


def drawn(*arguments):
    return jax.tree.map(np.asarray, draw(*arguments))


@pytest.mark.parametrize("frames", [None, B])
def test_without_weight_every_bit_stays(frames):
    cloud, drive = cloud_of(frames), drive_of()

    @jax.jit
    def place(cloud, skins, drive):
        placed, viewmats = skinning.placed(cloud, skins, drive)
        for name in ("scales", "opacities", "sh"):  # do not move, and stay as few
            assert getattr(placed, name) is getattr(cloud, name)
        return placed, viewmats

    placed, viewmats = place(cloud, np.full(N, HEAD, np.float32), drive)
    np.testing.assert_array_equal(viewmats, drive.viewmats)
    for name in ("means", "quats"):
        value = getattr(cloud, name)
        np.testing.assert_array_equal(
            getattr(placed, name), np.broadcast_to(value, (B, N, value.shape[-1]))
        )


def test_a_head_is_passed_on():
    cloud, drive = cloud_of(), drive_of()
    placed, viewmats = skinning.placed(cloud, None, drive)
    assert placed is cloud and viewmats is drive.viewmats


def test_a_drive_without_bodies_moves_all_with_the_head():
    cloud, drive = cloud_of(), drive_of(bodies=None)
    placed, _ = jax.jit(skinning.placed)(cloud, np.linspace(0, 1, N, dtype=np.float32), drive)
    np.testing.assert_array_equal(placed.means, np.stack([cloud.means] * B))
    np.testing.assert_allclose(placed.quats, np.stack([cloud.quats] * B), rtol=1e-6)


def test_with_all_weight_the_cloud_is_seen_by_the_bodys_camera():
    """Colors that do not depend on the direction: directions are told in head space."""
    cloud, drive = cloud_of(), drive_of()
    placed, viewmats = jax.jit(skinning.placed)(cloud, np.full(N, BODY, np.float32), drive)
    frames = {name: np.stack([getattr(cloud, name)] * B) for name in ("means", "quats")}
    cloud = cloud._replace(**frames)  # shaped as what was placed: one program draws both
    want = drawn(cloud, drive.bodies, drive.Ks)
    for mine, theirs in zip(drawn(placed, viewmats, drive.Ks), want, strict=True):
        assert np.ptp(theirs) > 0.2
        np.testing.assert_allclose(mine, theirs, atol=1e-4)
    still = drawn(cloud, drive.viewmats, drive.Ks)[1]
    assert np.abs(still[1:] - want[1][1:]).max() > 0.1


def test_half_way_the_center_is_the_middle_and_the_turn_half():
    cloud = cloud_of()
    heads, bodies = poses([[0, 0, 0]], [[0, 0, 0]]), poses([[0, 0, 40]], [[0.2, 0, 0]])
    placed = jax.tree.map(np.asarray, posed(cloud, np.full(N, 0.5, np.float32), heads, bodies))
    middle = 0.5 * (cloud.means + cloud.means @ bodies[0, :3, :3].T + bodies[:1, :3, 3])
    np.testing.assert_allclose(placed.means[0], middle, atol=1e-6)
    xyzw = lambda quats: Rotation.from_quat(np.asarray(quats)[:, [1, 2, 3, 0]])
    turned = xyzw(placed.quats[0]) * xyzw(cloud.quats).inv()
    np.testing.assert_allclose(turned.as_rotvec(degrees=True), [[0, 0, 20]] * N, atol=1e-3)


def test_turns_to_either_side_of_half_a_turn_are_blended_the_short_way():
    heads, bodies = poses([[0, 0, 170]], [[0, 0, 0]]), poses([[0, 0, 190]], [[0, 0, 0]])
    quats = np.asarray(posed(cloud_of(), np.full(N, 0.5, np.float32), heads, bodies).quats)
    lengths = np.linalg.norm(quats[0], axis=1) / np.linalg.norm(cloud_of().quats, axis=1)
    np.testing.assert_allclose(lengths, np.cos(np.radians(5)), atol=1e-5)


def test_frames_lead_to_the_poses_of_head_and_body():
    """With a world that is turned for its colors too."""
    far = poses([[0, 60, 0], [30, -50, 0], [0, 0, 0]], [[0, 0, 4]] * 3)
    frames = jax.jit(skinning.frames_of)(drive_of(far), Limits.of(VIEWMATS))
    heads, bodies, viewmats = map(np.asarray, frames)
    assert np.abs(heads[:2] - np.eye(4)[None]).max() > 0.1
    np.testing.assert_allclose(viewmats @ heads, far, atol=2e-6)
    np.testing.assert_allclose(viewmats @ bodies, BODIES, atol=2e-6)


@functools.cache
def picture_loss():
    """Loss of a picture against `target` and its gradients, jitted; the cloud, and pictures."""
    cloud, drive = jax.tree.map(np.float64, (cloud_of(), drive_of().replace(backgrounds=None)))

    def picture(skins, means):
        weights = jax.nn.sigmoid(skins)
        placed, viewmats = skinning.placed(cloud._replace(means=means), weights, drive)
        return jnp.concatenate([v.reshape(-1) for v in draw(placed, viewmats, drive.Ks)])

    loss = lambda skins, means, target: jnp.mean(jnp.square(picture(skins, means) - target))
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))), cloud, jax.jit(picture)


@pytest.mark.slow
def test_gradients_of_a_picture_are_finite_differences():
    """In float64: of weights and centers, where head and body differ."""
    with jax.enable_x64(True):
        loss, cloud, _ = picture_loss()
        rng = np.random.default_rng(1)
        point = (rng.normal(size=N), cloud.means)
        target = np.full(B * SIZE * SIZE * 4, 0.3)
        gradients = loss(*point, target)[1]
        for k in range(2):
            way = [np.zeros_like(value) for value in point]
            way[k] = rng.normal(size=point[k].shape)
            at = lambda step, way=way: float(
                loss(*(p + step * w for p, w in zip(point, way, strict=True)), target)[0]
            )
            slope = (at(1e-6) - at(-1e-6)) / 2e-6
            assert float(np.vdot(gradients[k], way[k])) == pytest.approx(slope, rel=1e-5)
            assert abs(slope) > 1e-4


@pytest.mark.slow
def test_pictures_tell_what_moves_with_the_body():
    with jax.enable_x64(True):
        loss, cloud, picture = picture_loss()
        true = np.where(np.arange(N) % 2, 4.0, -4.0)
        target, skins = picture(jnp.asarray(true), cloud.means), jnp.zeros(N)
        first = loss(skins, cloud.means, target)[0]
        mean = spread = 0.0
        for step in range(1, 61):
            last, (slope, _) = loss(skins, cloud.means, target)
            mean, spread = 0.9 * mean + 0.1 * slope, 0.99 * spread + 0.01 * slope**2
            root = jnp.sqrt(spread / (1 - 0.99**step))
            skins = skins - 0.2 * mean / (1 - 0.9**step) / (root + 1e-12)
        assert last < 0.05 * first
        assert np.mean(np.sign(skins) == np.sign(true)) > 0.85


def test_weights_are_linear_between_the_nodes():
    """In a box of 8 nodes, and beyond the grid as at its side."""
    rng = np.random.default_rng(2)
    grid = (rng.normal(size=(skinning.NODES,) * 3) / skinning.GAIN).astype(np.float32)
    places = rng.uniform(-1.2, 1.2, (40, 3)).astype(np.float32) * skinning.REACH
    along = np.linspace(-skinning.REACH, skinning.REACH, skinning.NODES)
    want = RegularGridInterpolator((along,) * 3, expit(skinning.GAIN * grid))(
        np.clip(places.astype(float), -skinning.REACH, skinning.REACH)
    )
    field = functools.partial(skinning.SkinField().apply, {"params": {"grid": grid}})
    np.testing.assert_allclose(field(places), want, atol=1e-5)
    assert np.abs(places).max() > skinning.REACH
    pull = jax.grad(lambda places: jnp.sum(field(places)))(places)
    np.testing.assert_array_equal(pull, 0)  # Gaussians do not move to change their weight


def test_weights_start_with_a_ramp_along_the_neck_and_stay_out_of_the_head():
    shape = np.zeros((478, 3), np.float32)
    shape[skinning.BROW_TOP, 1], shape[skinning.CHIN, 1] = -1.4, 0.6  # +y is down
    shape[skinning.EARS, 1] = -0.1
    grid = skinning.initial_skins(shape)["grid"]
    assert grid.dtype == np.float32
    np.testing.assert_array_equal(grid, np.broadcast_to(grid[:1, :, :1], grid.shape))
    along = np.linspace(-skinning.REACH, skinning.REACH, skinning.NODES)  # 0.2 apart
    logits = skinning.GAIN * grid[0, :, 0]
    ramp = np.interp(along, [0.6, 0.6 + 0.7 / 2, 0.6 + 0.7], [-4, 0, 4])
    inside = (along > 0.7) & (along < 1.2)
    np.testing.assert_allclose(logits[inside], ramp[inside], atol=1.0)
    np.testing.assert_allclose(logits[(along > -0.1) & (along < 0.7)], -4, atol=1e-4)
    np.testing.assert_allclose(logits[along > 1.35], 4, atol=1e-4)
    pull = jax.grad(lambda grid: jnp.sum(skinning._node_weights(grid)))(grid)
    head = along < -0.1
    np.testing.assert_array_equal(pull[:, head], 0)
    assert np.all(pull[:, ~head] > 0)
    flat = skinning.initial_skins(np.zeros_like(shape))["grid"][0, along >= 0, 0]
    np.testing.assert_allclose(np.abs(flat) * skinning.GAIN, 4, atol=1e-4)


def test_roughness_draws_a_node_to_its_neighbors():
    grid = np.zeros((skinning.NODES,) * 3, np.float32)
    assert skinning.roughness(grid) == 0
    grid[3, 4, 5] = 1 / skinning.GAIN
    step = expit(1.0) - 0.5
    pairs = skinning.NODES**2 * (skinning.NODES - 1)
    value, pull = jax.value_and_grad(skinning.roughness)(grid)
    assert float(value) == pytest.approx(2 * step**2 / pairs, rel=1e-4)
    assert pull[3, 4, 5] > 0 > pull[4, 4, 5] and pull[8, 8, 8] == 0
