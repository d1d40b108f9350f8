// An .egs file, or the part of one that a screen needs -> the arrays of an avatar.
//
// N Gaussians at rest (`cloud`), and K ways to move them all at once (`form`, `shine`), each a
// pattern of 8-bit counts times a step: what a Gaussian is before activation is its number at rest
// plus the sum of codes times patterns. Numbers in the order means 3, log-scales 3, quaternion 4
// (w, x, y, z), logit of opacity 1, first harmonic 3 (the 14 of `form`), further harmonics
// (`shine`, moved by few codes of their own, that follow from the others). Before: archive.js; after: renderer.js, sorter.js.

import { Archive } from "./archive.js";

const FORMAT = "egs-avatar", VERSION = 3;
export const FORM = 14;

/**
 * @typedef {object} Avatar
 * @property {number} width of the picture that it was trained for, pixels; likewise height
 * @property {number} height
 * @property {number[]} camera fx, fy, cx, cy in pixels
 * @property {number} count N, Gaussians
 * @property {number} codes K
 * @property {number} shineCodes k, of the further harmonics
 * @property {number} harmonics H of a Gaussian, the first one included: 1, 4, 9 or 16
 * @property {Float32Array} means [N, 3] head space
 * @property {Float32Array} logScales [N, 3]
 * @property {Float32Array} quats [N, 4]
 * @property {Float32Array} opacities [N] before the sigmoid
 * @property {Uint16Array} sh [N, H, 3] as bits of float16
 * @property {Float32Array} firstHarmonics [N, 3] the first of them as numbers
 * @property {Float32Array} skins [N] share of the body's frame
 * @property {Int8Array} formCounts [K, 14, N]
 * @property {Float32Array} formSteps [K, 14]
 * @property {Int8Array} shineCounts [shineCodes, 3 (H - 1), N]
 * @property {Float32Array} shineSteps [shineCodes, 3 (H - 1)]
 * @property {Float32Array} follows [K, k] codes -> those of the further harmonics
 * @property {Float32Array} ranges [2, K] least and greatest codes of its training
 * @property {Float32Array} limits [25] of viewing directions (poses.js)
 * @property {Uint8Array} plate [height, width, 3] the room without the person
 */

/**
 * @param {Uint8Array} bytes of the file
 * @returns {Promise<Avatar>}
 */
export async function openAvatar(bytes) {
  const archive = new Archive(bytes);
  const words = JSON.parse(new TextDecoder().decode(await archive.read("avatar.json")));
  if (words.format !== FORMAT || words.version !== VERSION) {
    throw new Error(`an avatar of format ${words.version}; this page reads ${VERSION}`);
  }
  const array = async (name) => numbers(await archive.read(name), words.arrays[name].dtype);
  const shape = (name) => words.arrays[name].shape;
  const intrinsics = await array("scene/intrinsics");
  const sh = await array("cloud/sh");
  const [count, harmonics] = shape("cloud/sh");
  const hasShine = harmonics > 1;
  return {
    width: words.scene.width,
    height: words.scene.height,
    camera: [intrinsics[0], intrinsics[4], intrinsics[2], intrinsics[5]],
    count,
    codes: shape("form/counts")[0],
    shineCodes: hasShine ? shape("shine/counts")[0] : 0,
    harmonics,
    means: await array("cloud/means"),
    logScales: floats(await array("cloud/log_scales")),
    quats: floats(await array("cloud/quats")),
    opacities: floats(await array("cloud/logit_opacities")),
    sh,
    firstHarmonics: floats(
      Uint16Array.from({ length: 3 * count }, (_, i) =>
        sh[Math.floor(i / 3) * 3 * harmonics + (i % 3)]),
    ),
    skins: floats(await array("skins")),
    formCounts: await array("form/counts"),
    formSteps: await array("form/steps"),
    shineCounts: hasShine ? await array("shine/counts") : new Int8Array(0),
    shineSteps: hasShine ? await array("shine/steps") : new Float32Array(0),
    follows: await array("follows"),
    ranges: await array("ranges"),
    limits: await array("scene/limits"),
    plate: await array("scene/plate"),
  };
}

/** Takes bytes as numbers of NumPy's type; float16 stay bits. */
function numbers(bytes, type) {
  const kinds = {
    "<f4": Float32Array, "<f8": Float64Array, "<f2": Uint16Array, "|i1": Int8Array,
    "|u1": Uint8Array,
  };
  if (!kinds[type]) throw new Error(`arrays of type ${type} are unknown`);
  return new kinds[type](bytes.buffer, 0, bytes.length / kinds[type].BYTES_PER_ELEMENT);
}

/** Bits of float16 -> numbers; numbers stay. */
function floats(values) {
  if (!(values instanceof Uint16Array)) return Float32Array.from(values);
  return Float32Array.from(values, (bits) => {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023, sign = bits >> 15 ? -1 : 1;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}
